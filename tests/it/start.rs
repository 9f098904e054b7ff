//! Valid and invalid settings and keys, and the messages of a start.

use crate::setup::{KEY, World, flag, launchdarkly, start};
use flag_data::sdk_key::SdkKey;
use redirect::settings::Settings;
use standins::RuntimeApi;

#[track_caller]
fn check(field: &str, value: &str, expected: &str) {
    let file = |name: &str| if name == field { Some(value.to_owned()) } else { crate::setup::field(name) };
    let outcome = match Settings::read(file, |_| None) {
        Ok(_) => "right".to_owned(),
        Err(error) => error.to_string(),
    };
    assert!(outcome.contains(expected), "{field} = {value}: {outcome}");
}

#[test]
fn an_invalid_setting_is_reported_with_its_value_and_what_is_expected() {
    check("flag_key", "rebrand", "right");
    check("flag_key", "", "redirect.toml: flag_key is \"\"; expected a LaunchDarkly flag key");
    check("flag_key", "a/b", "flag_key is \"a/b\"");
    check("flag_key", "..", "flag_key is \"..\"");
    check("launchdarkly_base_uri", "http://127.0.0.1:8030", "right");
    check("launchdarkly_base_uri", "sdk.launchdarkly.com", "expected an address such as");
    check("launchdarkly_events_uri", "https://a?b", "expected an address such as");
    check("launchdarkly_stream_uri", "https://", "expected an address such as");
    check("launchdarkly_base_uri", "https://relay.example:8030/launch/", "right");
    check("launchdarkly_base_uri", "http://[::1]:8030", "right");
    for wrong in ["https://a[b", "https://h/%zz|^", "https://host:99999", "https://:443", "https:///x", "https://a:b@c"]
    {
        check("launchdarkly_events_uri", wrong, "expected an address such as");
    }
    check(
        "updates",
        "push",
        "updates is \"push\"; expected one of \"between-invocations\", \"streaming\", \"polling\"",
    );
    check("fetch", "all", "expected one of \"items\", \"environment\"");
    check("events", "none", "expected one of \"full\", \"summary\", \"off\"");
    check("log", "", "expected one of \"all\", \"problems\"");
    check("log_client_ip", "yes", "expected one of \"true\", \"false\"");
    check("refresh_after_seconds", "-1", "expected a whole number of seconds from 0 to 3600");
    check("max_staleness_seconds", "1.5", "expected a whole number of seconds from 0 to 86400");
    check("viewer_budget_ms", "6000", "expected a whole number of milliseconds from 0 to 5000");
    check("function_timeout_seconds", "31", "expected a whole number of seconds from 1 to 30");
    check("bundled_max_age_hours", "", "expected a whole number of hours from 0 to 8760");
    check("current_path", "/", "right");
    check("current_path", "/v1.0/site_a~b-c", "right");
    check("beta_path", "/next", "right");
    check("beta_path", "/site/betas/new", "right");
    for wrong in [
        "",
        "site",
        "/site/",
        "//site",
        "/a//b",
        "/a/../b",
        "/.well-known",
        "/a b",
        "/%61",
        "/a?b",
        "/a*",
        "/é",
        "/a\\b",
        "/site/index.html",
    ] {
        check("current_path", wrong, "expected a path such as /site/beta");
        check("beta_path", wrong, "expected a path such as /site/beta");
    }
    check("beta_path", "/", "expected a path such as /site/beta");
    check("beta_path", "/site", "beta_path is \"/site\"; expected a path other than current_path (/site)");
    check("current_path", "/site/beta/a", "beta_path is \"/site/beta\"; expected a path other than current_path");
    check("beta_path", "/sit", "right");
    check("visitor_cookie", "__Host-id.1", "right");
    for wrong in ["a b", "a=b", "a;b", "é", "redirect-preview", "redirect-guard", &"a".repeat(65)] {
        check("visitor_cookie", wrong, "expected the name of a cookie");
    }
    check("visitor_cookie_days", "0", "right");
    check("visitor_cookie_days", "401", "expected a whole number of days from 0 to 400");
    check("context_headers", "User-Agent, accept-language,", "right");
    for wrong in ["cookie", "a,Authorization", "key", "kind", "anonymous", "name", "_meta", "a b", "a/b", "a:b"] {
        check("context_headers", wrong, "expected a comma-separated list of request headers");
    }
    check("init_budget_ms", "4500", "function_timeout_seconds is \"5\"; expected at least 6.5s");
    check("between_budget_ms", "0", "right");
    check("viewer_budget_ms", "0", "right");
    check("between_budget_ms", "3500", "right");
    check("between_budget_ms", "3501", "function_timeout_seconds is \"5\"; expected at least 5.001s");
}

#[test]
fn a_budget_without_time_for_fetches_is_rejected() {
    let no_time = |field: &str| field.ends_with("_budget_ms").then(|| "0".to_owned());
    let error = Settings::read(|field| no_time(field).or_else(|| crate::setup::field(field)), |_| None).err().unwrap();
    let expected = "between_budget_ms is \"0\"; expected more than 0";
    assert!(error.to_string().contains(expected), "{error}");
    // The SDK streams and polls on its own schedule.
    for updates in ["streaming", "polling"] {
        let own = |field: &str| (field == "updates").then(|| updates.to_owned());
        let file = |field: &str| own(field).or_else(|| no_time(field)).or_else(|| crate::setup::field(field));
        assert!(Settings::read(file, |_| None).is_ok(), "{updates}");
    }
}

#[test]
fn a_missing_setting_is_reported() {
    let error = Settings::read(|_| None, |_| None).err().unwrap().to_string();
    assert!(error.contains("flag_key is missing"), "{error}");
}

#[test]
fn an_invalid_key_is_rejected_and_never_shown() {
    assert_eq!(SdkKey::parse(" \n").unwrap(), None);
    let key = SdkKey::parse(&format!("{KEY}\n")).unwrap().unwrap();
    assert_eq!(key.reveal(), KEY);
    assert!(!format!("{key:?}").contains(KEY));
    for wrong in ["mob-secret", "api-secret", "sdk-secret with spaces", "sdk-secr\u{e9}t"] {
        let error = SdkKey::parse(wrong).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains("LAUNCHDARKLY_SDK_KEY") && !text.contains("secr"), "{text}");
    }
}

#[tokio::test]
async fn a_failed_start_reports_the_reason_to_lambda() {
    let lambda = RuntimeApi::start().await.unwrap();
    let mut function = start(&lambda, "http://127.0.0.1:1", &[("REDIRECT_EVENTS", "some")]);
    let error = lambda.init_error().await;
    assert!(error.contains("REDIRECT_EVENTS is \\\"some\\\"") && error.contains("StartError"), "{error}");
    assert_eq!(function.process.wait().await.unwrap().code(), Some(1));
    assert!(lambda.user_agents().is_empty());
    assert!(function.log()[0].contains("REDIRECT_EVENTS"), "{:?}", function.log());
}

#[tokio::test]
async fn environment_variables_override_compiled_in_settings() {
    let mut world = World::new(launchdarkly(flag(1, true)).await, &[("REDIRECT_FLAG_KEY", "other")]).await;
    let answered = world.visit("/a", "192.0.2.1").await;
    assert_eq!(answered.summary(), "302 /site/a");
    assert_eq!(answered.line["error_kind"], "FLAG_NOT_FOUND");
    assert!(answered.line["message"].as_str().unwrap().contains("\"other\" does not exist"));
    assert_eq!(world.launchdarkly.count("GET /sdk/flags/other"), 1);
}

#[tokio::test]
async fn the_key_is_sent_unchanged_and_never_logged() {
    let mut world = World::new(launchdarkly(flag(1, true)).await, &[("REDIRECT_FLUSH_AFTER_SECONDS", "0")]).await;
    world.visit("/a", "192.0.2.1").await;
    world.launchdarkly.asked("POST /bulk", 1).await;
    for seen in world.launchdarkly.seen() {
        assert_eq!(seen.headers()["authorization"], KEY, "{seen:?}");
    }
    assert!(!world.function.log().join("\n").contains(KEY));
}
