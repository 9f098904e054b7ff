//! The kill switch with a store as the source: turning the flag off brings everyone back, whatever the store has of the
//! flag's references. The same cases as in `tests/it/kill_switch.rs`, as far as a store can have them.

use crate::databases::config;
use crate::edge::{self, IN_TIME};
use flag_data::items::{Everything, Stored};
use flag_data::stores::{DynamoDb, Redis, Store};
use serde_json::{Value, json};
use standins::samples::segment;
use standins::{Aws, DynamoDbFault, Edge, servers};
use std::collections::HashMap;

/// `rebrand`, with the same variation for everyone.
fn flag(version: u64, on: bool, value: bool) -> Value {
    json!({
        "key": "rebrand", "version": version, "on": on, "prerequisites": [], "targets": [], "rules": [],
        "fallthrough": {"variation": i32::from(!value)}, "offVariation": 1, "variations": [true, false], "salt": "s",
    })
}

fn with_rule(mut flag: Value) -> Value {
    flag["rules"] = json!([{"id": "r", "variation": 0, "trackEvents": false, "clauses": [
        {"attribute": "", "op": "segmentMatch", "values": ["testers"], "negate": false},
    ]}]);
    flag
}

fn with_prerequisite(mut flag: Value, key: &str, needed: &str) -> Value {
    flag["key"] = json!(key);
    flag["prerequisites"] = json!([{"key": needed, "variation": 0}]);
    flag
}

fn holding(flags: &[(&str, String)], segments: &[(&str, String)]) -> Everything {
    let stored = |items: &[(&str, String)]| -> HashMap<String, Stored> {
        items.iter().map(|(key, json)| ((*key).to_owned(), Stored::parse(json.clone()))).collect()
    };
    Everything { flags: stored(flags), segments: stored(segments) }
}

fn rebrand(flag: &Value) -> Everything {
    holding(&[("rebrand", flag.to_string())], &[])
}

/// The store's content before and after, and whether a member of the segment still sees the new site.
fn lines() -> Vec<(&'static str, Everything, Everything, bool)> {
    let on_for_all = || rebrand(&flag(1, true, true));
    let testers = || ("testers", segment("testers", 1, &["192.0.2.200"]).to_string());
    let known = || holding(&[("rebrand", with_rule(flag(1, true, true)).to_string())], &[testers()]);
    let off = || ("rebrand", with_rule(flag(2, false, true)).to_string());
    let at_0_percent = || ("rebrand", with_rule(flag(2, true, false)).to_string());
    vec![
        ("off", on_for_all(), rebrand(&flag(2, false, true)), false),
        ("off, a segment is missing", on_for_all(), holding(&[off()], &[]), false),
        ("off, a segment is malformed", on_for_all(), holding(&[off()], &[("testers", "7".to_owned())]), false),
        (
            "off, its prerequisites close a circle",
            on_for_all(),
            holding(
                &[
                    ("rebrand", with_prerequisite(flag(2, false, true), "rebrand", "base").to_string()),
                    ("base", with_prerequisite(flag(2, true, true), "base", "rebrand").to_string()),
                ],
                &[],
            ),
            false,
        ),
        (
            "on, its prerequisites close a circle",
            on_for_all(),
            holding(
                &[
                    ("rebrand", with_prerequisite(flag(2, true, true), "rebrand", "base").to_string()),
                    ("base", with_prerequisite(flag(2, true, true), "base", "rebrand").to_string()),
                ],
                &[],
            ),
            false,
        ),
        (
            "at 0 %, a known segment is malformed",
            known(),
            holding(&[at_0_percent()], &[("testers", r#"{"key":"testers","version":2}"#.to_owned())]),
            true,
        ),
        ("at 0 %, a known segment is missing", known(), holding(&[at_0_percent()], &[]), false),
        ("absent", on_for_all(), holding(&[], &[]), false),
        (
            "a tombstone of Rust's SDK",
            on_for_all(),
            holding(&[("rebrand", r#"{"version":2,"key":"$deleted","deleted":true}"#.to_owned())], &[]),
            false,
        ),
        (
            "a tombstone of Go's SDK",
            on_for_all(),
            holding(
                &[(
                    "rebrand",
                    r#"{"key":"$deleted","on":false,"prerequisites":null,"targets":null,"rules":null,"fallthrough":{},"offVariation":null,"variations":null,"salt":"","version":2,"deleted":true}"#
                        .to_owned(),
                )],
                &[],
            ),
            false,
        ),
        ("of another type", on_for_all(), rebrand(&text_flag()), false),
    ]
}

fn text_flag() -> Value {
    let mut text = flag(2, true, true);
    text["variations"] = json!(["new", "old"]);
    text
}

/// Whether a viewer sees the new site, at a page outside both sites and at a page of the new one.
async fn sees_beta(edge: &Edge, client_ip: &str) -> (bool, bool) {
    let entry = edge.visit("/a", client_ip).await;
    let page = edge.visit("/site/beta/a", client_ip).await;
    (entry["headers"]["location"][0]["value"] == "/site/beta/a", page["uri"] == "/site/beta/a")
}

async fn check(store: &impl Store, edge: &Edge, what: &str, after: &Everything, member: bool) {
    assert_eq!(sees_beta(edge, "192.0.2.1").await, (true, true), "{what}: before");
    store.replace(after).await.unwrap();
    // The refresh follows the response of this visit.
    edge.visit("/a", "192.0.2.1").await;
    assert_eq!(sees_beta(edge, "192.0.2.1").await, (false, false), "{what}");
    assert_eq!(sees_beta(edge, "192.0.2.200").await, (member, member), "{what}: a member");
}

const CONCURRENCY: (&str, &str) = ("REDIRECT_REFRESH_AFTER_SECONDS", "0");

#[tokio::test]
async fn redis_does_not_delay_the_kill_switch() {
    for (what, before, after, member) in lines() {
        let prefix = servers::unique("kill-switch");
        let store = Redis::new(servers::redis_url()).unwrap().prefix(&prefix);
        store.replace(&before).await.unwrap();
        let url = servers::redis_url();
        let settings = [
            ("REDIRECT_SOURCE", "redis"),
            ("REDIRECT_STORE_REDIS_URL", url.as_str()),
            ("REDIRECT_STORE_PREFIX", prefix.as_str()),
            CONCURRENCY,
            IN_TIME,
        ];
        check(&store, &edge::start(&settings).await, what, &after, member).await;
    }
}

#[tokio::test]
async fn dynamodb_does_not_delay_the_kill_switch() {
    for (what, before, after, member) in lines() {
        let (table, store) = new_store().await;
        store.replace(&before).await.unwrap();
        let edge = start(&table, &servers::dynamodb_uri(), "eu-central-1").await;
        check(&store, &edge, what, &after, member).await;
    }
}

async fn new_store() -> (String, DynamoDb) {
    let table = servers::new_table().await;
    let store = DynamoDb::new(&table, config(&servers::dynamodb_uri()));
    (table, store)
}

async fn start(table: &str, uri: &str, regions: &str) -> Edge {
    edge::start(&[
        ("REDIRECT_SOURCE", "dynamodb"),
        ("REDIRECT_STORE_TABLE", table),
        ("REDIRECT_STORE_REGIONS", regions),
        ("AWS_ENDPOINT_URL_DYNAMODB", uri),
        CONCURRENCY,
        IN_TIME,
    ])
    .await
}

#[tokio::test]
async fn a_table_that_fails_after_the_flag_does_not_delay_the_kill_switch() {
    for fault in [DynamoDbFault::Hang, DynamoDbFault::Refuse, DynamoDbFault::Cut] {
        let (table, store) = new_store().await;
        let testers = ("testers", segment("testers", 1, &["192.0.2.200"]).to_string());
        let known = holding(&[("rebrand", with_rule(flag(1, true, true)).to_string())], std::slice::from_ref(&testers));
        store.replace(&known).await.unwrap();
        let proxy = Aws::start().await.unwrap();
        let edge = start(&table, &proxy.uri(), "eu-central-1").await;
        assert_eq!(sees_beta(&edge, "192.0.2.1").await, (true, true), "{fault:?}");
        let at_0_percent = holding(&[("rebrand", with_rule(flag(2, true, false)).to_string())], &[testers]);
        store.replace(&at_0_percent).await.unwrap();
        // The flag is read in one request, its segment in the next.
        proxy.fail("BatchGetItem", 1, usize::MAX, fault);
        edge.visit("/a", "192.0.2.1").await;
        assert_eq!(sees_beta(&edge, "192.0.2.1").await, (false, false), "{fault:?}");
        assert_eq!(sees_beta(&edge, "192.0.2.200").await, (true, true), "{fault:?}: a member");
    }
}

#[tokio::test]
async fn a_replica_that_is_not_initialized_is_skipped() {
    let (table, store) = new_store().await;
    store.replace(&rebrand(&flag(1, true, true))).await.unwrap();
    let proxy = Aws::start().await.unwrap();
    proxy.fail_region("eu-central-1", DynamoDbFault::Empty);
    let edge = start(&table, &proxy.uri(), "eu-central-1,us-east-1").await;
    assert_eq!(sees_beta(&edge, "192.0.2.1").await, (true, true));
    store.replace(&rebrand(&flag(2, false, true))).await.unwrap();
    edge.visit("/a", "192.0.2.1").await;
    assert_eq!(sees_beta(&edge, "192.0.2.1").await, (false, false));
}
