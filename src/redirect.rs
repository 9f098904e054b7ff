//! The decision: from a viewer's request and a verdict on him to an answer. Every rule about paths is here.
//!
//! Pure: no I/O, no clock, no environment. Nothing that a viewer sends can lead a redirect out of the site's prefix,
//! put a header into the response, or send him in a circle: a path below [`CURRENT`] is never redirected, except to
//! its own index page, and a path below [`BETA`] only to [`CURRENT`].

use std::fmt::Write as _;

/// Where the current site is.
pub const CURRENT: &str = "/site";
/// Where the new site is.
pub const BETA: &str = "/site/beta";

/// A private S3 origin serves no directory index, so a directory's page is named.
/// <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/DefaultRootObject.html>
const INDEX: &str = "index.html";

/// The longest address that CloudFront takes: 8,192 bytes for the whole URL.
/// <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/cloudfront-limits.html>
const LONGEST_LOCATION: usize = 8_192 - "https://".len() - 253;

/// A redirect to another path of the same host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The HTTP status, 302 or 307.
    pub status: u16,
    /// The path and query for the `Location` header: printable ASCII.
    pub location: String,
}

/// Which site a viewer is to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The current site.
    Current,
    /// The new site.
    Beta,
    /// No flag data says: the current site, but who is on a page of the new one is left there.
    NoData,
}

/// A viewer's request, sorted by what it asks for.
#[derive(Debug)]
pub struct Visit {
    kind: Kind,
    status: u16,
    query: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// Below [`CURRENT`], or an asset of [`BETA`]: CloudFront serves it as it is.
    Served,
    /// [`CURRENT`] itself.
    CurrentHome,
    /// [`BETA`] itself.
    BetaHome,
    /// A page below [`BETA`]: its path there, with a leading `/`.
    BetaPage { path: String },
    /// Anything else: its path.
    Unversioned { path: String },
}

impl Visit {
    /// Sorts a request. `uri` and `query` may hold anything; an absent `uri` stands for `/`.
    pub fn new(method: Option<&str>, uri: Option<&str>, query: Option<&str>) -> Self {
        let path = normalised(uri.unwrap_or_default());
        let below = |prefix| path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let kind = match (below(CURRENT), below(BETA)) {
            (_, Some("" | "/")) => Kind::BetaHome,
            (_, Some(rest)) if is_page(rest) => Kind::BetaPage { path: rest.to_owned() },
            (Some("" | "/"), None) => Kind::CurrentHome,
            (Some(_), _) => Kind::Served,
            (None, _) => Kind::Unversioned { path },
        };
        // Only GET and HEAD may change into a GET on the way; everything else keeps method and body with a 307.
        // https://www.rfc-editor.org/rfc/rfc9110#name-302-found
        let status = if matches!(method, None | Some("GET" | "HEAD")) { 302 } else { 307 };
        let query = query.map(|query| encoded(query, "#")).unwrap_or_default();
        Self { kind, status, query }
    }

    /// Whether the answer depends on the viewer.
    pub fn needs_verdict(&self) -> bool {
        !matches!(self.kind, Kind::Served | Kind::CurrentHome)
    }

    /// Whether the viewer enters the site, as opposed to going on in the new one: what LaunchDarkly counts.
    pub fn is_entry(&self) -> bool {
        matches!(self.kind, Kind::Unversioned { .. })
    }

    /// The redirect, or `None` when the request passes through unchanged.
    pub fn answer(&self, verdict: Verdict) -> Option<Redirect> {
        let home = |verdict| if verdict == Verdict::Beta { BETA } else { CURRENT };
        match (&self.kind, verdict) {
            (Kind::Served, _) => None,
            (Kind::CurrentHome, _) => Some(self.redirect(CURRENT, "/")),
            (Kind::BetaHome, verdict) => Some(self.redirect(home(verdict), "/")),
            (Kind::BetaPage { path }, Verdict::Current) => Some(self.redirect(CURRENT, path)),
            // S3 has no page of that name; the index page of the directory has one.
            (Kind::BetaPage { path }, _) if path.ends_with('/') => Some(self.redirect(BETA, path)),
            (Kind::BetaPage { .. }, _) => None,
            (Kind::Unversioned { path }, verdict) => Some(self.redirect(home(verdict), path)),
        }
    }

    fn redirect(&self, prefix: &str, path: &str) -> Redirect {
        let path = if prefix == CURRENT { outside_beta(path) } else { path };
        let index = if path.ends_with('/') { INDEX } else { "" };
        let mark = if self.query.is_empty() { "" } else { "?" };
        let mut location = [prefix, path, index, mark, &self.query].concat();
        if location.len() > LONGEST_LOCATION {
            // CloudFront would refuse the next request; the front page is better than an error.
            location = [prefix, "/", INDEX].concat();
        }
        Redirect { status: self.status, location }
    }
}

/// The answer when a request cannot be read at all.
pub fn current_site() -> Redirect {
    Redirect { status: 302, location: [CURRENT, "/", INDEX].concat() }
}

/// The path without the segments that would make it one of the new site when it is put below [`CURRENT`].
fn outside_beta(path: &str) -> &str {
    let segment = BETA.strip_prefix(CURRENT).unwrap_or_default();
    match path.strip_prefix(segment) {
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => outside_beta(rest),
        _ => path,
    }
}

/// A page, as opposed to an asset: a directory, a name without an extension, or HTML.
fn is_page(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    match name.rsplit_once('.') {
        None => true,
        Some((_, extension)) => extension.eq_ignore_ascii_case("html") || extension.eq_ignore_ascii_case("htm"),
    }
}

/// The path with a leading `/`, in printable ASCII, without dot segments and backslashes, also percent-encoded ones,
/// so that a rule sees the same path that a browser or an origin would.
fn normalised(uri: &str) -> String {
    let plain = encoded(&decoded(uri), "?#");
    let mut segments: Vec<&str> = Vec::new();
    let parts: Vec<&str> = plain.strip_prefix('/').unwrap_or(&plain).split('/').collect();
    let last = parts.len() - 1;
    for (index, part) in parts.into_iter().enumerate() {
        match part {
            "." => {}
            ".." => {
                segments.pop();
            }
            _ => {
                segments.push(part);
                continue;
            }
        }
        if index == last {
            segments.push("");
        }
    }
    let mut path = String::with_capacity(plain.len() + 1);
    for segment in segments {
        path.push('/');
        path.push_str(segment);
    }
    path
}

/// Decodes what needs no percent-encoding ([RFC 3986, 2.3](https://www.rfc-editor.org/rfc/rfc3986#section-2.3)), encoded
/// slashes, as S3 does, and turns backslashes into slashes, as browsers do. A `%` that encodes nothing becomes `%25`, so that what is decoded
/// cannot form a new encoding with it.
fn decoded(uri: &str) -> String {
    let mut plain = String::with_capacity(uri.len());
    let mut rest = uri;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        rest = after;
        match after.split_at_checked(2).and_then(|(digits, tail)| Some((digits, hex_byte(digits)?, tail))) {
            None => plain.push_str("%25"),
            Some((digits, byte, tail)) => {
                rest = tail;
                match char::from(byte) {
                    '/' | '\\' => plain.push('/'),
                    c if c.is_ascii_alphanumeric() || "-._~".contains(c) => plain.push(c),
                    _ => {
                        plain.push('%');
                        plain.push_str(digits);
                    }
                }
            }
        }
    }
    plain.push_str(rest);
    plain.replace('\\', "/")
}

fn hex_byte(digits: &str) -> Option<u8> {
    let both = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    both.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// Percent-encodes what is not printable ASCII, the space, and `reserved`.
fn encoded(text: &str, reserved: &str) -> String {
    let mut ascii = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_graphic() && !reserved.contains(c) {
            ascii.push(c);
        } else {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a String cannot fail.
                let _ = write!(ascii, "%{byte:02X}");
            }
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Beta, Current, NoData};

    /// `expected` is `status location`, or `pass-through`.
    #[track_caller]
    fn check(method: &str, address: &str, verdict: Verdict, expected: &str) {
        let (uri, query) = address.split_once('?').unwrap_or((address, ""));
        let answer = match Visit::new(Some(method), Some(uri), Some(query)).answer(verdict) {
            None => "pass-through".to_owned(),
            Some(redirect) => format!("{} {}", redirect.status, redirect.location),
        };
        assert_eq!(answer, expected, "{method} {address} for {verdict:?}");
    }

    #[test]
    fn the_verdict_chooses_the_site_and_the_path_stays() {
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
    fn only_get_and_head_may_become_a_get() {
        check("HEAD", "/a", Current, "302 /site/a");
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get", ""] {
            check(method, "/a", Beta, "307 /site/beta/a");
        }
    }

    #[test]
    fn the_current_site_is_never_sent_to_beta() {
        for verdict in [Current, Beta, NoData] {
            check("GET", "/site", verdict, "302 /site/index.html");
            check("GET", "/site/?q", verdict, "302 /site/index.html?q");
            for address in ["/site/index.html", "/site/a/b", "/site/a/", "/site/betamax", "/site/beta.html", "/site//"]
            {
                check("GET", address, verdict, "pass-through");
            }
        }
    }

    #[test]
    fn who_is_on_beta_is_decided_again() {
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
    fn the_current_site_is_not_reached_through_beta() {
        check("GET", "/site/beta/beta/a", Current, "302 /site/a");
        check("GET", "/beta/beta/a?q", NoData, "302 /site/a?q");
        check("GET", "/beta", Current, "302 /site/index.html");
        check("GET", "/betamax", Current, "302 /site/betamax");
        check("GET", "/beta/a", Beta, "302 /site/beta/beta/a");
    }

    #[test]
    fn assets_of_beta_are_served_whoever_asks() {
        for address in ["/site/beta/logo.svg", "/site/beta/a/style.css?v=2", "/site/beta/x.HTML.js"] {
            check("GET", address, Current, "pass-through");
        }
        check("GET", "/site/beta/A.HTM", Current, "302 /site/A.HTM");
    }

    #[test]
    fn a_prefix_is_whole_segments() {
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
}
