//! The preview as a process: how it starts, what it refuses, and that it leaves nothing behind. What a person does with
//! it in a browser is in `browser.test.mjs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod setup;

use http::StatusCode;
use serde_json::{Value, json};
use setup::{Alternative, Preview, eventually, is_frozen, is_gone};
use standins::{Data, LaunchDarkly};
use std::net::TcpListener;

#[tokio::test]
async fn a_visit_is_redirected_and_served() {
    let preview = Preview::start(&[], &[]).await;
    let redirect = preview.get("/about.html?a=b").await;
    assert_eq!(redirect.status(), StatusCode::FOUND);
    let location = redirect.headers()["location"].to_str().unwrap();
    assert!(["/site/about.html?a=b", "/site/beta/about.html?a=b"].contains(&location), "{location}");
    assert_eq!(redirect.headers()["x-cache"], "LambdaGeneratedResponse from cloudfront");

    for (path, status, cache) in [
        ("/site/index.html", 200, "Miss from cloudfront"),
        ("/site/beta/style.css", 200, "Miss from cloudfront"),
        ("/site/nothing.html", 404, "Error from cloudfront"),
        ("/site/nothing/", 404, "Error from cloudfront"),
        ("/site/beta/../../Cargo.toml", 302, "LambdaGeneratedResponse from cloudfront"),
        ("/site/..%2f..%2fCargo.toml", 404, "Error from cloudfront"),
    ] {
        let response = preview.get(path).await;
        assert_eq!(response.status().as_u16(), status, "{path}");
        assert_eq!(response.headers()["x-cache"], cache, "{path}");
    }
    let page = preview.get("/site/index.html").await;
    assert_eq!(page.headers()["x-frame-options"], "SAMEORIGIN");
    assert!(String::from_utf8_lossy(page.body()).contains("You are on the current site"));
}

#[tokio::test]
async fn methods_follow_the_behavior() {
    let preview = Preview::start(&[], &[]).await;
    let send = async |method, path| preview.send(method, path, None).await.status().as_u16();
    assert_eq!(send("POST", "/form").await, 307);
    assert_eq!(send("POST", "/site/index.html").await, 403);
    assert_eq!(send("OPTIONS", "/site/index.html").await, 404, "S3 lets CloudFront get objects and nothing else");
}

#[tokio::test]
async fn a_port_in_use_is_reported() {
    let used = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = used.local_addr().unwrap().port().to_string();
    let (code, message) = Preview::refused(&["--port", &port], &[]).await;
    assert_eq!(code, Some(1));
    assert_eq!(message, format!("port {port} is in use: stop its program, or choose another port with --port\n"));
}

#[tokio::test]
async fn live_needs_a_key() {
    let (code, message) = Preview::refused(&["--live", "--port", "0"], &[]).await;
    assert_eq!(code, Some(1));
    assert!(message.contains("LAUNCHDARKLY_SDK_KEY"), "{message}");
}

#[tokio::test]
async fn an_interrupt_leaves_no_process() {
    let mut preview = Preview::start(&["--freeze"], &[]).await;
    let function = preview.visited_and_frozen().await;
    preview.signal(libc::SIGINT);
    assert_eq!(preview.ended().await, Some(0));
    assert!(is_gone(function));
}

#[tokio::test]
async fn a_killed_preview_leaves_no_process_even_a_frozen_one() {
    let mut preview = Preview::start(&["--freeze"], &[]).await;
    let function = preview.visited_and_frozen().await;
    preview.signal(libc::SIGKILL);
    preview.ended().await;
    eventually("the function is gone", || is_gone(function)).await;
}

#[tokio::test]
async fn a_frozen_function_answers_and_is_frozen_again() {
    let preview = Preview::start(&["--freeze"], &[]).await;
    let function = preview.visited_and_frozen().await;
    assert_eq!(preview.get("/").await.status(), StatusCode::FOUND);
    eventually("it is frozen again", || is_frozen(function)).await;
}

/// A real environment, as far as the preview can tell, with these changes of the flag.
async fn real_one(changes: &Value) -> LaunchDarkly {
    let offline: Value = serde_json::from_str(include_str!("../../../src/flags/offline-flags.json")).unwrap();
    let mut flag = offline["flags"]["rebrand"].as_object().unwrap().clone();
    flag.extend(changes.as_object().unwrap().clone());
    let data = Data { flags: [("rebrand".to_owned(), flag.into())].into_iter().collect(), ..Data::default() };
    LaunchDarkly::start("sdk-of-a-real-one", data).await.unwrap()
}

#[tokio::test]
async fn rules_look_at_the_headers_of_the_settings() {
    let clause = json!({"contextKind": "user", "attribute": "host", "op": "startsWith", "values": ["127.0.0.1"]});
    let rules = json!([{"id": "here", "clauses": [clause], "variation": 0, "trackEvents": false}]);
    let launchdarkly = real_one(&json!({"fallthrough": {"variation": 1}, "rules": rules})).await;
    let uri = launchdarkly.uri();
    for (headers, expected) in [("", "/site/index.html"), ("host", "/site/beta/index.html")] {
        let variables = [
            ("LAUNCHDARKLY_SDK_KEY", "sdk-of-a-real-one"),
            ("LAUNCHDARKLY_BASE_URI", &uri),
            ("REDIRECT_CONTEXT_HEADERS", headers),
        ];
        let preview = Preview::start(&["--live"], &variables).await;
        assert_eq!(preview.get("/").await.headers()["location"], expected, "{headers:?}");
    }
}

#[tokio::test]
async fn a_real_environment_is_read_and_never_written() {
    let launchdarkly = real_one(&json!({"fallthrough": {"variation": 0}})).await;
    let uri = launchdarkly.uri();
    let variables = [
        ("LAUNCHDARKLY_SDK_KEY", "sdk-of-a-real-one"),
        ("LAUNCHDARKLY_BASE_URI", &uri),
        ("LAUNCHDARKLY_EVENTS_URI", &uri),
    ];
    let preview = Preview::start(&["--live"], &variables).await;

    let state = preview.state(|state| state["flag"]["new_site_percent"] == 100.0).await;
    assert_eq!(state["is_live"], true);
    assert_eq!(state["population"]["new"], 1_000);
    assert_eq!(preview.get("/").await.headers()["location"], "/site/beta/index.html");

    let off = json!({"on": false, "new_site_percent": 0, "targets": []});
    for (path, body) in [("/__preview/flag", off), ("/__preview/fault", json!({"fault": "down"}))] {
        let refusal = preview.send("PUT", path, Some(body)).await;
        assert_eq!(refusal.status(), StatusCode::UNPROCESSABLE_ENTITY, "{path}");
        assert!(String::from_utf8_lossy(refusal.body()).contains("only reads"), "{path}");
    }
    assert_eq!(preview.get("/").await.headers()["location"], "/site/beta/index.html");
    assert_eq!(launchdarkly.count("POST"), 0, "no events");
}

#[tokio::test]
async fn what_cannot_be_set_is_refused_with_a_reason() {
    let preview = Preview::start(&[], &[]).await;
    for (path, body, expected) in [
        ("/__preview/flag", json!({"on": true, "new_site_percent": 101, "targets": []}), "choose 0 to 100"),
        ("/__preview/viewer", json!({"key": "me"}), "not an IP address"),
    ] {
        let refusal = preview.send("PUT", path, Some(body)).await;
        assert_eq!(refusal.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert!(String::from_utf8_lossy(refusal.body()).contains(expected), "{path}");
    }
}

#[tokio::test]
async fn the_sites_lie_where_the_settings_have_them() {
    for (current, beta, found, missing) in [
        ("/shop", "/next", ["/shop/style.css", "/next/style.css"], ["/site/style.css", "/shop/beta/style.css"]),
        ("/", "/new/shop", ["/style.css", "/new/shop/style.css"], ["/site/style.css", "/beta/style.css"]),
    ] {
        let variables = [("REDIRECT_CURRENT_PATH", current), ("REDIRECT_BETA_PATH", beta)];
        let preview = Preview::start(&[], &variables).await;
        for (paths, expected) in [(found, StatusCode::OK), (missing, StatusCode::NOT_FOUND)] {
            for path in paths {
                let mut response = preview.get(path).await;
                // An address outside both sites enters one of them.
                if let Some(location) = response.headers().get("location") {
                    response = preview.get(location.to_str().unwrap()).await;
                }
                assert_eq!(response.status(), expected, "{path} with {current}");
            }
        }
    }
}

#[tokio::test]
async fn a_setting_that_does_not_fit_is_refused() {
    for (name, value) in [("REDIRECT_BETA_PATH", "/"), ("REDIRECT_PREVIEW_TOKEN", "too-short")] {
        let (code, message) = Preview::refused(&["--port", "0"], &[(name, value)]).await;
        assert_eq!(code, Some(1));
        assert!(message.contains(name) && !message.contains("too-short"), "{message}");
    }
}

/// What the viewer gets when the function answers like this.
async fn check_answer(function_answer: &str, status: u16, cache: &str, reason: &str) {
    let alternative = Alternative::new(function_answer);
    let preview = Preview::start_with(&alternative.preview()).await;
    let response = preview.get("/").await;
    assert_eq!(response.status().as_u16(), status, "{function_answer}");
    assert_eq!(response.headers()["x-cache"], cache, "{function_answer}");
    let page = String::from_utf8_lossy(response.body());
    assert!(page.contains(reason), "{page}");
}

#[tokio::test]
async fn a_broken_rule_is_shown_as_the_502_it_would_be() {
    let cache = "LambdaValidationError from cloudfront";
    check_answer(r#"response {"status": "302", "headers": {"x-edge-a": []}}"#, 502, cache, "x-edge-a").await;
    check_answer("response not json", 502, cache, "not a JSON object").await;
}

#[tokio::test]
async fn a_failing_function_is_shown_as_the_503_it_would_be() {
    let cache = "LambdaExecutionError from cloudfront";
    check_answer(r#"error {"errorMessage": "out of luck"}"#, 503, cache, "out of luck").await;
    check_answer("exit 3", 503, cache, "without an answer (exit status: 3)").await;
    check_answer("silence", 503, cache, "took longer than 5s").await;
    check_answer("init-error no luck at all", 503, cache, "no luck at all").await;
}
