//! The events of evaluations that LaunchDarkly receives.

use crate::setup::{World, event, flag, launchdarkly, start_program};
use serde_json::{Value, json};
use standins::{Fault, RuntimeApi};
use std::time::{Duration, SystemTime};

fn of_kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["kind"] == kind).collect()
}

fn counted(events: &[Value]) -> u64 {
    let counters = of_kind(events, "summary")
        .into_iter()
        .flat_map(|summary| summary["features"]["rebrand"]["counters"].as_array().cloned().unwrap_or_default());
    counters.map(|counter| counter["count"].as_u64().unwrap()).sum()
}

#[tokio::test]
async fn evaluations_are_sent_to_launchdarkly_when_they_are_due_and_not_before() {
    let mut world = World::new(launchdarkly(flag(3, true)).await, &[("REDIRECT_REFRESH_AFTER_SECONDS", "3600")]).await;
    for ip in ["192.0.2.1", "192.0.2.2", "192.0.2.1"] {
        world.visit("/a", ip).await;
    }
    assert_eq!(world.launchdarkly.count("POST"), 0);
    let later = SystemTime::now() + Duration::from_secs(31);
    world.send_at(&event("/a", "192.0.2.3"), later).await;
    assert_eq!(world.launchdarkly.count("POST /bulk"), 1, "sent before the next event was requested");
    let events = world.launchdarkly.events();
    assert_eq!(counted(&events), 4);
    assert_eq!(of_kind(&events, "index").len(), 3, "{events:?}");
    assert_eq!(of_kind(&events, "summary")[0]["features"]["rebrand"]["counters"][0]["version"], 3);
    let seen = world.launchdarkly.seen();
    let bulk = seen.iter().find(|seen| seen.uri().path() == "/bulk").unwrap();
    assert_eq!(bulk.headers()["x-launchdarkly-event-schema"], "4");
    assert!(bulk.headers().contains_key("x-launchdarkly-payload-id"));
}

#[tokio::test]
async fn a_frozen_and_killed_environment_loses_only_events_that_were_not_due() {
    let mut world = World::new(launchdarkly(flag(3, true)).await, &[("REDIRECT_FLUSH_AFTER_SECONDS", "0")]).await;
    for ip in ["192.0.2.1", "192.0.2.2"] {
        world.visit("/a", ip).await;
        world.function.freeze();
        world.function.thaw();
    }
    world.function.process.kill().await.unwrap();
    assert_eq!(counted(&world.launchdarkly.events()), 2);
}

#[tokio::test]
async fn many_evaluations_are_sent_before_they_are_due() {
    let settings = [("REDIRECT_FLUSH_AFTER_SECONDS", "3600"), ("REDIRECT_REFRESH_AFTER_SECONDS", "3600")];
    let mut world = World::new(launchdarkly(flag(3, true)).await, &settings).await;
    for number in 0..201 {
        world.visit("/a", &format!("10.0.{}.{}", number / 256, number % 256)).await;
    }
    let events = world.launchdarkly.events();
    assert_eq!(world.launchdarkly.count("POST /bulk"), 2);
    assert_eq!(counted(&events), 200);
    assert_eq!(of_kind(&events, "index").len(), 200);
}

/// Each part of a flag that requests more than counts.
fn tracked_flags() -> Vec<(&'static str, Value)> {
    let experiment = json!({"rollout": {"kind": "experiment", "contextKind": "user", "seed": 7, "variations": [
        {"variation": 0, "weight": 100_000, "untracked": false}, {"variation": 1, "weight": 0},
    ]}});
    let with = |change: fn(&mut Value, &Value)| {
        let mut flag = flag(3, true);
        change(&mut flag, &experiment);
        flag
    };
    vec![
        ("trackEvents", with(|flag, _| flag["trackEvents"] = json!(true))),
        ("trackEventsFallthrough", with(|flag, _| flag["trackEventsFallthrough"] = json!(true))),
        ("debugEventsUntilDate", with(|flag, _| flag["debugEventsUntilDate"] = json!(99_999_999_999_999_u64))),
        ("an experiment", with(|flag, experiment| flag["fallthrough"] = experiment.clone())),
        (
            "a rule",
            with(|flag, _| {
                flag["rules"] = json!([{"id": "r", "variation": 0, "trackEvents": true, "clauses": [
                    {"attribute": "key", "op": "startsWith", "values": ["192."], "negate": false},
                ]}]);
            }),
        ),
        (
            "an experiment in a rule",
            with(|flag, experiment| {
                let mut rule = experiment.clone();
                rule["id"] = json!("r");
                rule["trackEvents"] = json!(false);
                rule["clauses"] =
                    json!([{"attribute": "key", "op": "startsWith", "values": ["192."], "negate": false}]);
                flag["rules"] = json!([rule]);
            }),
        ),
        ("a prerequisite", with(|flag, _| flag["prerequisites"] = json!([{"key": "base", "variation": 0}]))),
    ]
}

#[tokio::test]
async fn in_summary_no_address_is_sent_whatever_the_flag_requests() {
    for (place, flag) in tracked_flags() {
        for (setting, updates, tells) in [
            ("full", "between-invocations", true),
            ("summary", "between-invocations", false),
            ("summary", "streaming", false),
            ("summary", "polling", false),
        ] {
            let service = launchdarkly(flag.clone()).await;
            let mut base = crate::setup::flag(1, true);
            base["key"] = json!("base");
            base["trackEvents"] = json!(true);
            service.change(|data| {
                data.flags.insert("base".to_owned(), base);
            });
            let settings =
                [("REDIRECT_EVENTS", setting), ("REDIRECT_UPDATES", updates), ("REDIRECT_FLUSH_AFTER_SECONDS", "0")];
            let mut world = World::new(service, &settings).await;
            let answered = world.visit("/a", "192.0.2.99").await;
            assert_eq!(answered.summary(), "302 /site/beta/a", "{place}");
            let events = world.launchdarkly.received(|events| !events.is_empty()).await;
            assert_eq!(counted(&events), 1, "{place}, {setting}");
            let detailed = of_kind(&events, "feature").len() + of_kind(&events, "debug").len();
            assert_eq!(detailed > 0, tells, "{place}, {setting}: {events:?}");
            assert_eq!(json!(events).to_string().contains("192.0.2.99"), tells, "{place}, {setting}: {events:?}");
            assert!(!json!(events).to_string().contains("anonymous") || !tells, "{place}");
        }
    }
}

#[tokio::test]
async fn launchdarkly_counts_visits_not_pages() {
    for updates in ["between-invocations", "streaming", "polling"] {
        for value in [true, false] {
            let what = &format!("{updates}, {value}");
            let settings = [
                ("REDIRECT_UPDATES", updates),
                ("REDIRECT_FLUSH_AFTER_SECONDS", "0"),
                ("REDIRECT_REFRESH_AFTER_SECONDS", "3600"),
            ];
            let mut world = World::new(launchdarkly(flag(3, value)).await, &settings).await;
            for visit in 0..10 {
                let ip = format!("192.0.2.{visit}");
                let expected = if value { "302 /site/beta/a" } else { "302 /site/a" };
                assert_eq!(world.visit("/a", &ip).await.summary(), expected, "{what}");
                for page in ["a", "b/c.html", "d/", ""] {
                    let answered = world.visit(&format!("/site/beta/{page}"), &ip).await;
                    assert_eq!(answered.line["variation"], value, "{what}: {}", answered.line);
                    assert_eq!(answered.line["reason"], "FALLTHROUGH", "{what}");
                }
            }
            let events = world.launchdarkly.received(|events| counted(events) >= 10).await;
            assert_eq!(counted(&events), 10, "{what}");
            assert_eq!(of_kind(&events, "index").len(), 10, "{what}");
        }
    }
}

#[tokio::test]
async fn a_page_that_is_decided_again_without_an_event_has_the_same_reasons() {
    let mut text = flag(1, true);
    text["variations"] = json!(["new", "old"]);
    let mut malformed = flag(1, true);
    malformed["fallthrough"] = json!({"variation": 7});
    let mut off = flag(1, true);
    off["on"] = json!(false);
    let mut off_without_variation = off.clone();
    off_without_variation["offVariation"] = json!(null);
    for flag in [flag(1, true), flag(1, false), off, off_without_variation, text, malformed] {
        let mut lines = Vec::new();
        for updates in ["between-invocations", "streaming"] {
            let mut world = World::new(launchdarkly(flag.clone()).await, &[("REDIRECT_UPDATES", updates)]).await;
            let answered = world.visit("/site/beta/a", "192.0.2.1").await;
            let fields = ["variation", "reason", "error_kind"].map(|field| answered.line[field].clone());
            lines.push((answered.summary(), fields));
        }
        assert_eq!(lines[0], lines[1], "{flag}");
    }
}

#[tokio::test]
async fn off_means_no_event_requests() {
    let settings = [("REDIRECT_EVENTS", "off"), ("REDIRECT_FLUSH_AFTER_SECONDS", "0")];
    let mut world = World::new(launchdarkly(flag(3, true)).await, &settings).await;
    world.visit("/a", "192.0.2.1").await;
    assert_eq!(world.launchdarkly.seen().len(), 1);
}

/// While events cannot be delivered, viewers do not notice, and the log reports it once. Later events arrive again.
async fn check_events_fault(what: &str, fault: Fault, logged: &str) {
    let settings = [
        ("REDIRECT_FLUSH_AFTER_SECONDS", "0"),
        ("REDIRECT_REFRESH_AFTER_SECONDS", "3600"),
        ("REDIRECT_BETWEEN_BUDGET_MS", "1500"),
    ];
    let mut world = World::new(launchdarkly(flag(3, true)).await, &settings).await;
    world.launchdarkly.fail_events(fault);
    let start = SystemTime::now();
    for minute in 0..2 {
        let later = start + Duration::from_secs(minute * 600);
        let answered = world.send_at(&event("/a", "192.0.2.1"), later).await;
        assert_eq!(answered.summary(), "302 /site/beta/a", "{what}");
    }
    let ours: Vec<_> = world.messages().into_iter().filter(|line| line.contains("events not delivered")).collect();
    assert_eq!(ours.len(), 1, "{what}: {:?}", world.messages());
    assert!(ours[0].contains(logged), "{what}: {ours:?}");

    world.launchdarkly.fail_events(Fault::None);
    world.send_at(&event("/a", "192.0.2.1"), start + Duration::from_secs(1_800)).await;
    world.launchdarkly.received(|events| counted(events) >= 1).await;
}

macro_rules! events_faults {
    ($($name:ident: $fault:expr => $logged:expr;)*) => {
        $(#[tokio::test] async fn $name() { check_events_fault(stringify!($name), $fault, $logged).await })*
    };
}

events_faults! {
    events_hang: Fault::BlackHole => "no answer within";
    events_too_large: Fault::Status(413, None) => "HTTP 413";
    events_refused: Fault::Status(401, None) => "HTTP 401";
    events_forbidden: Fault::Status(403, None) => "HTTP 403";
    events_unavailable: Fault::Status(503, None) => "HTTP 503";
    events_throttled: Fault::Status(429, None) => "HTTP 429";
}

#[tokio::test]
async fn failed_events_are_not_resent_and_the_next_ones_wait() {
    let settings = [("REDIRECT_FLUSH_AFTER_SECONDS", "0"), ("REDIRECT_REFRESH_AFTER_SECONDS", "3600")];
    let mut world = World::new(launchdarkly(flag(3, true)).await, &settings).await;
    world.launchdarkly.fail_events(Fault::Status(429, Some(40)));
    let start = SystemTime::now();
    // The SDK sends each batch twice.
    for (second, requests) in [(0, 2), (20, 2), (35, 2), (45, 4)] {
        world.send_at(&event("/a", "192.0.2.1"), start + Duration::from_secs(second)).await;
        assert_eq!(world.launchdarkly.count("POST /bulk"), requests, "second {second}");
    }
    world.launchdarkly.fail_events(Fault::None);
    let next = start + Duration::from_secs(100);
    world.send_at(&event("/a", "192.0.2.1"), next).await;
    assert_eq!(counted(&world.launchdarkly.events()), 1, "the SDK drops failed events");
    assert_eq!(world.launchdarkly.count("POST /bulk"), 5);
    world.send_at(&event("/a", "192.0.2.1"), next + Duration::from_secs(1)).await;
    assert_eq!(world.launchdarkly.count("POST /bulk"), 6, "the backoff has ended");
}

#[tokio::test]
async fn an_events_server_that_is_down_does_not_affect_viewers() {
    let settings = [("REDIRECT_FLUSH_AFTER_SECONDS", "0"), ("LAUNCHDARKLY_EVENTS_URI", "http://127.0.0.1:1")];
    let mut world = World::new(launchdarkly(flag(3, true)).await, &settings).await;
    for _ in 0..3 {
        assert_eq!(world.visit("/a", "192.0.2.1").await.summary(), "302 /site/beta/a");
    }
    let messages = world.messages();
    let ours: Vec<_> = messages.iter().filter(|line| line.contains("events not delivered")).collect();
    assert!(!ours.is_empty() && ours.len() <= 2, "{messages:?}");
}

#[tokio::test]
async fn a_regional_function_sends_its_last_events_at_shutdown() {
    let launchdarkly = launchdarkly(flag(3, true)).await;
    let lambda = RuntimeApi::start().await.unwrap();
    let function = start_program(env!("CARGO_BIN_EXE_regional"), &lambda, &launchdarkly.uri(), &[]);
    let mut world = World { lambda, launchdarkly, function };
    world.visit("/a", "192.0.2.1").await;
    assert_eq!(world.lambda.extensions(), 1);
    assert_eq!(world.launchdarkly.count("POST"), 0);
    world.function.terminate();
    assert!(world.function.process.wait().await.unwrap().success());
    assert_eq!(counted(&world.launchdarkly.events()), 1);
}

#[tokio::test]
async fn the_edge_function_registers_nothing() {
    let mut world = World::new(launchdarkly(flag(3, true)).await, &[]).await;
    world.visit("/a", "192.0.2.1").await;
    assert_eq!(world.lambda.extensions(), 0);
}
