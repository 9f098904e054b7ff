//! The decision, with any input and with the events of `events/`.

use crate::setup::{World, event, events, flag, launchdarkly, start};
use proptest::prelude::*;
use redirect::redirect::{Cookie, Paths, Preview, Redirect, Signals, Verdict, Visit};
use serde_json::Value;
use standins::RuntimeApi;
use std::fs;

/// An expected outcome may have alternatives; `{site}` is the site that the flag chose.
fn is_expected(expected: &str, summary: &str, variation: Option<bool>) -> bool {
    let site = if variation == Some(true) { "/site/beta" } else { "/site" };
    let mut choices = expected.trim().split(" | ");
    choices.any(|choice| choice.replace("{site}", site) == summary)
}

#[tokio::test]
async fn every_event_has_its_expected_outcome() {
    for value in [true, false] {
        let mut world = World::new(launchdarkly(flag(1, value)).await, &[]).await;
        for path in events() {
            let expected = fs::read_to_string(path.with_extension("expected")).unwrap();
            let event = fs::read_to_string(&path).unwrap();
            let answered = world.send(&event).await;
            let summary = if answered.line["outcome"] == "pass-through" {
                let event: Value = serde_json::from_str(&event).unwrap();
                let cf = &event["Records"][0]["cf"];
                assert_eq!(&answered.json, cf.get("response").unwrap_or(&cf["request"]), "{}", path.display());
                "pass-through".to_owned()
            } else {
                answered.summary()
            };
            let variation = answered.line["variation"].as_bool();
            assert!(is_expected(&expected, &summary, variation), "{}: {summary}", path.display());
        }
    }
}

#[tokio::test]
async fn an_event_that_passes_through_keeps_every_byte() {
    let mut world = World::new(launchdarkly(flag(1, true)).await, &[]).await;
    let request = r#"{ "uri" : "/site/a" ,"x":1e400, "clientIp":"192.0.2.1","n":0.10, "ü":"\u00fc" }"#;
    let event = format!(r#"{{"Records":[{{"cf":{{"request":{request}}}}}]}}"#);
    let outcome = world.lambda.invoke(event).await.unwrap();
    assert_eq!(outcome.body, request);
    assert!(!outcome.is_error);
    world.visit("/", "192.0.2.1").await;
}

#[tokio::test]
async fn any_payload_gets_an_answer_and_the_function_survives() {
    let mut world = World::new(launchdarkly(flag(1, true)).await, &[]).await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let payloads = [
        "null",
        "7",
        "[]",
        "{}",
        "\"text\"",
        "{\"Records\":[]}",
        "not json",
        "",
        "\u{0}",
        "{\"Records\":[{\"cf\":{\"request\":7}}]}",
        r#"{"Records":[{"cf":{"config":{"eventType":"viewer-request"},"request":{"uri":"\ud800","clientIp":"192.0.2.1"}}}]}"#,
        r#"{"Records":[{"cf":{"request":{"uri":"/a","uri":"/b"}}}]}"#,
        deep.as_str(),
    ];
    for payload in payloads {
        let outcome = world.lambda.invoke(payload.to_owned()).await.expect("the function ended");
        if outcome.is_error {
            let error: Value = serde_json::from_slice(&outcome.body).unwrap();
            assert!(error["errorMessage"].as_str().is_some_and(|text| !text.is_empty()), "{error}");
            assert!(!payload.contains("\"request\""), "a request went without an answer: {payload}");
        }
    }
    assert_eq!(world.visit("/a", "192.0.2.1").await.summary(), "302 /site/beta/a");
}

#[tokio::test]
async fn a_payload_that_is_not_utf_8_is_a_clear_error_and_the_next_one_is_answered() {
    let mut world = World::new(launchdarkly(flag(1, true)).await, &[]).await;
    let in_text = event("/\u{7f}", "192.0.2.1").into_bytes();
    let in_text = in_text.into_iter().map(|byte| if byte == 0x7f { 0xff } else { byte }).collect::<Vec<_>>();
    for payload in [in_text, b"\"\xc3\"".to_vec()] {
        let outcome = world.lambda.invoke(payload).await.expect("the function ended");
        let error: Value = serde_json::from_slice(&outcome.body).unwrap();
        assert!(outcome.is_error);
        assert!(error["errorMessage"].as_str().unwrap().contains("invalid unicode code point at line 1"), "{error}");
        assert_eq!(world.visit("/a", "192.0.2.1").await.summary(), "302 /site/beta/a");
    }
}

#[tokio::test]
async fn without_a_key_the_function_is_offline_and_logs_that_first() {
    let lambda = RuntimeApi::start().await.unwrap();
    let function = start(&lambda, "http://127.0.0.1:1", &[("LAUNCHDARKLY_SDK_KEY", "")]);
    let launchdarkly = launchdarkly(flag(1, true)).await;
    let mut world = World { lambda, launchdarkly, function };
    let answered = world.visit("/", "192.0.2.1").await;
    assert!(world.function.log()[0].contains("offline mode"), "{:?}", world.function.log());
    assert_eq!(answered.line["data"], "bundled");
    assert_eq!(answered.line["source"], "bundled");
    assert_eq!(answered.line["reason"], "FALLTHROUGH");
    assert_eq!(answered.line["level"], "info");
    assert!(world.launchdarkly.seen().is_empty());
}

#[tokio::test]
async fn the_log_never_has_the_viewers_address_unless_enabled() {
    let mut world = World::new(launchdarkly(flag(1, true)).await, &[]).await;
    world.visit("/secret-path?secret-query", "192.0.2.77").await;
    let log = world.function.log().join("\n");
    assert!(!log.contains("192.0.2.77") && !log.contains("secret"), "{log}");

    let mut world = World::new(launchdarkly(flag(1, true)).await, &[("REDIRECT_LOG_CLIENT_IP", "true")]).await;
    assert_eq!(world.visit("/", "192.0.2.77").await.line["client_ip"], "192.0.2.77");
}

#[tokio::test]
async fn a_decision_line_has_the_data_behind_the_decision() {
    let mut world = World::new(launchdarkly(flag(7, true)).await, &[]).await;
    let first = world.visit("/a", "192.0.2.1").await.line;
    let expected = serde_json::json!({
        "level": "info", "message": "302 to /site/beta", "outcome": "redirect", "status": 302, "variation": true,
        "request_id": "4TyzHTaYWb1GX1qTfsHhEqV6HUDd_BzoBZnwfnvQc_1oF26ClkoUSEQ==", "reason": "FALLTHROUGH",
        "source": "launchdarkly", "data": "fresh", "flag_version": 7, "cold_start": true,
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&first[field], value, "{field}");
    }
    assert!(first["data_age_ms"].is_u64() && first["duration_us"].is_u64(), "{first}");
    let second = world.visit("/site/x", "192.0.2.1").await.line;
    assert_eq!(second["cold_start"], false);
    assert_eq!(second["outcome"], "pass-through");
    assert!(second.get("variation").is_none() && second.get("reason").is_none(), "{second}");
}

#[tokio::test]
async fn log_problems_logs_only_problems() {
    let world = World::new(launchdarkly(flag(1, true)).await, &[("REDIRECT_LOG", "problems")]).await;
    world.lambda.invoke(event("/a", "192.0.2.1")).await.unwrap();
    world.lambda.invoke(event("/b", "no address")).await.unwrap();
    world.lambda.polled(3).await;
    let log = world.function.log_when(|log| !log.is_empty()).await;
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].contains("no valid client IP"), "{log:?}");
}

fn any_text() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        Just("/".to_owned()),
        Just("site".to_owned()),
        Just("beta".to_owned()),
        Just("..".to_owned()),
        Just(".".to_owned()),
        Just("\\".to_owned()),
        Just("%2e".to_owned()),
        Just("%5C".to_owned()),
        Just("%2F".to_owned()),
        Just("%".to_owned()),
        Just("%25".to_owned()),
        Just("\r\n".to_owned()),
        Just("?".to_owned()),
        Just("#".to_owned()),
        Just("//evil.example".to_owned()),
        Just("index.html".to_owned()),
        Just(".css".to_owned()),
        Just("%62".to_owned()),
        Just("%32".to_owned()),
        ".*",
        "[a-z]{1,5}",
    ];
    prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
}

fn answer(method: &str, uri: &str, query: Option<&str>, verdict: Verdict) -> Option<Redirect> {
    let paths = Paths::new("/site", "/site/beta");
    Visit::new(&paths, Some(method), Some(uri), query, Signals::default()).answer(verdict)
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![Just(Verdict::Current), Just(Verdict::Beta), Just(Verdict::NoData)]
}

fn any_signals() -> impl Strategy<Value = Signals> {
    let preview = prop_oneof![
        Just(Preview::Absent),
        Just(Preview::Shown),
        Just(Preview::Outdated),
        Just(Preview::Begins),
        Just(Preview::Ends),
    ];
    (preview, any::<(bool, bool, bool)>()).prop_map(|(preview, (is_guarded, is_subresource, is_internal))| Signals {
        preview,
        is_guarded,
        is_subresource,
        is_internal,
    })
}

/// A `Location` as a browser follows it: with dot segments (also encoded ones), backslashes and a double slash
/// resolved.
fn followed(redirect: &Redirect) -> (String, Option<String>) {
    let (path, query) = match redirect.location.split_once('?') {
        Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
        None => (redirect.location.clone(), None),
    };
    for segment in path.split('/') {
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        assert!(plain != "." && plain != "..", "a dot segment in {path}");
    }
    (path, query)
}

fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_redirect_stays_below_the_site_and_is_a_clean_header(
        uri in any_text(), query in any_text(), method in ".{0,8}", verdict in any_verdict(),
    ) {
        if let Some(redirect) = answer(&method, &uri, Some(&query), verdict) {
            prop_assert!(redirect.location.bytes().all(|byte| byte.is_ascii_graphic()), "{:?}", redirect.location);
            prop_assert!(!redirect.location.contains('#'));
            let (path, _) = followed(&redirect);
            prop_assert!(!path.contains('\\'), "{path}");
            prop_assert!(is_below(&path, "/site"), "{path}");
            if !uri.contains("site") {
                prop_assert_eq!(is_below(&path, "/site/beta"), verdict == Verdict::Beta, "{}", path);
            }
            prop_assert_eq!(redirect.status, if matches!(method.as_str(), "GET" | "HEAD") { 302 } else { 307 });
        }
    }

    #[test]
    fn a_visit_ends_after_one_redirect_if_the_verdict_stays(uri in any_text(), query in any_text(), verdict in any_verdict()) {
        if let Some(redirect) = answer("GET", &uri, Some(&query), verdict) {
            let (path, query) = followed(&redirect);
            let again = answer("GET", &path, query.as_deref(), verdict);
            prop_assert_eq!(again, None, "{}", redirect.location);
        }
    }

    #[test]
    fn a_visit_ends_even_when_environments_disagree(uri in any_text(), verdicts in prop::collection::vec(any_verdict(), 8)) {
        let mut path = uri;
        let mut redirects = 0;
        for verdict in verdicts {
            match answer("GET", &path, None, verdict) {
                None => break,
                Some(redirect) => {
                    redirects += 1;
                    path = followed(&redirect).0;
                }
            }
        }
        prop_assert!(redirects <= 2, "{redirects} redirects");
    }

    #[test]
    fn the_current_site_is_never_redirected_to_beta(uri in any_text(), verdict in any_verdict()) {
        let uri = format!("/site/{uri}");
        if let Some(redirect) = answer("GET", &uri, None, Verdict::Current) {
            prop_assert!(!is_below(&followed(&redirect).0, "/site/beta"));
        }
        prop_assert_eq!(answer("GET", "/site/a", None, verdict), None);
    }

    #[test]
    fn at_the_root_a_redirect_stays_on_the_host_and_a_browser_never_loops(
        uri in any_text(), query in any_text(), signals in any_signals(), verdicts in prop::collection::vec(any_verdict(), 8),
    ) {
        let paths = Paths::new("/", "/beta");
        let (mut path, mut query, mut signals) = (uri, Some(query), signals);
        let mut redirects = 0;
        for verdict in verdicts {
            let visit = Visit::new(&paths, Some("GET"), Some(&path), query.as_deref(), signals);
            let Some(redirect) = visit.answer(verdict) else { break };
            redirects += 1;
            prop_assert!(redirect.location.bytes().all(|byte| byte.is_ascii_graphic()), "{:?}", redirect.location);
            (path, query) = followed(&redirect);
            prop_assert!(path.starts_with('/') && !path.starts_with("//") && !path.contains('\\'), "{path}");
            // The browser sends these with its next request.
            for cookie in redirect.cookies {
                match cookie {
                    Cookie::Guard => signals.is_guarded = true,
                    Cookie::Preview => signals.preview = Preview::Shown,
                    Cookie::PreviewOff => signals.preview = Preview::Absent,
                    Cookie::Visitor(id) => prop_assert!(false, "an id was set: {}", id),
                }
            }
        }
        prop_assert!(redirects <= 4, "{redirects} redirects");
    }

    #[test]
    fn a_clean_query_is_kept_unchanged(query in "[!-\"$-~]{0,200}") {
        let location = answer("GET", "/a", Some(&query), Verdict::Current).unwrap().location;
        let expected = if query.is_empty() { "/site/a".to_owned() } else { format!("/site/a?{query}") };
        prop_assert_eq!(location, expected);
    }

    #[test]
    fn any_values_in_any_field_give_a_valid_answer(
        fields in prop::collection::vec((prop_oneof![
            Just("uri"), Just("clientIp"), Just("method"), Just("querystring"), Just("headers"), Just("body"),
        ], any_json()), 0..6),
        event_type in any_json(),
    ) {
        let request: serde_json::Map<_, _> = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let payload = serde_json::json!({"Records": [{"cf": {"config": {"eventType": event_type}, "request": request}}]});
        let payload = serde_json::value::to_raw_value(&payload).unwrap();
        prop_assert!(redirect::cloudfront::Event::parse(&payload).is_ok());
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any_text().prop_map(Value::from),
        Just(Value::from("viewer-request")),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-z]{0,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
