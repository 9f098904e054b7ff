//! How a visitor is identified: cookies, headers and preview links.

use crate::setup::{KEY, World, event, field, flag, launchdarkly, start};
use launchdarkly_server_sdk::{Context, Reference};
use proptest::prelude::*;
use redirect::cloudfront::Event;
use redirect::preview_token::PreviewToken;
use redirect::redirect::{Cookie, Preview};
use redirect::settings::Settings;
use redirect::visitor::{Viewer, Visitors};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use standins::{Fault, RuntimeApi};
use std::collections::BTreeSet;
use std::sync::Arc;

const TOKEN: &str = "0123456789abcdef";
const ON: &[(&str, &str)] = &[
    ("REDIRECT_VISITOR_COOKIE", "id"),
    ("REDIRECT_CONTEXT_HEADERS", "User-Agent, x-b"),
    ("REDIRECT_PREVIEW_TOKEN", TOKEN),
    ("REDIRECT_FLUSH_AFTER_SECONDS", "0"),
];

/// Cookies, headers and preview links as in [`ON`].
fn visitors() -> Visitors {
    let on = |variable: &str| ON.iter().find(|(name, _)| *name == variable).map(|(_, value)| (*value).to_owned());
    let settings = Settings::read(field, on).unwrap();
    Visitors::new(Arc::new(settings), PreviewToken::parse(TOKEN).unwrap().as_ref())
}

/// The preview's cookie, as the browser sends it back.
fn preview_cookie() -> String {
    visitors().set_cookie(&Cookie::Preview).split(';').next().unwrap().to_owned()
}

/// Headers as CloudFront sends them.
fn header_map(headers: &[(&str, &str)]) -> Value {
    let mut map = serde_json::Map::new();
    for (name, value) in headers {
        let values = map.entry(*name).or_insert_with(|| json!([]));
        values.as_array_mut().unwrap().push(json!({"key": name, "value": value}));
    }
    Value::Object(map)
}

/// The result of `look` for a request with this query and these headers.
fn seen<T>(query: &str, headers: &[(&str, &str)], look: impl FnOnce(&Viewer<'_>) -> T) -> T {
    seen_in(query, &header_map(headers), look)
}

fn seen_in<T>(query: &str, headers: &Value, look: impl FnOnce(&Viewer<'_>) -> T) -> T {
    let request = json!({"clientIp": "192.0.2.1", "uri": "/", "querystring": query, "headers": headers});
    let payload = to_raw_value(&json!({"Records": [{"cf": {"request": request}}]})).unwrap();
    let Event::ViewerRequest(request) = Event::parse(&payload).unwrap() else { panic!("not a viewer request") };
    look(&visitors().viewer(&request))
}

fn context(viewer: &Viewer<'_>) -> Context {
    viewer.visitor(false).unwrap().context().unwrap()
}

#[track_caller]
fn check_key(cookies: &[&str], expected: &str) {
    let headers: Vec<_> = cookies.iter().map(|cookie| ("cookie", *cookie)).collect();
    let key = seen("", &headers, |viewer| context(viewer).key().to_owned());
    assert_eq!(key, expected, "{cookies:?}");
}

#[test]
fn the_first_valid_cookie_is_the_key_and_invalid_ones_are_ignored() {
    check_key(&["id=a"], "a");
    check_key(&["x=1; id=GA1.1.12_3-4;y=2"], "GA1.1.12_3-4");
    check_key(&["x=1", "\t id=a \t; id=b"], "a");
    check_key(&["id=; id=a b; id=c"], "c");
    check_key(&[&format!("id={}", "a".repeat(128))], &"a".repeat(128));
    check_key(&[&vec!["x=1"; 100].join("; "), "id=a"], "a");
    for none in [
        "",
        "id",
        "id=",
        "ID=a",
        "xid=a",
        "id2=a",
        "id=a=b",
        "id=\"a\"",
        "id=a\0",
        "id=é",
        "id=a\r\nSet-Cookie: b",
        ";=;;",
        &format!("id={}", "a".repeat(129)),
        &format!("id={}", "a".repeat(8_192)),
    ] {
        check_key(&[none], "192.0.2.1");
    }
}

#[test]
fn an_id_is_minted_only_where_the_answer_accepts_one_and_there_is_none() {
    let minted = |cookie| seen("", &[("cookie", cookie)], |viewer| viewer.visitor(true).unwrap().cookie());
    let (Some(Cookie::Visitor(id)), Some(Cookie::Visitor(other))) = (minted("id=?"), minted("id=?")) else {
        panic!("no id was minted")
    };
    let uuid = uuid::Uuid::try_parse(&id).unwrap();
    assert_eq!((uuid.get_version_num(), uuid.get_variant()), (4, uuid::Variant::RFC4122));
    assert_ne!(id, other);
    check_key(&[&format!("id={id}")], &id);
    assert_eq!(minted("id=a"), None);
}

#[track_caller]
fn check_preview(query: &str, cookie: &str, expected: Preview, kept: &str) {
    let headers = [("cookie", cookie)];
    let (preview, rest) = seen(query, &headers, |viewer| {
        let (signals, query) = viewer.signals();
        (signals.preview, query.unwrap_or_default().into_owned())
    });
    assert_eq!((preview, rest.as_str()), (expected, kept), "{query:?} {cookie:?}");
}

#[test]
fn only_one_whole_token_is_a_preview_link_and_everything_else_stays_in_the_query() {
    use Preview::{Absent, Begins, Ends, Outdated, Shown};
    let cookie = format!("a=b; redirect-preview=x; {}", preview_cookie());
    assert!(cookie.len() > 64 && !cookie.contains(TOKEN), "{cookie}");
    for (query, preview, kept) in [
        ("redirect-preview=0123456789abcdef", Begins, ""),
        ("a=b&redirect-preview=0123456789abcdef&c", Begins, "a=b&c"),
        ("redirect-preview=off", Ends, ""),
        ("a&redirect-preview=off", Ends, "a"),
    ] {
        check_preview(query, "", preview, kept);
        check_preview(query, &cookie, preview, kept);
    }
    for query in [
        "",
        "redirect-preview",
        "redirect-preview=",
        "redirect-preview=0123456789abcde",
        "redirect-preview=0123456789abcdef0",
        "redirect-preview=0123456789ABCDEF",
        "redirect-preview=%30123456789abcdef",
        "redirect%2Dpreview=0123456789abcdef",
        "redirect-preview=0123456789abcdef&redirect-preview=0123456789abcdef",
        "redirect-preview=0123456789abcdef&redirect-preview",
        "redirect-preview=off&redirect-preview=off",
        "redirect-preview=0123456789abcdef=",
        "x-redirect-preview=0123456789abcdef",
    ] {
        check_preview(query, "", Absent, query);
        check_preview(query, &cookie, Shown, query);
        check_preview(query, "redirect-preview=0123456789abcdef; redirect-preview=; redirect-preview", Outdated, query);
    }
}

#[test]
fn a_navigation_is_from_outside_unless_its_headers_name_this_host() {
    for (headers, expected) in [
        (&[][..], false),
        (&[("sec-fetch-site", "none")], false),
        (&[("sec-fetch-site", "cross-site"), ("referer", "https://a.example/")], false),
        (&[("sec-fetch-site", "same-origin")], true),
        (&[("referer", "https://A.example/x")], true),
        (&[("referer", "https://a.example")], true),
        (&[("referer", "https://a.example.evil/x")], false),
        (&[("referer", "https://b.example/?https://a.example/")], false),
        (&[("referer", "a.example")], false),
    ] {
        let headers = [headers, &[("host", "a.example")]].concat();
        assert_eq!(seen("", &headers, |viewer| viewer.signals().0.is_internal), expected, "{headers:?}");
    }
}

#[test]
fn a_header_is_an_attribute_of_at_most_1024_bytes() {
    let long = format!("{}é", "a".repeat(1_023));
    for (headers, expected) in [
        (&[][..], None),
        (&[("user-agent", "")], Some("")),
        (&[("user-agent", "a"), ("user-agent", "b, c")], Some("a, b, c")),
        (&[("user-agent", long.as_str())], Some(&long[..1_023])),
        (&[("x-a", "a")], None),
    ] {
        let context = seen("", headers, context);
        let value = |name| context.get_value(&Reference::new(name)).map(|value| json!(value));
        assert_eq!((value("user-agent"), value("x-b")), (expected.map(Value::from), None));
    }
}

#[test]
fn each_cookie_is_complete_and_only_the_id_is_readable_for_scripts() {
    let visitors = visitors();
    let id = visitors.set_cookie(&Cookie::Visitor("a".to_owned()));
    assert_eq!(id, "id=a; Max-Age=31536000; Path=/; Secure; SameSite=Lax");
    assert!(visitors.set_cookie(&Cookie::Preview).ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"));
    let ends = "redirect-preview=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax";
    assert_eq!(visitors.set_cookie(&Cookie::PreviewOff), ends);
    let guard = "redirect-guard=1; Max-Age=60; Path=/; Secure; HttpOnly; SameSite=Lax";
    assert_eq!(visitors.set_cookie(&Cookie::Guard), guard);
}

fn any_piece() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        Just("id=".to_owned()),
        Just("redirect-preview".to_owned()),
        Just("=".to_owned()),
        Just("&".to_owned()),
        Just("; ".to_owned()),
        Just("off".to_owned()),
        Just("%".to_owned()),
        Just("\0\r\n".to_owned()),
        "[a-f0-9]{15}",
        ".*",
    ];
    prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
}

fn any_headers() -> impl Strategy<Value = Value> {
    let value = any_piece().prop_map(|value| json!({"key": "x", "value": value}));
    let odd = prop_oneof![Just(Value::Null), Just(json!([7])), Just(json!({})), Just(json!([{"value": 7}]))];
    let header = prop_oneof![4 => prop::collection::vec(value, 0..4).prop_map(Value::from), 1 => odd];
    let name = prop_oneof![Just("cookie"), Just("user-agent"), Just("referer"), Just("host"), Just("sec-fetch-site")];
    prop::collection::hash_map(name, header, 0..5)
        .prop_map(|map| map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_query_and_headers_give_a_visitor_and_no_preview(query in any_piece(), headers in any_headers()) {
        let (signals, kept, key, cookie) = seen_in(&query, &headers, |viewer| {
            let (signals, kept) = viewer.signals();
            let visitor = viewer.visitor(true).unwrap();
            let key = visitor.context().unwrap().key().to_owned();
            (signals, kept.unwrap().into_owned(), key, visitor.cookie())
        });
        prop_assert!(matches!(signals.preview, Preview::Absent | Preview::Outdated | Preview::Ends));
        prop_assert_eq!(kept != query, signals.preview == Preview::Ends);
        prop_assert!((1..=128).contains(&key.len()), "{}", key);
        prop_assert!(key.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)), "{}", key);
        prop_assert!(cookie.is_none_or(|cookie| cookie == Cookie::Visitor(key)));
    }
}

/// A viewer request with these headers.
fn event_with(address: &str, ip: &str, headers: &[(&str, &str)]) -> String {
    let mut event: Value = serde_json::from_str(&event(address, ip)).unwrap();
    event["Records"][0]["cf"]["request"]["headers"] = header_map(&[headers, &[("host", "www.example.com")]].concat());
    event.to_string()
}

impl World {
    /// The answer as `302 /site/a` and the cookies that it sets, without their attributes.
    async fn answer(&mut self, address: &str, headers: &[(&str, &str)]) -> String {
        let answered = self.send(&event_with(address, "192.0.2.1", headers)).await;
        let cookies = answered.json["headers"]["set-cookie"].as_array().cloned().unwrap_or_default();
        let cookies =
            cookies.iter().map(|cookie| format!(" {}", cookie["value"].as_str().unwrap().split(';').next().unwrap()));
        answered.summary() + &cookies.collect::<String>()
    }
}

fn half(version: u64) -> Value {
    standins::samples::flag("rebrand", version)
}

fn off() -> Value {
    let mut off = flag(1, true);
    off["on"] = json!(false);
    off
}

#[tokio::test]
async fn a_visitor_with_a_cookie_sees_the_same_site_from_any_address() {
    let mut world = World::new(launchdarkly(half(1)).await, ON).await;
    let mut sites = BTreeSet::new();
    let mut ids = Vec::new();
    for visitor in 0..20 {
        let answered = world.send(&event(&format!("/a?{visitor}"), "192.0.2.1")).await;
        let cookie = answered.json["headers"]["set-cookie"][0]["value"].as_str().unwrap();
        let id = cookie.strip_prefix("id=").unwrap().split(';').next().unwrap().to_owned();
        assert!(cookie.ends_with("; Max-Age=31536000; Path=/; Secure; SameSite=Lax"), "{cookie}");
        for ip in ["198.51.100.7", "2001:db8::1", "no address"] {
            let again = event_with(&format!("/a?{visitor}"), ip, &[("cookie", &format!("x=y; id={id}"))]);
            let again = world.send(&again).await;
            assert_eq!(again.summary(), answered.summary());
            assert!(again.json["headers"].get("set-cookie").is_none(), "{}", again.json);
            assert_eq!(again.line["reason"], "FALLTHROUGH");
        }
        sites.insert(answered.line["variation"].as_bool());
        ids.push(id);
    }
    assert_eq!(sites.len(), 2, "everyone saw the same site");
    let log = world.function.log().join("\n");
    assert!(!ids.iter().any(|id| log.contains(id)));
    let events = json!(world.launchdarkly.events()).to_string();
    assert!(ids.iter().all(|id| events.contains(id)));
    assert!(!events.contains("192.0.2.1") && !events.contains("198.51") && !events.contains("anonymous"), "{events}");
}

#[tokio::test]
async fn an_id_is_set_only_at_an_entry_and_never_if_the_site_sets_it() {
    let mut world = World::new(launchdarkly(flag(1, true)).await, ON).await;
    for address in ["/site/a", "/site/beta/a", "/site/beta/", "/site/beta/a/"] {
        let answered = world.send(&event(address, "192.0.2.1")).await;
        assert!(answered.json["headers"].get("set-cookie").is_none(), "{address}: {}", answered.json);
    }
    // A POST from another site arrives without the visitor's SameSite=Lax cookie.
    let post = world.send(&event("/a", "192.0.2.1").replace("GET", "POST")).await;
    assert_eq!(post.summary(), "307 /site/beta/a");
    assert!(post.json["headers"].get("set-cookie").is_none(), "{}", post.json);
    for settings in [
        [("REDIRECT_VISITOR_COOKIE", "id"), ("REDIRECT_VISITOR_COOKIE_DAYS", "0")],
        [("REDIRECT_VISITOR_COOKIE", ""), ("REDIRECT_VISITOR_COOKIE_DAYS", "365")],
    ] {
        let mut world = World::new(launchdarkly(flag(1, true)).await, &settings).await;
        assert_eq!(world.answer("/a", &[]).await, "302 /site/beta/a");
    }
}

#[tokio::test]
async fn in_summary_no_id_is_sent() {
    let settings = [ON, &[("REDIRECT_EVENTS", "summary")]].concat();
    let mut world = World::new(launchdarkly(flag(1, true)).await, &settings).await;
    assert_eq!(world.answer("/a", &[("cookie", "id=some-one")]).await, "302 /site/beta/a");
    let events = world.launchdarkly.received(|events| !events.is_empty()).await;
    assert!(!json!(events).to_string().contains("some-one"), "{events:?}");
}

#[tokio::test]
async fn rules_see_headers_and_launchdarkly_sees_only_their_names() {
    let mut mobile = flag(1, false);
    mobile["trackEvents"] = json!(true);
    mobile["debugEventsUntilDate"] = json!(99_999_999_999_999_u64);
    mobile["rules"] = json!([{"id": "r", "variation": 0, "trackEvents": true, "clauses": [
        {"attribute": "user-agent", "op": "contains", "values": ["Mobile"], "negate": false},
    ]}]);
    for updates in ["between-invocations", "streaming"] {
        let settings = [ON, &[("REDIRECT_UPDATES", updates)]].concat();
        let mut world = World::new(launchdarkly(mobile.clone()).await, &settings).await;
        for (agent, expected) in [("A Mobile secret", "302 /site/beta/a"), ("A secret", "302 /site/a")] {
            let headers = [("cookie", "id=a"), ("user-agent", agent)];
            assert_eq!(world.answer("/a", &headers).await, expected, "{agent}");
        }
        let kinds = |events: &[Value], kind: &str| events.iter().filter(|event| event["kind"] == kind).count();
        let all = |events: &[Value]| ["index", "feature", "debug"].iter().all(|kind| kinds(events, kind) > 0);
        let events = world.launchdarkly.received(all).await;
        let index = events.iter().find(|event| event["kind"] == "index").unwrap();
        assert_eq!(index["context"]["_meta"]["redactedAttributes"], json!(["user-agent"]), "{updates}: {index}");
        assert!(!json!(events).to_string().contains("secret"), "{updates}: {events:?}");
    }
}

#[tokio::test]
async fn a_preview_shows_beta_from_the_first_click_to_off() {
    let broken = launchdarkly(flag(1, true)).await;
    broken.fail(Fault::Status(503, None));
    for launchdarkly in [launchdarkly(flag(1, false)).await, launchdarkly(off()).await, broken] {
        let settings = [ON, &[("REDIRECT_INIT_BUDGET_MS", "500"), ("REDIRECT_VIEWER_BUDGET_MS", "500")]].concat();
        let mut world = World::new(launchdarkly, &settings).await;
        let link = format!("redirect-preview={TOKEN}");
        let cookie = preview_cookie();
        let shown = [("cookie", cookie.as_str())];
        for (address, expected) in
            [("/a", "/site/beta/a"), ("/site/a", "/site/beta/a"), ("/site/beta/a/", "/site/beta/a/index.html")]
        {
            let answer = world.answer(&format!("{address}?x&{link}&y"), &[]).await;
            assert_eq!(answer, format!("302 {expected}?x&y {cookie}"));
        }
        assert_eq!(world.answer("/a?x", &shown).await, "302 /site/beta/a?x");
        assert_eq!(world.answer("/site/beta/a", &shown).await, "pass-through");
        assert_eq!(world.answer("/site/a", &shown).await, "pass-through");
        let decided = world.send(&event_with("/site/beta/", "no address", &shown)).await.line;
        assert_eq!(
            (&decided["reason"], &decided["level"], decided.get("variation")),
            (&json!("PREVIEW"), &json!("info"), None)
        );
        assert!(world.launchdarkly.events().is_empty());

        let log = world.function.log().join("\n");
        assert!(!log.contains(TOKEN) && !log.contains(&cookie), "{log}");
        assert_eq!(world.answer("/site/a?redirect-preview=off&x", &shown).await, "302 /site/a?x redirect-preview=");
        let answer = world.answer("/a?redirect-preview=off", &[shown[0], ("cookie", "id=a")]).await;
        assert_eq!(answer, "302 /site/a redirect-preview=");
    }
}

#[tokio::test]
async fn an_invalid_link_is_ignored() {
    let mut world = World::new(launchdarkly(flag(1, false)).await, ON).await;
    let repeated = format!("redirect-preview={TOKEN}&redirect-preview={TOKEN}");
    let [short, long] = [format!("redirect-preview={}", &TOKEN[1..]), format!("redirect-preview={TOKEN}0")];
    for query in ["redirect-preview=", "redirect-preview=on", &short, &long, &repeated] {
        let headers = [("cookie", "id=a; redirect-preview=0123456789abcdef")];
        assert_eq!(world.answer(&format!("/a?{query}"), &headers).await, format!("302 /site/a?{query}"));
        assert_eq!(world.answer(&format!("/site/a?{query}"), &headers).await, "pass-through");
    }
    let mut without = World::new(launchdarkly(flag(1, false)).await, &[]).await;
    for query in [format!("redirect-preview={TOKEN}"), "redirect-preview=off".to_owned()] {
        assert_eq!(without.answer(&format!("/a?{query}"), &[]).await, format!("302 /site/a?{query}"));
    }
}

#[tokio::test]
async fn an_invalid_token_ends_the_start_and_is_not_shown() {
    for wrong in ["0123456789abcde", &"a".repeat(129), "0123456789 abcdef", "0123456789abcd\u{e9}f"] {
        let lambda = RuntimeApi::start().await.unwrap();
        let mut function = start(&lambda, "http://127.0.0.1:1", &[("REDIRECT_PREVIEW_TOKEN", wrong)]);
        let error = lambda.init_error().await;
        assert!(error.contains("REDIRECT_PREVIEW_TOKEN is not a preview token"), "{error}");
        function.process.wait().await.unwrap();
        let log = function.log().join("\n");
        assert!(!error.contains(wrong) && !log.contains(wrong), "{error} {log}");
    }
    for right in [TOKEN, &"a".repeat(128), " \n"] {
        assert!(PreviewToken::parse(right).is_ok());
    }
    assert!(!format!("{:?}", PreviewToken::parse(TOKEN)).contains(TOKEN));
}

const ROOT: &[(&str, &str)] = &[
    ("REDIRECT_CURRENT_PATH", "/"),
    ("REDIRECT_BETA_PATH", "/beta"),
    ("REDIRECT_VISITOR_COOKIE", "id"),
    ("REDIRECT_PREVIEW_TOKEN", TOKEN),
    ("REDIRECT_FLUSH_AFTER_SECONDS", "0"),
];

#[tokio::test]
async fn at_the_root_pages_redirect_to_beta_and_back_without_a_loop() {
    let [mut beta, mut current] =
        [World::new(launchdarkly(flag(1, true)).await, ROOT).await, World::new(launchdarkly(off()).await, ROOT).await];
    let document = ("sec-fetch-dest", "document");
    assert_eq!(beta.answer("/a?q", &[document]).await, "302 /beta/a?q");
    assert_eq!(beta.answer("/a?q", &[]).await, "302 /beta/a?q");
    assert_eq!(beta.answer("/a?q", &[("sec-fetch-dest", "empty")]).await, "pass-through");
    assert_eq!(beta.answer("/beta/a", &[]).await, "pass-through");
    assert_eq!(current.answer("/a", &[]).await, "pass-through");
    let home = current.send(&event("/beta/a/?q", "192.0.2.1")).await;
    assert_eq!((home.summary().as_str(), &home.line["message"]), ("302 /a/?q", &json!("302 to /")));
    let guard = &home.json["headers"]["set-cookie"][0]["value"];
    assert_eq!(guard, "redirect-guard=1; Max-Age=60; Path=/; Secure; HttpOnly; SameSite=Lax");
    // An environment that disagrees keeps them on the current site, except for a preview.
    let (guard, cookie) = (("cookie", "redirect-guard=1"), preview_cookie());
    assert_eq!(beta.answer("/a/?q", &[guard]).await, "pass-through");
    assert_eq!(beta.answer("/a", &[("cookie", "redirect-guard=")]).await, "302 /beta/a");
    // An environment that has the previous token would show the preview again.
    let outdated = [("cookie", "redirect-preview=x")];
    assert_eq!(current.answer("/beta/a", &outdated).await, "302 /a redirect-guard=1 redirect-preview=");
    assert_eq!(current.answer("/a", &[guard, ("cookie", &cookie)]).await, "302 /beta/a");
    let link = format!("/a?redirect-preview={TOKEN}");
    assert_eq!(current.answer(&link, &[guard]).await, format!("302 /beta/a {cookie}"));
}

#[tokio::test]
async fn at_the_root_requests_pass_on_every_failure() {
    let broken = launchdarkly(flag(1, true)).await;
    broken.fail(Fault::Status(503, None));
    let settings = [ROOT, &[("REDIRECT_INIT_BUDGET_MS", "500"), ("REDIRECT_VIEWER_BUDGET_MS", "500")]].concat();
    let mut world = World::new(broken, &settings).await;
    for address in ["/", "/a", "/beta", "/beta/", "/beta/a", "/beta/a/"] {
        assert_eq!(world.answer(address, &[]).await, "pass-through", "{address}");
    }
    let mut world = World::new(launchdarkly(flag(1, true)).await, ROOT).await;
    for address in ["/a", "/beta/a", "/beta/"] {
        assert_eq!(world.visit(address, "no address").await.summary(), "pass-through", "{address}");
    }
    let request = r#"{"clientIp":"192.0.2.1"}"#;
    let event = format!(r#"{{"Records":[{{"cf":{{"request":{request}}}}}]}}"#);
    assert_eq!(world.lambda.invoke(event).await.unwrap().body, request);
}

#[tokio::test]
async fn at_the_root_only_a_navigation_from_outside_is_a_visit() {
    for value in [true, false] {
        let mut world = World::new(launchdarkly(flag(1, value)).await, ROOT).await;
        for headers in [
            &[][..],
            &[("sec-fetch-site", "none")],
            &[("sec-fetch-site", "cross-site")],
            &[("referer", "https://search.example/")],
            &[("sec-fetch-site", "same-origin")],
            &[("referer", "https://www.example.com/a")],
        ] {
            assert_eq!(world.answer("/a", headers).await, if value { "302 /beta/a" } else { "pass-through" });
        }
        assert_eq!(
            world.answer("/beta/a/", &[]).await,
            if value { "302 /beta/a/index.html" } else { "302 /a/ redirect-guard=1" }
        );
        let counters = world.launchdarkly.events().into_iter().filter(|event| event["kind"] == "summary");
        let counts = counters.map(|event| event["features"]["rebrand"]["counters"][0]["count"].as_u64().unwrap());
        assert_eq!(counts.sum::<u64>(), 4, "{value}");
    }
}

#[tokio::test]
async fn the_sample_events_with_cookies_match_their_names() {
    let mut world = World::new(launchdarkly(flag(1, false)).await, ON).await;
    for (name, expected) in [
        ("visitor-cookie", "302 /site/pricing.html"),
        ("preview-link-wrong", "302 /site/pricing.html?redirect-preview=0123456789abcdeg"),
        ("odd-cookies", "302 /site/index.html"),
    ] {
        let path = format!("{}/events/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let answered = world.send(&std::fs::read_to_string(path).unwrap()).await;
        assert_eq!(answered.summary(), expected, "{name}");
        let is_known = answered.json["headers"].get("set-cookie").is_none();
        assert_eq!(is_known, name != "odd-cookies", "{name}: {}", answered.json);
    }
    assert!(!world.function.log().join("\n").contains(KEY));
}
