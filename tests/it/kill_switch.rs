//! Turning the flag off brings everyone back, whatever happens to the flag's references.
//!
//! Time is measured by Lambda's deadlines: a visit "at second 61" arrives 61 s after the first one.

use crate::fleet::Dice;
use crate::setup::{Answered, World, event, flag, launchdarkly};
use serde_json::{Value, json};
use standins::{Fault, LaunchDarkly};
use std::time::{Duration, SystemTime};

/// `max_staleness_seconds` of redirect.toml.
const MAX_STALENESS: u64 = 60;

/// Short waits for servers that never answer.
const BUDGETS: [(&str, &str); 3] =
    [("REDIRECT_INIT_BUDGET_MS", "600"), ("REDIRECT_VIEWER_BUDGET_MS", "600"), ("REDIRECT_BETWEEN_BUDGET_MS", "600")];

const FETCHES: [&str; 2] = ["items", "environment"];

/// A warm function, with visits at given seconds.
struct Site {
    world: World,
    start: SystemTime,
}

impl Site {
    async fn new(service: LaunchDarkly, fetch: &str) -> Self {
        Self::with(service, &[("REDIRECT_FETCH", fetch)]).await
    }

    async fn with(service: LaunchDarkly, settings: &[(&str, &str)]) -> Self {
        let settings = [&BUDGETS[..], settings].concat();
        Self { world: World::new(service, &settings).await, start: SystemTime::now() }
    }

    /// A page outside both sites, or a page of the new one.
    async fn visit(&mut self, address: &str, second: u64) -> Answered {
        let arrival = self.start + Duration::from_secs(second);
        self.world.send_at(&event(address, "192.0.2.1"), arrival).await
    }

    /// Everyone is on the new site.
    async fn on_beta(&mut self, second: u64, what: &str) {
        let answered = self.visit("/a", second).await;
        assert_eq!(answered.summary(), "302 /site/beta/a", "{what}: {} {:?}", answered.line, self.world.messages());
        let answered = self.visit("/site/beta/a", second).await;
        assert_eq!(answered.summary(), "pass-through", "{what}: {} {:?}", answered.line, self.world.messages());
    }

    /// Everyone gets the current site, at an entry and on a page of beta.
    async fn on_current_site(&mut self, second: u64, what: &str) {
        let answered = self.visit("/a", second).await;
        assert_eq!(answered.summary(), "302 /site/a", "{what}: {} {:?}", answered.line, self.world.messages());
        let answered = self.visit("/site/beta/a", second).await;
        assert_eq!(answered.summary(), "302 /site/a", "{what}: {} {:?}", answered.line, self.world.messages());
    }

    fn messages_with(&self, text: &str) -> usize {
        self.world.messages().iter().filter(|line| line.contains(text)).count()
    }
}

fn off(version: u64) -> Value {
    let mut flag = flag(version, true);
    flag["on"] = json!(false);
    flag
}

/// With a rule that shows the new site to the members of a segment, or to everyone else.
fn with_rule(mut flag: Value, segment: &str, negate: bool) -> Value {
    flag["rules"] = json!([{"id": "r", "variation": 0, "trackEvents": false, "clauses": [
        {"attribute": "", "op": "segmentMatch", "values": [segment], "negate": negate},
    ]}]);
    flag
}

fn segment(key: &str, version: u64, included: &[&str]) -> Value {
    json!({"key": key, "version": version, "included": included, "excluded": [], "rules": [], "salt": "s"})
}

fn set_segment(service: &LaunchDarkly, segment: &Value) {
    let key = segment["key"].as_str().unwrap().to_owned();
    service.change(|data| drop(data.segments.insert(key, segment.clone())));
}

fn large(key: &str) -> Value {
    let member = "x".repeat(1_200_000);
    segment(key, 2, &[&member])
}

/// A problem of a segment: a fault of its endpoint, or invalid content.
enum Trouble {
    Fault(Fault),
    Is(Value),
}

fn troubles() -> Vec<(&'static str, Trouble)> {
    vec![
        ("500", Trouble::Fault(Fault::Status(500, None))),
        ("hangs", Trouble::Fault(Fault::BlackHole)),
        ("unauthorized", Trouble::Fault(Fault::Status(401, None))),
        ("throttled", Trouble::Fault(Fault::Status(429, Some(3_600)))),
        ("too large", Trouble::Is(large("testers"))),
        ("malformed", Trouble::Is(json!({"key": "testers"}))),
    ]
}

fn cause(service: &LaunchDarkly, trouble: &Trouble) {
    match trouble {
        Trouble::Fault(fault) => service.fail_at("/sdk/segments/testers", fault.clone()),
        Trouble::Is(value) => service.change(|data| drop(data.segments.insert("testers".to_owned(), value.clone()))),
    }
}

/// Whether the problem can occur with that setting of `fetch`: in a whole environment, a single item cannot fail.
fn applies(fetch: &str, trouble: &Trouble) -> bool {
    fetch == "items" || matches!(trouble, Trouble::Is(_))
}

#[tokio::test]
async fn off_whatever_happens_to_a_segment_of_its_rules() {
    for fetch in FETCHES {
        for (what, trouble) in troubles().iter().filter(|(_, trouble)| applies(fetch, trouble)) {
            let what = &format!("{what}, {fetch}");
            let mut site = Site::new(launchdarkly(flag(1, true)).await, fetch).await;
            site.on_beta(0, what).await;
            cause(&site.world.launchdarkly, trouble);
            site.world.launchdarkly.set_flag(&with_rule(off(2), "testers", false));
            site.on_current_site(MAX_STALENESS + 1, what).await;
            assert_eq!(site.world.launchdarkly.count("GET /sdk/segments"), 0, "{what}: an off flag needs no segment");
            assert!(site.world.messages().is_empty(), "{what}: {:?}", site.world.messages());
        }
    }
}

#[tokio::test]
async fn off_with_circular_prerequisites() {
    for fetch in FETCHES {
        for on in [false, true] {
            let what = &format!("on: {on}, {fetch}");
            let mut site = Site::new(launchdarkly(flag(1, true)).await, fetch).await;
            site.on_beta(0, what).await;
            let needing = |key: &str, needed: &str, on: bool| {
                let mut flag = flag(2, true);
                flag["key"] = json!(key);
                flag["on"] = json!(on);
                flag["prerequisites"] = json!([{"key": needed, "variation": 0}]);
                flag
            };
            site.world
                .launchdarkly
                .change(|data| drop(data.flags.insert("base".to_owned(), needing("base", "rebrand", true))));
            site.world.launchdarkly.set_flag(&needing("rebrand", "base", on));
            // For the SDK, a circle of a flag that is on is malformed. The previous flag must still be replaced.
            site.on_current_site(MAX_STALENESS + 1, what).await;
        }
    }
}

#[tokio::test]
async fn at_0_percent_whatever_happens_to_a_known_segment() {
    for fetch in FETCHES {
        for (what, trouble) in troubles().iter().filter(|(_, trouble)| applies(fetch, trouble)) {
            let what = &format!("{what}, {fetch}");
            let service = launchdarkly(with_rule(flag(1, true), "testers", false)).await;
            set_segment(&service, &segment("testers", 1, &["192.0.2.200"]));
            let mut site = Site::new(service, fetch).await;
            site.on_beta(0, what).await;
            cause(&site.world.launchdarkly, trouble);
            site.world.launchdarkly.set_flag(&with_rule(flag(2, false), "testers", false));
            site.on_current_site(MAX_STALENESS + 1, what).await;
            // The last known copy of the segment is still in use.
            let member = event("/a", "192.0.2.200");
            let later = site.start + Duration::from_secs(MAX_STALENESS + 2);
            assert_eq!(site.world.send_at(&member, later).await.summary(), "302 /site/beta/a", "{what}");
            assert_eq!(site.messages_with("testers"), 1, "{what}: {:?}", site.world.messages());
        }
    }
}

#[tokio::test]
async fn a_deleted_flag_is_an_answer_also_for_pages_of_beta() {
    for fetch in FETCHES {
        let mut site = Site::new(launchdarkly(flag(1, true)).await, fetch).await;
        site.on_beta(0, fetch).await;
        site.world.launchdarkly.delete_flag("rebrand", 2);
        site.on_current_site(MAX_STALENESS + 1, fetch).await;
        let answered = site.visit("/site/beta/a", MAX_STALENESS + 2).await;
        assert_eq!(
            (&answered.line["reason"], &answered.line["error_kind"]),
            (&json!("ERROR"), &json!("FLAG_NOT_FOUND"))
        );
        assert_eq!(answered.line["data"], "fresh");
    }
}

#[tokio::test]
async fn a_tombstone_is_an_answer() {
    for fetch in FETCHES {
        let mut site = Site::new(launchdarkly(flag(1, true)).await, fetch).await;
        site.on_beta(0, fetch).await;
        site.world.launchdarkly.set_flag(&json!({"key": "rebrand", "version": 2, "deleted": true}));
        site.on_current_site(MAX_STALENESS + 1, fetch).await;
    }
}

#[tokio::test]
async fn off_with_an_otherwise_unreadable_flag() {
    let mut rule = off(2);
    rule["rules"] = json!([{"id": "r", "variation": 0, "clauses": [{"op": 7}]}]);
    let mut variations = off(2);
    variations["variations"] = json!({"new": true});
    let mut null = off(2);
    null["on"] = json!(null);
    for fetch in FETCHES {
        for (what, unreadable) in [("a rule", &rule), ("the variations", &variations), ("on is null", &null)] {
            let what = &format!("{what}, {fetch}");
            let mut site = Site::new(launchdarkly(flag(1, true)).await, fetch).await;
            site.on_beta(0, what).await;
            site.world.launchdarkly.set_flag(unreadable);
            site.on_current_site(MAX_STALENESS + 1, what).await;
            let answered = site.visit("/site/beta/a", MAX_STALENESS + 2).await;
            assert_eq!((&answered.line["reason"], &answered.line["data"]), (&json!("OFF"), &json!("fresh")), "{what}");
            // A 304 at the next refresh has the same result.
            site.on_current_site(MAX_STALENESS + 30, what).await;
        }
    }
}

#[tokio::test]
async fn every_evaluation_error_of_fetched_data_means_the_current_site() {
    let mut text = flag(2, true);
    text["variations"] = json!(["new", "old"]);
    let mut without_variation = flag(2, true);
    without_variation["fallthrough"] = json!({"variation": 7});
    for fetch in FETCHES {
        for (kind, bad) in [("WRONG_TYPE", &text), ("MALFORMED_FLAG", &without_variation)] {
            let what = &format!("{kind}, {fetch}");
            let mut site = Site::new(launchdarkly(flag(1, true)).await, fetch).await;
            site.on_beta(0, what).await;
            site.world.launchdarkly.set_flag(bad);
            site.on_current_site(MAX_STALENESS + 1, what).await;
            let answered = site.visit("/site/beta/a", MAX_STALENESS + 2).await;
            assert_eq!(answered.line["error_kind"], *kind, "{what}");
        }
    }
}

#[tokio::test]
async fn no_failure_causes_a_wait_longer_than_data_may_be_old() {
    for fetch in FETCHES {
        for fault in [
            Fault::Status(401, None),
            Fault::Status(403, None),
            Fault::Status(429, Some(7_200)),
            Fault::Status(500, None),
            Fault::ResetBody,
        ] {
            let what = &format!("{fault:?}, {fetch}");
            let mut site = Site::new(launchdarkly(flag(1, true)).await, fetch).await;
            site.on_beta(0, what).await;
            // One failing answer, to the refresh after this visit.
            site.world.launchdarkly.fail(fault);
            site.visit("/a", 20).await;
            site.world.launchdarkly.fail(Fault::None);
            site.world.launchdarkly.set_flag(&off(2));
            site.on_current_site(20 + MAX_STALENESS + 1, what).await;
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_rejected_once_is_reopened() {
    for status in [401, 404] {
        let mut site = Site::with(launchdarkly(flag(1, true)).await, &[("REDIRECT_UPDATES", "streaming")]).await;
        site.on_beta(0, "before").await;
        let service = &site.world.launchdarkly;
        service.fail(Fault::Status(status, None));
        service.drop_connections();
        service.asked("GET /all", 2).await;
        service.fail(Fault::None);
        service.change(|data| drop(data.flags.insert("rebrand".to_owned(), off(2))));
        let opened = tokio::time::timeout(Duration::from_secs(MAX_STALENESS), service.asked("GET /all", 3)).await;
        assert!(opened.is_ok(), "{status}: {:?}", site.world.messages());
        let mut visits = 0;
        while site.visit("/a", 1).await.summary() != "302 /site/a" {
            visits += 1;
            assert!(visits < 10_000, "{status}: the stream's data did not arrive");
        }
        site.on_current_site(1, "after").await;
        assert_eq!(site.messages_with(&format!("HTTP {status}")), 1, "{:?}", site.world.messages());
    }
}

#[tokio::test]
async fn a_server_that_fails_for_an_hour_is_retried_within_a_minute_of_its_recovery() {
    let mut site = Site::new(launchdarkly(flag(1, true)).await, "items").await;
    site.on_beta(0, "before").await;
    site.world.launchdarkly.fail(Fault::Status(403, None));
    for minute in 1..=60 {
        site.visit("/a", minute * 60).await;
    }
    assert_eq!(site.messages_with("403"), 1, "{:?}", site.world.messages());
    site.world.launchdarkly.fail(Fault::None);
    site.world.launchdarkly.set_flag(&off(2));
    site.on_current_site(3_600 + MAX_STALENESS + 1, "after").await;
}

#[tokio::test]
async fn a_new_segment_that_fails_keeps_the_previous_flag_for_as_long_as_data_may_be_old() {
    for (what, trouble) in troubles().iter().filter(|(_, trouble)| applies("items", trouble)) {
        let mut site = Site::new(launchdarkly(flag(1, true)).await, "items").await;
        site.on_beta(0, what).await;
        cause(&site.world.launchdarkly, trouble);
        site.world.launchdarkly.set_flag(&with_rule(flag(2, false), "testers", false));
        // Fetched after the visit at second 20; the previous flag was fetched at second 0.
        site.on_beta(20, what).await;
        site.on_beta(40, what).await;
        site.on_current_site(MAX_STALENESS + 1, what).await;
        // The next change of the flag does not wait for the same segment again.
        site.world.launchdarkly.set_flag(&with_rule(flag(3, true), "testers", false));
        site.visit("/a", MAX_STALENESS + 20).await;
        assert_eq!(site.visit("/a", MAX_STALENESS + 21).await.summary(), "302 /site/beta/a", "{what}");
        // When the segment exists, it is used.
        site.world.launchdarkly.fail_at("/sdk/segments/testers", Fault::None);
        set_segment(&site.world.launchdarkly, &segment("testers", 3, &["192.0.2.1"]));
        site.world.launchdarkly.set_flag(&with_rule(flag(4, false), "testers", false));
        site.visit("/a", MAX_STALENESS + 200).await;
        let answered = site.visit("/a", MAX_STALENESS + 201).await;
        assert_eq!((answered.summary().as_str(), &answered.line["reason"]), ("302 /site/beta/a", &json!("RULE_MATCH")));
        assert_eq!(answered.line["data"], "fresh", "{what}");
    }
}

#[tokio::test]
async fn a_cold_start_without_a_segment_first_has_no_data_and_then_decides_without_the_segment() {
    for fetch in FETCHES {
        for (what, trouble) in troubles().iter().filter(|(_, trouble)| applies(fetch, trouble)) {
            let what = &format!("{what}, {fetch}");
            let service = launchdarkly(with_rule(flag(1, true), "testers", false)).await;
            cause(&service, trouble);
            let mut site = Site::new(service, fetch).await;
            let answered = site.visit("/a", 0).await;
            assert_eq!(
                (answered.summary().as_str(), &answered.line["data"]),
                ("302 /site/a", &json!("default")),
                "{what}"
            );
            assert_eq!(site.visit("/site/beta/a", 1).await.summary(), "pass-through", "{what}");
            site.on_beta(MAX_STALENESS + 1, what).await;

            // A flag that is off needs no segment, so there is no wait.
            let service = launchdarkly(with_rule(off(1), "testers", false)).await;
            cause(&service, trouble);
            let mut site = Site::new(service, fetch).await;
            site.on_current_site(0, what).await;
        }
    }
}

#[tokio::test]
async fn viewers_do_not_wait_for_a_failing_segment() {
    let service = launchdarkly(with_rule(flag(1, true), "testers", false)).await;
    set_segment(&service, &segment("testers", 1, &[]));
    let mut site = Site::with(service, &[("REDIRECT_VIEWER_BUDGET_MS", "3000"), ("REDIRECT_EVENTS", "off")]).await;
    site.on_beta(0, "before").await;
    site.world.launchdarkly.fail_at("/sdk/segments/testers", Fault::BlackHole);
    site.visit("/a", 20).await;
    // At each visit the data is too old, so the flag is fetched, but never the segment.
    for minute in 1..=5 {
        let answered = site.visit("/a", 20 + minute * 120).await;
        assert_eq!(answered.line["data"], "fresh");
        let waited = Duration::from_micros(answered.line["duration_us"].as_u64().unwrap());
        assert!(waited < Duration::from_millis(3_000), "the viewer waited for the whole budget: {waited:?}");
    }
    assert_eq!(site.messages_with("testers"), 1, "{:?}", site.world.messages());
    // The flag itself is fresh.
    site.world.launchdarkly.set_flag(&with_rule(flag(2, false), "testers", false));
    site.on_current_site(1_000, "after").await;
    site.world.launchdarkly.fail_at("/sdk/segments/testers", Fault::None);
    site.visit("/a", 2_000).await;
    site.visit("/a", 2_020).await;
    assert_eq!(site.messages_with("testers"), 2, "one more line when it recovers: {:?}", site.world.messages());
}

#[tokio::test]
async fn items_that_arrived_before_the_timeout_are_applied() {
    // The prerequisite hangs, but the flag, which is at 0 % now, has arrived. No budget is long enough for both.
    let base = |version: u64, on: bool| {
        let mut base = flag(version, true);
        base["key"] = json!("base");
        base["on"] = json!(on);
        base
    };
    let needing = |version: u64, value: bool| {
        let mut top = flag(version, value);
        top["prerequisites"] = json!([{"key": "base", "variation": 0}]);
        top
    };
    for second in [20, MAX_STALENESS + 40] {
        let service = launchdarkly(needing(1, true)).await;
        service.change(|data| drop(data.flags.insert("base".to_owned(), base(1, true))));
        let mut site = Site::new(service, "items").await;
        site.on_beta(0, "before").await;
        site.world.launchdarkly.fail_at("/sdk/flags/base", Fault::BlackHole);
        site.world.launchdarkly.set_flag(&needing(2, false));
        // At second 20 the fetch comes after the response, at second 100 before it.
        site.visit("/a", second).await;
        site.on_current_site(second + 1, &format!("second {second}")).await;
    }
}

#[tokio::test]
async fn a_missing_segment_under_a_negated_clause_shows_nobody_the_new_site() {
    // "Everyone but the members of `staff`": if `staff` is missing, the SDK treats everyone as a non-member.
    for (what, nested) in [("directly", false), ("through another segment", true)] {
        for fetch in FETCHES {
            let what = &format!("{what}, {fetch}");
            let service = launchdarkly(with_rule(flag(1, false), if nested { "outer" } else { "testers" }, true)).await;
            let mut outer = segment("outer", 1, &[]);
            outer["rules"] = json!([{"id": "o", "clauses": [
                {"attribute": "", "op": "segmentMatch", "values": ["testers"], "negate": false},
            ]}]);
            set_segment(&service, &outer);
            let mut site = Site::new(service, fetch).await;
            site.on_current_site(0, what).await;
            assert_eq!(site.messages_with("negated"), 1, "{what}: {:?}", site.world.messages());
            let answered = site.visit("/a", 1).await;
            assert_eq!(answered.line["error_kind"], "MALFORMED_FLAG", "{what}: {}", answered.line);
            // With the segment, the clause is evaluated.
            set_segment(&site.world.launchdarkly, &segment("testers", 1, &["192.0.2.200"]));
            site.on_beta(MAX_STALENESS + 1, what).await;
            let member = event("/a", "192.0.2.200");
            let later = site.start + Duration::from_secs(MAX_STALENESS + 2);
            assert_eq!(site.world.send_at(&member, later).await.summary(), "302 /site/a", "{what}");
            // A tombstone counts as missing.
            set_segment(&site.world.launchdarkly, &json!({"key": "testers", "version": 2, "deleted": true}));
            site.on_current_site(3 * MAX_STALENESS, what).await;
        }
    }
}

#[tokio::test]
async fn a_cold_start_long_before_its_first_event_does_not_count_as_fresh() {
    // Lambda initializes environments ahead of demand, and the clocks of a frozen machine may stand still. The
    // function's timeout is 30 s here, so a deadline in 10 minutes and 30 s belongs to an event in 10 minutes.
    let mut site = Site::new(launchdarkly(flag(1, true)).await, "items").await;
    site.world.lambda.polled(1).await;
    site.world.launchdarkly.set_flag(&off(2));
    let timeout = Duration::from_secs(30) - Duration::from_secs(5);
    let arrival = SystemTime::now() + Duration::from_secs(600) + timeout;
    let answered = site.world.send_at(&event("/a", "192.0.2.1"), arrival).await;
    assert_eq!((answered.summary().as_str(), &answered.line["data"]), ("302 /site/a", &json!("fresh")));
}

#[tokio::test]
async fn a_warm_function_and_a_cold_one_accept_the_same_data() {
    // Six segments of 0.9 MB: five are more than fit together with the flag, or four known ones and one new one.
    let keys: Vec<_> = (0..6).map(|number| format!("s{number}")).collect();
    let naming_all = |version: u64, keys: &[String]| {
        let mut flag = flag(version, false);
        flag["rules"] = json!([{"id": "r", "variation": 0, "trackEvents": false, "clauses": [
            {"attribute": "", "op": "segmentMatch", "values": keys, "negate": false},
        ]}]);
        flag
    };
    let big = |key: &str, number: usize| {
        let filler = "x".repeat(900_000);
        segment(key, 1, &[&filler, &format!("192.0.2.{}", 100 + number)])
    };
    let service = |version: u64, keys: Vec<String>| {
        let flag = naming_all(version, &keys);
        async move {
            let service = launchdarkly(flag).await;
            for (number, key) in keys.iter().enumerate() {
                set_segment(&service, &big(key, number));
            }
            service
        }
    };
    for fetch in FETCHES {
        // Megabytes take long on a busy machine.
        let settings = [
            ("REDIRECT_FETCH", fetch),
            ("REDIRECT_INIT_BUDGET_MS", "9000"),
            ("REDIRECT_VIEWER_BUDGET_MS", "5000"),
            ("REDIRECT_BETWEEN_BUDGET_MS", "10000"),
        ];
        let mut cold = Site::with(service(2, keys.clone()).await, &settings).await;
        cold.visit("/a", 0).await;
        let mut warm = Site::with(service(1, keys[..4].to_vec()).await, &settings).await;
        warm.visit("/a", 0).await;
        for (number, key) in keys.iter().enumerate() {
            set_segment(&warm.world.launchdarkly, &big(key, number));
        }
        warm.world.launchdarkly.set_flag(&naming_all(2, &keys));
        warm.visit("/a", 20).await;
        let mut members = Vec::new();
        for site in [&mut cold, &mut warm] {
            let mut in_beta = Vec::new();
            for number in 0..6 {
                let later = site.start + Duration::from_secs(MAX_STALENESS + 30);
                let visit = event("/a", &format!("192.0.2.{}", 100 + number));
                in_beta.push(site.world.send_at(&visit, later).await.summary() == "302 /site/beta/a");
            }
            members.push(in_beta);
        }
        assert_eq!(members[0], members[1], "{fetch}: cold and warm");
        assert_eq!(members[0], [true, true, true, true, false, false], "{fetch}");
    }
}

/// The state of LaunchDarkly, with times.
#[derive(Default)]
struct Sequence {
    version: u64,
    second: u64,
    /// Since when nobody should get the new site; `None` while somebody should.
    off_since: Option<u64>,
    /// Since when the flag can be fetched; `None` while it cannot.
    answers_since: Option<u64>,
}

const SEGMENTS: [&str; 3] = ["s0", "s1", "s2"];

fn one_of<T: Clone>(dice: &mut Dice, choices: &[T]) -> T {
    let index = dice.below(choices.len().try_into().unwrap());
    choices[usize::try_from(index).unwrap()].clone()
}

fn fail_at(dice: &mut Dice, service: &LaunchDarkly, path: &str) -> String {
    let faults = [Fault::None, Fault::BlackHole, Fault::Status(500, None), Fault::Status(429, Some(3_600))];
    let fault = one_of(dice, &faults);
    service.fail_at(path, fault.clone());
    format!("{path}: {fault:?}")
}

impl Sequence {
    /// Makes one random change. Returns a description for the message of a failed test.
    fn step(&mut self, dice: &mut Dice, service: &LaunchDarkly) -> String {
        self.version += 1;
        self.second += one_of(dice, &[0, 1, 5, 20, 45, 61, 200]);
        match dice.below(12) {
            0..=3 => self.turn_on(dice, service),
            4 => {
                service.set_flag(&with_rule(off(self.version), one_of(dice, &SEGMENTS), false));
                self.off_since.get_or_insert(self.second);
                "off".to_owned()
            }
            5 => {
                service.delete_flag("rebrand", self.version);
                self.off_since.get_or_insert(self.second);
                "deleted".to_owned()
            }
            6..=8 => {
                let path = format!("/sdk/segments/{}", one_of(dice, &SEGMENTS));
                fail_at(dice, service, &path)
            }
            9 => {
                let mut base = flag(self.version, dice.below(2) == 0);
                base["key"] = json!("base");
                service.change(|data| drop(data.flags.insert("base".to_owned(), base)));
                fail_at(dice, service, "/sdk/flags/base")
            }
            10 => {
                let key = one_of(dice, &SEGMENTS);
                let member = segment(key, self.version, &["192.0.2.1"]);
                let deleted = json!({"key": key, "version": self.version, "deleted": true});
                let changed = one_of(dice, &[member, deleted, json!({"key": key})]);
                set_segment(service, &changed);
                changed.to_string()
            }
            _ => {
                let faults = [Fault::Status(403, None), Fault::Status(429, Some(7_200)), Fault::ResetBody];
                let fault = if self.answers_since.is_some() { one_of(dice, &faults) } else { Fault::None };
                self.answers_since = (fault == Fault::None).then_some(self.second);
                service.fail(fault.clone());
                format!("everything: {fault:?}")
            }
        }
    }

    /// Turns the flag on: for nobody, or by its rule, its prerequisite and its fallthrough.
    fn turn_on(&mut self, dice: &mut Dice, service: &LaunchDarkly) -> String {
        let for_nobody = dice.below(2) == 0;
        let mut flag = with_rule(flag(self.version, !for_nobody), one_of(dice, &SEGMENTS), dice.below(4) == 0);
        if for_nobody {
            flag["rules"][0]["variation"] = json!(1);
            self.off_since.get_or_insert(self.second);
        } else {
            self.off_since = None;
        }
        if dice.below(3) == 0 {
            flag["prerequisites"] = json!([{"key": "base", "variation": 0}]);
        }
        service.set_flag(&flag);
        flag.to_string()
    }

    fn must_be_current(&self) -> bool {
        let since = self.off_since.zip(self.answers_since).map(|(off, answers)| off.max(answers));
        since.is_some_and(|since| self.second >= since + MAX_STALENESS)
    }
}

#[tokio::test]
async fn off_or_at_0_percent_in_any_order_of_events() {
    const SEEDS: u64 = 16;
    const STEPS: u64 = 40;
    let mut promises = 0;
    for seed in 1..=SEEDS {
        let mut dice = Dice::new(seed, 0);
        let (fetch, refresh_after) =
            (one_of(&mut dice, &["items", "items", "environment"]), one_of(&mut dice, &["0", "15", "3600"]));
        let settings = [("REDIRECT_FETCH", fetch), ("REDIRECT_REFRESH_AFTER_SECONDS", refresh_after)];
        let mut site = Site::with(launchdarkly(flag(1, true)).await, &settings).await;
        let mut sequence = Sequence { version: 1, answers_since: Some(0), ..Sequence::default() };
        let mut history = Vec::new();
        for _ in 0..STEPS {
            let what = sequence.step(&mut dice, &site.world.launchdarkly);
            let address = one_of(&mut dice, &["/a", "/site/beta/a"]);
            let answered = site.visit(address, sequence.second).await;
            history.push(format!("second {}: {what}; {address}: {}", sequence.second, answered.summary()));
            if sequence.must_be_current() {
                promises += 1;
                assert_eq!(
                    answered.summary(),
                    "302 /site/a",
                    "seed {seed}, {settings:?}: {history:#?} {} {:?}",
                    answered.line,
                    site.world.messages()
                );
            }
        }
    }
    assert!(promises > SEEDS * STEPS / 10, "the sequences test the promise only {promises} times");
}
