//! The rules about paths: the answer to each address, one line per case.

use redirect::redirect::Verdict::{Beta, Current, NoData};
use redirect::redirect::{Paths, Preview, Redirect, Signals, Verdict, Visit};

/// The answer as `status location` and the cookies that it sets, or `pass-through`.
fn answer(paths: [&str; 2], method: &str, address: &str, signals: Signals, verdict: Verdict) -> String {
    let (uri, query) = address.split_once('?').unwrap_or((address, ""));
    let paths = Paths::new(paths[0], paths[1]);
    match Visit::new(&paths, Some(method), Some(uri), Some(query), signals).answer(verdict) {
        None => "pass-through".to_owned(),
        Some(Redirect { status, location, cookies }) => {
            let cookies = cookies.iter().map(|cookie| format!(" {cookie:?}")).collect::<Vec<_>>().concat();
            format!("{status} {location}{cookies}")
        }
    }
}

#[track_caller]
fn check(method: &str, address: &str, verdict: Verdict, expected: &str) {
    let answer = answer(["/site", "/site/beta"], method, address, Signals::default(), verdict);
    assert_eq!(answer, expected, "{method} {address} for {verdict:?}");
}

#[track_caller]
fn check_root(method: &str, address: &str, verdict: Verdict, expected: &str) {
    let answer = answer(["/", "/beta"], method, address, Signals::default(), verdict);
    assert_eq!(answer, expected, "{method} {address} for {verdict:?}");
}

#[track_caller]
fn check_signals(current: &str, address: &str, signals: Signals, verdict: Verdict, expected: &str) {
    let beta = format!("{}/beta", current.trim_end_matches('/'));
    let answer = answer([current, &beta], "GET", address, signals, verdict);
    assert_eq!(answer, expected, "{address} for {verdict:?}, {signals:?}");
}

#[test]
fn the_verdict_chooses_the_site_and_the_path_is_kept() {
    check("GET", "/", Current, "302 /site/index.html");
    check("GET", "/", Beta, "302 /site/beta/index.html");
    check("GET", "/", NoData, "302 /site/index.html");
    check("GET", "/a/b.html?c=d&e", Beta, "302 /site/beta/a/b.html?c=d&e");
    check("GET", "/a/b/", Current, "302 /site/a/b/index.html");
    check("GET", "/a/b/?q", Beta, "302 /site/beta/a/b/index.html?q");
    check("GET", "/a?b?c", Current, "302 /site/a?b?c");
    check("GET", "", Current, "302 /site/index.html");
    check("GET", "a", Current, "302 /site/a");
}

#[test]
fn only_get_and_head_get_a_302() {
    check("HEAD", "/a", Current, "302 /site/a");
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get", ""] {
        check(method, "/a", Beta, "307 /site/beta/a");
    }
}

#[test]
fn a_page_of_the_current_site_is_never_redirected_to_beta() {
    for verdict in [Current, Beta, NoData] {
        check("GET", "/site", verdict, "302 /site/index.html");
        check("GET", "/site/?q", verdict, "302 /site/index.html?q");
        for address in ["/site/index.html", "/site/a/b", "/site/a/", "/site/betamax", "/site/beta.html", "/site//"] {
            check("GET", address, verdict, "pass-through");
        }
    }
}

#[test]
fn a_page_of_beta_is_decided_again() {
    for address in ["/site/beta", "/site/beta/"] {
        check("GET", address, Beta, "302 /site/beta/index.html");
        check("GET", address, Current, "302 /site/index.html");
        check("GET", address, NoData, "302 /site/index.html");
    }
    check("GET", "/site/beta/index.html", Beta, "pass-through");
    check("GET", "/site/beta/index.html", NoData, "pass-through");
    check("GET", "/site/beta/index.html?q", Current, "302 /site/index.html?q");
    check("GET", "/site/beta/a/b", Current, "302 /site/a/b");
    check("POST", "/site/beta/a/b", Current, "307 /site/a/b");
    check("GET", "/site/beta/a/", Current, "302 /site/a/index.html");
    check("GET", "/site/beta/a/", Beta, "302 /site/beta/a/index.html");
}

#[test]
fn a_redirect_to_the_current_site_never_ends_on_beta() {
    check("GET", "/site/beta/beta/a", Current, "302 /site/a");
    check("GET", "/beta/beta/a?q", NoData, "302 /site/a?q");
    check("GET", "/beta", Current, "302 /site/index.html");
    check("GET", "/betamax", Current, "302 /site/betamax");
    check("GET", "/beta/a", Beta, "302 /site/beta/beta/a");
}

#[test]
fn assets_of_beta_are_served_to_everyone() {
    for address in ["/site/beta/logo.svg", "/site/beta/a/style.css?v=2", "/site/beta/x.HTML.js"] {
        check("GET", address, Current, "pass-through");
    }
    check("GET", "/site/beta/A.HTM", Current, "302 /site/A.HTM");
}

#[test]
fn a_prefix_matches_whole_segments() {
    check("GET", "/sitemap.xml", Current, "302 /site/sitemap.xml");
    check("GET", "/site-map", Current, "302 /site/site-map");
    check("GET", "/Site/a", Current, "302 /site/Site/a");
    check("GET", "//site/a", Current, "302 /site//site/a");
}

#[test]
fn dot_segments_and_backslashes_are_resolved_first() {
    check("GET", "/../../etc/passwd", Beta, "302 /site/beta/etc/passwd");
    check("GET", "/%2e%2E/%2e./a", Current, "302 /site/a");
    check("GET", r"/a\..\b", Current, "302 /site/b");
    check("GET", "/a%5c..%5Cb", Current, "302 /site/b");
    check("GET", "/a/./b/.", Current, "302 /site/a/b/index.html");
    check("GET", "/a/..", Current, "302 /site/index.html");
    check("GET", "/site/../x", Current, "302 /site/x");
    check("GET", "/x/../site/a", Beta, "pass-through");
    check("GET", "/site/beta/../../x", Beta, "302 /site/beta/x");
    check("GET", "/site/%62eta/a", Current, "302 /site/a");
    check("GET", "/site/beta%2Findex.html", Current, "302 /site/index.html");
    check("GET", "/beta%2findex.html", Current, "302 /site/index.html");
    check("GET", "/a%2f..%2fb", Current, "302 /site/b");
    check("GET", "/%%32%65%%32%65/a", Current, "302 /site/%252e%252e/a");
}

#[test]
fn nothing_leaves_the_host_or_the_header() {
    check("GET", "//evil.example/a", Current, "302 /site//evil.example/a");
    check("GET", r"/\evil.example", Current, "302 /site//evil.example");
    check("GET", "https://evil.example/", Current, "302 /site/https://evil.example/index.html");
    check("GET", "/a\r\nSet-Cookie: b=c", Current, "302 /site/a%0D%0ASet-Cookie:%20b=c");
    check("GET", "/a?b\r\nX: y#z", Current, "302 /site/a?b%0D%0AX:%20y%23z");
    check("GET", "/ä/\u{1F980}", Current, "302 /site/%C3%A4/%F0%9F%A6%80");
    check("GET", "/a#b", Current, "302 /site/a%23b");
    check("GET", "/100%", Current, "302 /site/100%25");
    check("GET", "/%zz%4", Current, "302 /site/%25zz%254");
    check("GET", "/%ä", Current, "302 /site/%25%C3%A4");
}

#[test]
fn an_address_too_long_for_cloudfront_goes_to_the_front_page() {
    let long = format!("/{}", "a".repeat(8_192));
    check("GET", &long, Beta, "302 /site/beta/index.html");
    check("GET", &format!("/?{}", "é".repeat(3_000)), Current, "302 /site/index.html");
}

#[test]
fn other_prefixes_have_the_same_rules() {
    for (paths, address, verdict, expected) in [
        (["/old", "/new"], "/a/?q", Beta, "302 /new/a/index.html?q"),
        (["/old", "/new"], "/a", Current, "302 /old/a"),
        (["/old", "/new"], "/new/a", Current, "302 /old/a"),
        (["/old", "/new"], "/new/new/a", Current, "302 /old/new/a"),
        (["/old", "/new"], "/new", NoData, "302 /old/index.html"),
        (["/old", "/new"], "/newer", Current, "302 /old/newer"),
        (["/old", "/new"], "/old/a", Beta, "pass-through"),
        (["/a", "/abc"], "/abc/d", Current, "302 /a/d"),
        (["/a", "/abc"], "/abcd", Beta, "302 /abc/abcd"),
        (["/a", "/a/b/c"], "/a/b/c/b/c/d", Current, "302 /a/d"),
        (["/a", "/a/b/c"], "/a/b/d", Beta, "pass-through"),
        (["/v/1", "/v/2"], "/v/2/a/", Beta, "302 /v/2/a/index.html"),
        (["/v/1", "/v/2"], "/v/1", Beta, "302 /v/1/index.html"),
    ] {
        assert_eq!(answer(paths, "GET", address, Signals::default(), verdict), expected, "{paths:?} {address}");
    }
}

#[test]
fn at_the_root_only_pages_go_to_beta_and_everything_else_passes() {
    check_root("GET", "/", Beta, "302 /beta/index.html");
    check_root("HEAD", "/a/b?q", Beta, "302 /beta/a/b?q");
    check_root("GET", "/a/", Beta, "302 /beta/a/index.html");
    check_root("GET", "/betamax", Beta, "302 /beta/betamax");
    check_root("GET", "//evil.example/a", Beta, "302 /beta//evil.example/a");
    check_root("GET", "//beta/a", Beta, "302 /beta//beta/a");
    for verdict in [Current, NoData] {
        check_root("GET", "/", verdict, "pass-through");
        check_root("GET", "/a/?q", verdict, "pass-through");
    }
    for address in ["/logo.svg", "/.well-known/acme-challenge/x", "/.well-known", "/a/../.well-known/x"] {
        check_root("GET", address, Beta, "pass-through");
    }
    check_root("POST", "/a", Beta, "pass-through");
    check_root("POST", "/beta/a", Current, "307 /a Guard");
}

#[test]
fn at_the_root_a_redirect_from_beta_sets_the_guard_and_stays_on_the_host() {
    check_root("GET", "/beta/a/b.html?q", Current, "302 /a/b.html?q Guard");
    check_root("GET", "/beta/a/", Current, "302 /a/ Guard");
    check_root("GET", "/beta", Current, "302 / Guard");
    check_root("GET", "/beta/index.html?q", Current, "302 /?q Guard");
    check_root("GET", "/beta/a/index.html", Current, "302 /a/index.html Guard");
    check_root("GET", "/beta/", Beta, "302 /beta/index.html");
    check_root("GET", "/beta/a/", Beta, "302 /beta/a/index.html");
    for address in ["/beta", "/beta/a", "/beta/a/", "/beta/logo.svg"] {
        check_root("GET", address, NoData, "pass-through");
    }
    check_root("GET", "/beta//evil.example/a", Current, "302 /evil.example/a Guard");
    check_root("GET", r"/beta/\\evil.example/", Current, "302 /evil.example/ Guard");
    check_root("GET", "/beta/%5c%2fevil.example/", Current, "302 /evil.example/ Guard");
    check_root("GET", "/beta/%09/evil.example/", Current, "302 /%09/evil.example/ Guard");
    check_root("GET", "/beta//beta///beta/a", Current, "302 /a Guard");
    check_root("GET", &"/beta/".repeat(100_000), Current, "302 / Guard");
    check_root("GET", "/beta/..//beta/a", Beta, "302 /beta//beta/a");
    check_root("GET", &format!("/beta/{}", "é".repeat(3_000)), Current, "302 / Guard");
}

#[test]
fn at_the_root_cookies_and_headers_prevent_a_redirect_to_beta() {
    let guarded = Signals { is_guarded: true, ..Signals::default() };
    let shown = Signals { preview: Preview::Shown, ..guarded };
    let subresource = Signals { is_subresource: true, ..Signals::default() };
    check_signals("/", "/a", guarded, Beta, "pass-through");
    check_signals("/", "/beta/a", guarded, Beta, "pass-through");
    check_signals("/", "/beta/a", guarded, Current, "302 /a Guard");
    check_signals("/", "/a", shown, Current, "302 /beta/a");
    check_signals("/", "/a", subresource, Beta, "pass-through");
    check_signals("/site", "/a", Signals { is_guarded: true, ..subresource }, Beta, "302 /site/beta/a");
}

#[test]
fn a_preview_shows_beta_whatever_the_verdict_and_ends_at_the_same_page() {
    let preview = |preview| Signals { preview, ..Signals::default() };
    for verdict in [Current, Beta, NoData] {
        for (current, address, expected) in [
            ("/site", "/a?q", "302 /site/beta/a?q Preview"),
            ("/site", "/site", "302 /site/beta/index.html Preview"),
            ("/site", "/site/a/", "302 /site/beta/a/index.html Preview"),
            ("/site", "/site/beta/a", "302 /site/beta/a Preview"),
            ("/site", "/site/logo.svg", "pass-through"),
            ("/", "/", "302 /beta/index.html Preview"),
            ("/", "/beta//evil.example/", "302 /beta//evil.example/index.html Preview"),
            ("/", "/.well-known/a", "pass-through"),
        ] {
            check_signals(current, address, preview(Preview::Begins), verdict, expected);
        }
        check_signals(
            "/",
            "/a",
            Signals { is_guarded: true, ..preview(Preview::Begins) },
            verdict,
            "302 /beta/a Preview",
        );
        check_signals("/site", "/a", preview(Preview::Shown), verdict, "302 /site/beta/a");
        check_signals("/site", "/site/a", preview(Preview::Shown), verdict, "pass-through");
        check_signals("/site", "/site/beta/a", preview(Preview::Shown), verdict, "pass-through");
        check_signals("/site", "/site/a?q", preview(Preview::Ends), verdict, "302 /site/a?q PreviewOff");
    }
    check_signals("/site", "/site/beta/a", preview(Preview::Ends), Current, "302 /site/a PreviewOff");
    check_signals("/site", "/site/beta/a", preview(Preview::Ends), Beta, "302 /site/beta/a PreviewOff");
    check_signals("/site", "/a", preview(Preview::Ends), NoData, "302 /site/a PreviewOff");
    check_signals("/", "/beta/a", preview(Preview::Ends), Current, "302 /a Guard PreviewOff");
    check_signals("/", "//evil.example/", preview(Preview::Ends), Current, "302 /evil.example/ PreviewOff");
    check_signals("/", "/logo.svg", preview(Preview::Ends), Beta, "302 /logo.svg PreviewOff");
}

#[test]
fn every_sample_page_of_beta_has_its_current_page_as_canonical() {
    let site = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("site");
    let files = std::fs::read_dir(site.join("beta")).unwrap().map(|file| file.unwrap().path());
    let pages: Vec<_> = files.filter(|path| path.extension().is_some_and(|ending| ending == "html")).collect();
    assert!(!pages.is_empty());
    for page in pages {
        let name = page.file_name().unwrap().to_str().unwrap();
        let canonical = format!(r#"<link rel="canonical" href="../{name}">"#);
        assert!(std::fs::read_to_string(&page).unwrap().contains(&canonical), "{}", page.display());
        assert!(site.join(name).is_file(), "{name} is not on the current site");
    }
}
