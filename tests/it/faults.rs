//! Faults, and the answers that viewers still get.

use crate::setup::{Answered, KEY, World, event, flag, launchdarkly, start};
use serde_json::{Value, json};
use standins::{Data, Fault, LaunchDarkly, RuntimeApi};
use std::fs;
use std::time::{Duration, SystemTime};

/// The function's timeout on Lambda@Edge: a later answer would be a 503.
const FUNCTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Later than the maximum staleness, but only by Lambda's deadlines.
fn ten_minutes_later(times: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(600) * u32::try_from(times).unwrap()
}

fn check(answered: &Answered, what: &str, summary: &str, data: &str) {
    assert_eq!(answered.summary(), summary, "{what}: {}", answered.line);
    assert_eq!(answered.line["data"], data, "{what}");
    assert!(answered.took < FUNCTION_TIMEOUT, "{what}: {:?}", answered.took);
}

/// The settings of redirect.toml, with a shorter start.
const BUDGETS: [(&str, &str); 3] =
    [("REDIRECT_INIT_BUDGET_MS", "400"), ("REDIRECT_VIEWER_BUDGET_MS", "300"), ("REDIRECT_BETWEEN_BUDGET_MS", "1500")];

/// A fault of LaunchDarkly, at a cold start and later. The log must contain `logged` once.
async fn check_fault(fetch: &str, what: &str, fault: Fault, logged: &str) {
    let what = &format!("{what}, {fetch}");
    let settings = [&BUDGETS[..], &[("REDIRECT_FETCH", fetch)]].concat();
    // At a cold start there is no data: the current site.
    let service = launchdarkly(flag(1, true)).await;
    service.fail(fault.clone());
    let mut world = World::new(service, &settings).await;
    for address in ["/a", "/b"] {
        let answered = world.visit(address, "192.0.2.1").await;
        check(&answered, what, &format!("302 /site{address}"), "default");
        assert_eq!(answered.line["error_kind"], "CLIENT_NOT_READY", "{what}");
        assert_eq!(answered.line["level"], "warn", "{what}");
    }
    let staying = world.visit("/site/beta/a", "192.0.2.1").await;
    assert_eq!(staying.summary(), "pass-through", "{what}: viewers on beta stay there without data");
    // At most once at the start, once while the viewer waits and once after a response, within one step of the backoff.
    assert!(world.launchdarkly.count("GET") <= 3, "{what}: {} requests", world.launchdarkly.count("GET"));
    let messages = world.messages();
    assert!(messages.iter().any(|line| line.contains(logged)), "{what}: no {logged:?} in {messages:?}");
    assert!(messages.len() <= 3, "{what}: {messages:?}");
    assert!(peak_memory_kb(&world) < 100 * 1024, "{what}: {} kB", peak_memory_kb(&world));

    // Later there is older data, which is used.
    let mut world = World::new(launchdarkly(flag(1, true)).await, &settings).await;
    check(&world.visit("/a", "192.0.2.1").await, what, "302 /site/beta/a", "fresh");
    world.launchdarkly.fail(fault);
    let answered = world.send_at(&event("/b", "192.0.2.1"), ten_minutes_later(1)).await;
    check(&answered, what, "302 /site/beta/b", "older");
    assert!(answered.line["data_age_ms"].as_u64().unwrap() >= 600_000, "{what}: {}", answered.line);
    assert!(world.launchdarkly.count("GET") >= 2, "{what}: no request");

    // When the fault is over, new data is used.
    world.launchdarkly.fail(Fault::None);
    world.launchdarkly.set_flag(&flag(2, false));
    // On a busy machine the fetch may take longer than a viewer waits; then the next viewer gets its data.
    let mut answered = world.send_at(&event("/c", "192.0.2.1"), ten_minutes_later(20)).await;
    if answered.line["data"] == "older" {
        answered = world.send_at(&event("/c", "192.0.2.1"), ten_minutes_later(20)).await;
    }
    check(&answered, what, "302 /site/c", "fresh");
}

fn peak_memory_kb(world: &World) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", world.function.process.id().unwrap())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Each fault, at the endpoints for single items and at the endpoint for the whole environment.
macro_rules! faults {
    ($($name:ident: $fault:expr => $logged:expr;)*) => {
        mod items {
            use super::*;
            $(#[tokio::test] async fn $name() { check_fault("items", stringify!($name), $fault, $logged).await })*
        }
        mod environment {
            use super::*;
            $(#[tokio::test] async fn $name() { check_fault("environment", stringify!($name), $fault, $logged).await })*
        }
    };
}

faults! {
    black_hole: Fault::BlackHole => "no answer within";
    slow_headers: Fault::SlowHeaders(Duration::from_secs(60)) => "no answer within";
    stalled_body: Fault::StalledBody => "no answer within";
    unauthorized: Fault::Status(401, None) => "rejected the SDK key (HTTP 401)";
    forbidden: Fault::Status(403, None) => "rejected the SDK key (HTTP 403)";
    throttled: Fault::Status(429, Some(2_000)) => "rate limiting (HTTP 429); retry after 2000s";
    server_error: Fault::Status(500, None) => "answered HTTP 500";
    unavailable: Fault::Status(503, None) => "answered HTTP 503";
    bad_request: Fault::Status(400, None) => "answered HTTP 400";
    cut_body: Fault::CutBody => "end of file before message length reached";
    reset_body: Fault::ResetBody => "Connection reset by peer";
    truncated_json: Fault::TruncatedJson => "cannot be read";
    html: Fault::Text("text/html", "<!doctype html><title>Sign in</title>") => "cannot be read";
    html_as_json: Fault::Text("application/json", "<!doctype html>") => "cannot be read";
    empty: Fault::Text("application/json", "") => "cannot be read";
    null: Fault::Text("application/json", "null") => "cannot be read";
    another_shape: Fault::Text("application/json", r#"{"key":"rebrand","version":2}"#) => "cannot be read: missing field";
    fifty_megabytes: Fault::Huge(50 << 20) => "is larger than";
    redirected: Fault::Redirect("https://elsewhere.example/") => "answered HTTP 302";
}

#[tokio::test]
async fn refused_connections() {
    let lambda = RuntimeApi::start().await.unwrap();
    let function = start(&lambda, "http://127.0.0.1:1", &[]);
    let launchdarkly = launchdarkly(flag(1, true)).await;
    let mut world = World { lambda, launchdarkly, function };
    check(&world.visit("/a", "192.0.2.1").await, "refused", "302 /site/a", "default");
    assert!(world.messages()[0].contains("refused"), "{:?}", world.messages());
}

#[tokio::test]
async fn not_modified_without_known_data() {
    let service = launchdarkly(flag(1, true)).await;
    service.fail(Fault::Status(304, None));
    let mut world = World::new(service, &[]).await;
    check(&world.visit("/a", "192.0.2.1").await, "304", "302 /site/a", "default");
    assert!(world.messages()[0].contains("answered HTTP 304"), "{:?}", world.messages());
}

#[tokio::test]
async fn a_wrong_content_type_does_not_matter() {
    let service = launchdarkly(flag(1, true)).await;
    let json: &'static str = Box::leak(flag(1, true).to_string().into_boxed_str());
    service.fail(Fault::Text("text/plain", json));
    let mut world = World::new(service, &[]).await;
    check(&world.visit("/a", "192.0.2.1").await, "text/plain", "302 /site/beta/a", "fresh");
}

#[tokio::test]
async fn a_missing_flag_gives_the_current_site_and_is_logged() {
    let mut world = World::new(LaunchDarkly::start(KEY, Data::default()).await.unwrap(), &[]).await;
    let answered = world.visit("/a", "192.0.2.1").await;
    check(&answered, "missing", "302 /site/a", "fresh");
    assert_eq!(answered.line["error_kind"], "FLAG_NOT_FOUND");
    assert!(answered.line["message"].as_str().unwrap().contains("\"rebrand\" does not exist"));
    assert_eq!(world.visit("/site/beta/a", "192.0.2.1").await.summary(), "302 /site/a");
}

#[tokio::test]
async fn a_flag_of_another_type_gives_the_current_site_and_is_logged() {
    let mut text = flag(1, true);
    text["variations"] = json!(["new", "old"]);
    let mut world = World::new(launchdarkly(text).await, &[]).await;
    let answered = world.visit("/a", "192.0.2.1").await;
    check(&answered, "text flag", "302 /site/a", "fresh");
    assert_eq!(answered.line["error_kind"], "WRONG_TYPE");
    assert!(answered.line["message"].as_str().unwrap().contains("\"rebrand\" is not a boolean flag"));
}

#[tokio::test]
async fn a_malformed_flag_does_not_affect_the_others() {
    for fetch in ["items", "environment"] {
        let service = launchdarkly(flag(1, true)).await;
        service.change(|data| {
            data.flags.insert("broken".to_owned(), json!({"key": "broken"}));
        });
        let mut world = World::new(service, &[("REDIRECT_FETCH", fetch)]).await;
        check(&world.visit("/a", "192.0.2.1").await, fetch, "302 /site/beta/a", "fresh");

        let mut needing = flag(2, true);
        needing["prerequisites"] = json!([{"key": "broken", "variation": 0}]);
        let service = launchdarkly(needing).await;
        service.change(|data| {
            data.flags.insert("broken".to_owned(), json!({"key": "broken"}));
        });
        let mut world = World::new(service, &[("REDIRECT_FETCH", fetch)]).await;
        // It counts as missing once it has been malformed for `max_staleness_seconds`.
        check(&world.visit("/a", "192.0.2.1").await, fetch, "302 /site/a", "default");
        let answered = world.send_at(&event("/a", "192.0.2.1"), ten_minutes_later(1)).await;
        check(&answered, fetch, "302 /site/a", "fresh");
        assert_eq!(answered.line["reason"], "PREREQUISITE_FAILED");
        assert!(world.messages()[0].contains("\\\"broken\\\" cannot be read"), "{:?}", world.messages());
    }
}

#[tokio::test]
async fn prerequisites_and_segments_are_fetched_too() {
    for fetch in ["items", "environment"] {
        let mut top = flag(1, true);
        top["prerequisites"] = json!([{"key": "base", "variation": 0}]);
        top["fallthrough"] = json!({"variation": 1});
        top["rules"] = json!([{"id": "r", "variation": 0, "trackEvents": false, "clauses": [
            {"attribute": "", "op": "segmentMatch", "values": ["testers"], "negate": false},
        ]}]);
        let mut base = flag(1, true);
        base["key"] = json!("base");
        let service = launchdarkly(top).await;
        service.change(|data| {
            data.flags.insert("base".to_owned(), base);
            data.segments.insert(
                "testers".to_owned(),
                json!({"key": "testers", "version": 1, "included": ["192.0.2.1"], "excluded": [], "rules": [], "salt": "s"}),
            );
            for number in 0..1_000 {
                data.flags.insert(format!("other-{number}"), flag(1, true));
            }
        });
        let mut world = World::new(service, &[("REDIRECT_FETCH", fetch)]).await;
        let answered = world.visit("/a", "192.0.2.1").await;
        check(&answered, fetch, "302 /site/beta/a", "fresh");
        assert_eq!(answered.line["reason"], "RULE_MATCH");
        check(&world.visit("/a", "192.0.2.2").await, fetch, "302 /site/a", "fresh");
        assert_eq!(world.launchdarkly.count("GET"), if fetch == "items" { 3 } else { 1 });
    }
}

#[tokio::test]
async fn nothing_is_fetched_when_nothing_is_due() {
    let mut world = World::new(launchdarkly(flag(1, true)).await, &[]).await;
    for _ in 0..20 {
        world.visit("/a", "192.0.2.1").await;
    }
    assert_eq!(world.launchdarkly.seen().len(), 1);
}

#[tokio::test]
async fn a_refresh_after_the_response_costs_viewers_no_time_and_requests_only_changes() {
    let mut world = World::new(launchdarkly(flag(1, true)).await, &[]).await;
    world.visit("/a", "192.0.2.1").await;
    // Due, but not too old: 20 of 60 seconds.
    let later = SystemTime::now() + Duration::from_secs(20);
    check(&world.send_at(&event("/b", "192.0.2.1"), later).await, "due", "302 /site/beta/b", "fresh");
    assert_eq!(world.launchdarkly.count("GET"), 2);
    assert!(world.launchdarkly.seen()[1].headers().contains_key("if-none-match"));
    // After the 304, the data counts as fetched: nothing is due.
    let later = SystemTime::now() + Duration::from_secs(30);
    check(&world.send_at(&event("/c", "192.0.2.1"), later).await, "304", "302 /site/beta/c", "fresh");
    assert_eq!(world.launchdarkly.count("GET"), 2);
    // A change is fetched after the next response, so the viewer after that gets it without a wait.
    world.launchdarkly.set_flag(&flag(2, false));
    let later = SystemTime::now() + Duration::from_secs(50);
    check(&world.send_at(&event("/d", "192.0.2.1"), later).await, "before", "302 /site/beta/d", "fresh");
    world.launchdarkly.fail(Fault::BlackHole);
    check(&world.send_at(&event("/e", "192.0.2.1"), later).await, "after", "302 /site/e", "fresh");
}

#[tokio::test]
async fn after_a_freeze_of_ten_minutes_the_next_decision_uses_the_new_value() {
    let mut world = World::new(launchdarkly(flag(1, true)).await, &[]).await;
    check(&world.visit("/a", "192.0.2.1").await, "before", "302 /site/beta/a", "fresh");
    world.function.freeze();
    world.launchdarkly.set_flag(&flag(2, false));
    world.launchdarkly.drop_connections();
    let lambda = &world.lambda;
    let function = &world.function;
    // Lambda thaws an environment when it has an event for it.
    let deadline = ten_minutes_later(1) + FUNCTION_TIMEOUT;
    let invocation = lambda.invoke_with_deadline(event("/a", "192.0.2.1"), deadline);
    let (outcome, ()) = tokio::join!(invocation, async { function.thaw() });
    let answer: Value = serde_json::from_slice(&outcome.unwrap().body).unwrap();
    assert_eq!(answer["headers"]["location"][0]["value"], "/site/a");
}

#[tokio::test]
async fn a_connection_is_reused_unless_it_was_idle_for_more_than_ten_seconds() {
    let settings = [("REDIRECT_REFRESH_AFTER_SECONDS", "0"), ("REDIRECT_EVENTS", "off")];
    let mut world = World::new(launchdarkly(flag(1, true)).await, &settings).await;
    let start = SystemTime::now();
    // Seconds by Lambda's deadlines, and the number of connections until then: the start makes one.
    for (second, connections) in [(0, 1), (5, 1), (14, 1), (25, 2), (30, 2), (630, 3)] {
        world.send_at(&event("/a", "192.0.2.1"), start + Duration::from_secs(second)).await;
        assert_eq!(world.launchdarkly.connections(), connections, "second {second}");
    }
    assert_eq!(world.launchdarkly.count("GET"), 8, "one at the start, one after each visit, one before the last");
}

#[tokio::test]
async fn a_payload_that_is_not_json_has_its_own_time_for_a_refresh() {
    let world = World::new(launchdarkly(flag(1, true)).await, &[("REDIRECT_REFRESH_AFTER_SECONDS", "0")]).await;
    let soon = SystemTime::now() + Duration::from_millis(100);
    world.lambda.invoke_with_deadline(event("/a", "192.0.2.1"), soon).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.lambda.idle().await;
    let before = world.launchdarkly.count("GET");
    assert!(world.lambda.invoke("not json".to_owned()).await.unwrap().is_error);
    world.lambda.idle().await;
    assert_eq!(world.launchdarkly.count("GET"), before + 1, "fetched after the response");
}

#[tokio::test]
async fn ten_minutes_that_only_the_deadlines_show_make_data_stale() {
    let mut world = World::new(launchdarkly(flag(1, true)).await, &[]).await;
    check(&world.visit("/a", "192.0.2.1").await, "before", "302 /site/beta/a", "fresh");
    world.launchdarkly.set_flag(&flag(2, false));
    check(&world.visit("/a", "192.0.2.1").await, "not yet", "302 /site/beta/a", "fresh");
    check(&world.send_at(&event("/a", "192.0.2.1"), ten_minutes_later(1)).await, "now", "302 /site/a", "fresh");
}

#[tokio::test]
async fn a_fetch_too_slow_for_the_viewer_continues_after_their_response() {
    let mut world = World::new(launchdarkly(flag(1, true)).await, &[("REDIRECT_VIEWER_BUDGET_MS", "50")]).await;
    world.visit("/a", "192.0.2.1").await;
    world.launchdarkly.set_flag(&flag(2, false));
    world.launchdarkly.fail(Fault::SlowHeaders(Duration::from_millis(400)));
    let answered = world.send_at(&event("/a", "192.0.2.1"), ten_minutes_later(1)).await;
    check(&answered, "too slow", "302 /site/beta/a", "older");
    let waited = answered.line["waited_us"].as_u64().unwrap();
    assert!((50_000..=answered.line["duration_us"].as_u64().unwrap()).contains(&waited), "{}", answered.line);
    let answered = world.send_at(&event("/a", "192.0.2.1"), ten_minutes_later(1)).await;
    check(&answered, "after", "302 /site/a", "fresh");
    assert_eq!(answered.line.get("waited_us"), None);
    assert_eq!(world.launchdarkly.count("GET"), 2, "one fetch served both");
    assert!(world.messages().is_empty(), "{:?}", world.messages());
}

#[tokio::test]
async fn a_viewer_waits_only_once_per_step_of_the_backoff() {
    let mut world = World::new(launchdarkly(flag(1, true)).await, &[]).await;
    world.visit("/a", "192.0.2.1").await;
    world.launchdarkly.fail(Fault::Status(503, None));
    let later = ten_minutes_later(1);
    for _ in 0..10 {
        check(&world.send_at(&event("/a", "192.0.2.1"), later).await, "503", "302 /site/beta/a", "older");
    }
    // On a slow machine, a first step of half a second may pass meanwhile.
    let asked = world.launchdarkly.count("GET");
    assert!((2..=5).contains(&asked), "{asked} requests for ten stale visits");
    assert_eq!(world.messages().len(), 1, "{:?}", world.messages());
}

#[tokio::test]
async fn a_rejected_key_is_retried_within_a_minute_and_logged_once() {
    let mut world = World::new(launchdarkly(flag(1, true)).await, &[]).await;
    world.visit("/a", "192.0.2.1").await;
    world.launchdarkly.fail(Fault::Status(401, None));
    let minutes = |count: u64| ten_minutes_later(1) + Duration::from_secs(61 * count);
    for minute in 0..10 {
        let answered = world.send_at(&event("/a", "192.0.2.1"), minutes(minute)).await;
        check(&answered, "401", "302 /site/beta/a", "older");
        assert_eq!(world.launchdarkly.count("GET"), 2 + usize::try_from(minute).unwrap(), "minute {minute}");
    }
    assert_eq!(world.messages().len(), 1, "{:?}", world.messages());
    world.launchdarkly.fail(Fault::None);
    let answered = world.send_at(&event("/a", "192.0.2.1"), minutes(20)).await;
    check(&answered, "accepted again", "302 /site/beta/a", "fresh");
    assert!(world.messages()[1].contains("works again"), "{:?}", world.messages());
}

#[tokio::test]
async fn retry_after_is_respected_up_to_the_longest_wait() {
    let mut world = World::new(launchdarkly(flag(1, true)).await, &[]).await;
    world.visit("/a", "192.0.2.1").await;
    world.launchdarkly.fail(Fault::Status(429, Some(40)));
    let seconds = |count| ten_minutes_later(1) + Duration::from_secs(count);
    for (second, requests) in [(0, 2), (20, 2), (35, 2), (45, 3)] {
        world.send_at(&event("/a", "192.0.2.1"), seconds(second)).await;
        assert_eq!(world.launchdarkly.count("GET"), requests, "second {second}");
    }
    // The longest that a header can ask for is longer than the longest wait, a minute.
    world.launchdarkly.fail(Fault::Status(429, Some(u64::MAX)));
    for (second, requests) in [(100, 4), (140, 4), (155, 4), (170, 5)] {
        world.send_at(&event("/a", "192.0.2.1"), seconds(second)).await;
        assert_eq!(world.launchdarkly.count("GET"), requests, "second {second}");
    }
}

#[tokio::test]
async fn a_time_to_live_that_is_too_long_is_logged_once() {
    let service = launchdarkly(flag(1, true)).await;
    service.set_max_age(Some(300));
    let mut world = World::new(service, &[("REDIRECT_REFRESH_AFTER_SECONDS", "0")]).await;
    for _ in 0..3 {
        world.visit("/a", "192.0.2.1").await;
    }
    let messages = world.messages();
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(messages[0].contains("300s") && messages[0].contains("TTL"), "{messages:?}");
}

/// A function whose package has this `flags.json`, and whose LaunchDarkly is unreachable.
async fn packaged(name: &str, contents: &str) -> World {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("flags.json"), contents).unwrap();
    let lambda = RuntimeApi::start().await.unwrap();
    let settings = [("LAMBDA_TASK_ROOT", folder.to_str().unwrap()), ("REDIRECT_VIEWER_BUDGET_MS", "100")];
    let function = start(&lambda, "http://127.0.0.1:1", &settings);
    World { lambda, launchdarkly: launchdarkly(flag(1, true)).await, function }
}

fn flags_json(age: Duration) -> String {
    let made: chrono::DateTime<chrono::Utc> = (SystemTime::now() - age).into();
    let made = made.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    json!({"fetched_at": made, "flags": {"rebrand": flag(5, true)}, "segments": {}}).to_string()
}

#[tokio::test]
async fn bundled_data_is_used_when_there_is_nothing_better() {
    let mut world = packaged("young", &flags_json(Duration::from_secs(3_600))).await;
    let answered = world.visit("/a", "192.0.2.1").await;
    check(&answered, "young", "302 /site/beta/a", "bundled");
    assert_eq!(answered.line["flag_version"], 5);
    assert!(answered.line["message"].as_str().unwrap().contains("flag data of the package"));
    let age = answered.line["data_age_ms"].as_u64().unwrap();
    assert!((3_600_000..4_200_000).contains(&age), "{age}");
}

#[tokio::test]
async fn bundled_data_that_is_too_old_is_not_used() {
    let mut world = packaged("old", &flags_json(Duration::from_secs(25 * 3_600))).await;
    check(&world.visit("/a", "192.0.2.1").await, "old", "302 /site/a", "default");
}

#[tokio::test]
async fn unreadable_bundled_data_is_logged_once() {
    for (contents, why) in [
        ("{\"fetched_at\": \"today\"}", "fetched_at is \\\"today\\\""),
        ("{}", "missing field `fetched_at`"),
        ("{\"fetched_at\": \"2026-01-02T03:04:05Z\"}", "missing field `flags`"),
        ("not json", "expected"),
    ] {
        let mut world = packaged("broken", contents).await;
        for _ in 0..3 {
            check(&world.visit("/a", "192.0.2.1").await, contents, "302 /site/a", "default");
        }
        let logged: Vec<_> = world.messages().into_iter().filter(|line| line.contains("flags.json")).collect();
        assert!(logged.len() == 1 && logged[0].contains(why), "{contents}: {logged:?}");
    }
}

#[tokio::test]
async fn streaming_and_polling_are_the_sdks_own() {
    let settings = [("REDIRECT_UPDATES", "streaming")];
    let mut world = World::new(launchdarkly(flag(1, true)).await, &settings).await;
    check(&world.visit("/a", "192.0.2.1").await, "streaming", "302 /site/beta/a", "sdk");
    assert_eq!(world.launchdarkly.count("GET /all"), 1);
    world.launchdarkly.set_flag(&flag(2, false));
    // The SDK receives the patch at its own time.
    let mut visits = 0;
    while world.visit("/a", "192.0.2.1").await.summary() != "302 /site/a" {
        visits += 1;
        assert!(visits < 10_000, "the stream's change did not arrive");
    }
    assert_eq!(world.launchdarkly.count("GET"), 1);

    let settings = [("REDIRECT_UPDATES", "polling")];
    let mut world = World::new(launchdarkly(flag(1, true)).await, &settings).await;
    let answered = world.visit("/a", "192.0.2.1").await;
    check(&answered, "polling", "302 /site/beta/a", "sdk");
    assert_eq!(answered.line["source"], "polling");
    assert_eq!(world.launchdarkly.count("GET /sdk/latest-all"), 1);
}

#[tokio::test]
async fn a_launchdarkly_that_never_answers_does_not_delay_the_start() {
    // Much longer than the budget, but short enough to detect a start that waits forever.
    let patience = Duration::from_secs(20);
    for updates in ["between-invocations", "streaming", "polling"] {
        let service = launchdarkly(flag(1, true)).await;
        service.fail(Fault::BlackHole);
        let settings = [("REDIRECT_UPDATES", updates), ("REDIRECT_INIT_BUDGET_MS", "200")];
        let world = World::new(service, &settings).await;
        let asked = tokio::time::timeout(patience, world.lambda.polled(1)).await;
        assert!(asked.is_ok(), "{updates}: no event was requested");
    }
}

#[tokio::test]
async fn the_work_after_a_response_ends_before_the_deadline() {
    let settings = [("REDIRECT_REFRESH_AFTER_SECONDS", "0")];
    let world = World::new(launchdarkly(flag(1, true)).await, &settings).await;
    world.lambda.polled(1).await;
    world.launchdarkly.fail(Fault::BlackHole);
    // The budget between invocations is 10 s, but the deadline is in 3 s, and all work must end half a second before
    // it.
    let deadline = SystemTime::now() + Duration::from_secs(3);
    world.lambda.invoke_with_deadline(event("/a", "192.0.2.1"), deadline).await.unwrap();
    world.lambda.polled(2).await;
    assert!(SystemTime::now() < deadline, "Lambda would have ended the environment");
    assert_eq!(world.launchdarkly.count("GET"), 2);
}

#[tokio::test]
async fn a_cold_start_fetch_that_a_freeze_ended_is_retried() {
    let service = launchdarkly(flag(1, true)).await;
    service.fail(Fault::BlackHole);
    let settings = [
        ("REDIRECT_INIT_BUDGET_MS", "100"),
        ("REDIRECT_VIEWER_BUDGET_MS", "400"),
        ("REDIRECT_BETWEEN_BUDGET_MS", "400"),
    ];
    let mut world = World::new(service, &settings).await;
    world.lambda.polled(1).await;
    world.function.freeze();
    world.launchdarkly.fail(Fault::None);
    // Longer than the attempt may take, by the machine's own clocks: there is no deadline yet.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    world.function.thaw();
    check(&world.visit("/a", "192.0.2.1").await, "thawed", "302 /site/beta/a", "fresh");
}

#[tokio::test]
async fn throttling_without_a_wait_still_causes_a_wait() {
    let mut world = World::new(launchdarkly(flag(1, true)).await, &[]).await;
    world.visit("/a", "192.0.2.1").await;
    world.launchdarkly.fail(Fault::Status(429, Some(0)));
    let later = ten_minutes_later(1);
    for _ in 0..10 {
        world.send_at(&event("/a", "192.0.2.1"), later).await;
    }
    let asked = world.launchdarkly.count("GET");
    assert!((2..=5).contains(&asked), "{asked} requests for ten stale visits");
}

#[tokio::test]
async fn too_many_large_segments_are_rejected_before_memory_runs_out() {
    let mut top = flag(1, true);
    let keys: Vec<_> = (0..40).map(|number| format!("segment-{number}")).collect();
    top["rules"] = json!([{"id": "r", "variation": 0, "trackEvents": false, "clauses": [
        {"attribute": "", "op": "segmentMatch", "values": keys, "negate": false},
    ]}]);
    let service = launchdarkly(top).await;
    service.change(|data| {
        for key in &keys {
            let included = "x".repeat(1_000_000);
            data.segments.insert(
                key.clone(),
                json!({"key": key, "version": 1, "included": [included], "excluded": [], "rules": [], "salt": "s"}),
            );
        }
    });
    let mut world = World::new(service, &[]).await;
    check(&world.visit("/a", "192.0.2.1").await, "large segments", "302 /site/a", "default");
    assert!(world.messages()[0].contains("is larger than"), "{:?}", world.messages());
    assert!(peak_memory_kb(&world) < 100 * 1024, "{} kB", peak_memory_kb(&world));
}

#[tokio::test]
async fn the_sdks_messages_never_have_the_viewers_address() {
    let mut odd = flag(1, true);
    odd["rules"] = json!([{"id": "r", "variation": 0, "trackEvents": false, "clauses": [
        {"attribute": "key", "op": "matches", "values": ["^(?!10\\.).*"], "negate": false},
    ]}]);
    let mut world = World::new(launchdarkly(odd).await, &[]).await;
    for _ in 0..3 {
        world.visit("/a", "192.0.2.77").await;
    }
    let messages = world.messages();
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(messages[0].contains("LaunchDarkly's evaluation"), "{messages:?}");
    assert!(!world.function.log().join("\n").contains("192.0.2.77"));
}

#[tokio::test]
async fn a_rejected_stream_does_not_delay_the_start() {
    let service = launchdarkly(flag(1, true)).await;
    let settings = [("REDIRECT_UPDATES", "streaming"), ("REDIRECT_INIT_BUDGET_MS", "200")];
    let lambda = RuntimeApi::start().await.unwrap();
    let function = start(&lambda, "http://127.0.0.1:1", &settings);
    let mut world = World { lambda, launchdarkly: service, function };
    let answered = world.visit("/a", "192.0.2.1").await;
    check(&answered, "no stream", "302 /site/a", "sdk");
    assert_eq!(answered.line["error_kind"], "CLIENT_NOT_READY");
}
