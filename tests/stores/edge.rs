//! The real binary with a store as its source, without LaunchDarkly.

use crate::databases::config;
use flag_data::items::{Everything, Stored};
use flag_data::stores::{DynamoDb, Redis, Store};
use serde_json::{Value, json};
use standins::samples::{flag, rebrand};
use standins::servers;
use standins::{Aws, Data, DynamoDbFault, Edge};
use std::time::Duration;

/// The function of this build, with these settings.
pub(crate) async fn start(settings: &[(&'static str, &str)]) -> Edge {
    Edge::start(env!("CARGO_BIN_EXE_redirect"), settings).await
}

/// Writes what flag-sync writes.
async fn fill(store: &impl Store, data: Data) {
    let stored = |items: serde_json::Map<String, Value>| {
        items.into_iter().map(|(key, item)| (key, Stored::parse(item.to_string()))).collect()
    };
    store.replace(&Everything { flags: stored(data.flags), segments: stored(data.segments) }).await.unwrap();
    store.mark_synced(std::time::SystemTime::now()).await.unwrap();
}

async fn filled(table: &str) -> DynamoDb {
    let store = DynamoDb::new(table, config(&servers::dynamodb_uri()));
    fill(&store, rebrand()).await;
    store
}

pub(crate) const IN_TIME: (&str, &str) = ("REDIRECT_INIT_BUDGET_MS", "2000");

#[tokio::test]
async fn the_table_in_the_functions_region_is_read_once_per_level() {
    let table = servers::new_table().await;
    filled(&table).await;
    let proxy = Aws::start().await.unwrap();
    let uri = proxy.uri();
    let edge = start(&[
        ("REDIRECT_SOURCE", "dynamodb"),
        ("REDIRECT_STORE_TABLE", &table),
        ("REDIRECT_STORE_REGIONS", "us-east-1,eu-central-1"),
        ("AWS_ENDPOINT_URL_DYNAMODB", &uri),
        IN_TIME,
    ])
    .await;
    let line = edge.decide("192.0.2.1").await;
    // The segment excludes this viewer: the decision needs all three items.
    assert_eq!(
        (&line["variation"], &line["reason"], &line["flag_version"]),
        (&json!(false), &json!("RULE_MATCH"), &json!(11))
    );
    assert_eq!((&line["source"], &line["data"]), (&json!("dynamodb"), &json!("fresh")));
    assert!(line["synced_age_ms"].as_u64().unwrap() < 60_000, "{line}");
    let nearest = ("BatchGetItem".to_owned(), "eu-central-1".to_owned());
    assert_eq!(proxy.seen(), [nearest.clone(), nearest], "the flag; then all its references");
}

#[tokio::test]
async fn another_region_answers_when_the_nearest_does_not() {
    for fault in [DynamoDbFault::Hang, DynamoDbFault::Throttle, DynamoDbFault::Refuse, DynamoDbFault::Cut] {
        let table = servers::new_table().await;
        filled(&table).await;
        let proxy = Aws::start().await.unwrap();
        proxy.fail_region("eu-central-1", fault);
        let uri = proxy.uri();
        let edge = start(&[
            ("REDIRECT_SOURCE", "dynamodb"),
            ("REDIRECT_STORE_TABLE", &table),
            ("REDIRECT_STORE_REGIONS", "us-east-1,eu-central-1"),
            ("AWS_ENDPOINT_URL_DYNAMODB", &uri),
            IN_TIME,
        ])
        .await;
        let line = edge.decide("192.0.2.1").await;
        assert_eq!((&line["reason"], &line["data"]), (&json!("RULE_MATCH"), &json!("fresh")), "{fault:?}: {line}");
    }
}

#[tokio::test]
async fn a_change_reaches_the_function_and_an_outage_does_not_affect_it() {
    let table = servers::new_table().await;
    let store = filled(&table).await;
    let proxy = Aws::start().await.unwrap();
    let uri = proxy.uri();
    let edge = start(&[
        ("REDIRECT_SOURCE", "dynamodb"),
        ("REDIRECT_STORE_TABLE", &table),
        ("REDIRECT_STORE_REGIONS", "eu-central-1"),
        ("REDIRECT_REFRESH_AFTER_SECONDS", "0"),
        ("AWS_ENDPOINT_URL_DYNAMODB", &uri),
        IN_TIME,
    ])
    .await;
    edge.decide("192.0.2.1").await;
    let mut changed = rebrand();
    changed.flags.insert("rebrand".to_owned(), flag("rebrand", 12));
    fill(&store, changed).await;
    edge.decide("192.0.2.1").await;
    let line = edge.decide("192.0.2.1").await;
    assert_eq!((&line["reason"], &line["flag_version"]), (&json!("FALLTHROUGH"), &json!(12)));
    proxy.fail("", 0, usize::MAX, DynamoDbFault::Refuse);
    for _ in 0..3 {
        let line = edge.decide("192.0.2.1").await;
        assert_eq!((&line["reason"], &line["flag_version"]), (&json!("FALLTHROUGH"), &json!(12)));
    }
    let logged =
        servers::line(&edge.function, |line| line["message"].as_str().unwrap_or_default().contains("AccessDenied"))
            .await;
    assert_eq!(logged["level"], "error");
}

#[tokio::test]
async fn a_store_that_is_not_initialized_is_not_trusted() {
    let table = servers::new_table().await;
    let uri = servers::dynamodb_uri();
    let edge = start(&[
        ("REDIRECT_SOURCE", "dynamodb"),
        ("REDIRECT_STORE_TABLE", &table),
        ("REDIRECT_STORE_REGIONS", "eu-central-1"),
        ("AWS_ENDPOINT_URL_DYNAMODB", &uri),
        IN_TIME,
    ])
    .await;
    let line = edge.decide("192.0.2.1").await;
    assert_eq!((&line["variation"], &line["data"]), (&json!(false), &json!("default")));
    servers::line(&edge.function, |line| line["message"].as_str().unwrap_or_default().contains("run flag-sync")).await;
}

#[tokio::test]
async fn a_store_that_has_not_been_synchronized_for_long_is_logged() {
    let table = servers::new_table().await;
    let store = DynamoDb::new(&table, config(&servers::dynamodb_uri()));
    let flags = rebrand().flags.into_iter();
    let flags = flags.map(|(key, flag)| (key, Stored::parse(flag.to_string()))).collect();
    let everything = Everything { flags, segments: std::collections::HashMap::new() };
    store.replace(&everything).await.unwrap();
    store.mark_synced(std::time::SystemTime::now() - Duration::from_secs(7_200)).await.unwrap();
    let uri = servers::dynamodb_uri();
    let edge = start(&[
        ("REDIRECT_SOURCE", "dynamodb"),
        ("REDIRECT_STORE_TABLE", &table),
        ("REDIRECT_STORE_REGIONS", "eu-central-1"),
        ("AWS_ENDPOINT_URL_DYNAMODB", &uri),
        IN_TIME,
    ])
    .await;
    let line = edge.decide("192.0.2.1").await;
    assert_eq!((&line["level"], &line["data"]), (&json!("warn"), &json!("fresh")));
    assert!(line["message"].as_str().unwrap().contains("flag-sync has not succeeded for more than an hour"), "{line}");
    assert!(line["synced_age_ms"].as_u64().unwrap() >= 7_200_000);
}

#[tokio::test]
async fn redis_is_a_source_too() {
    let prefix = servers::unique("edge");
    let store = Redis::new(servers::redis_url()).unwrap().prefix(&prefix);
    fill(&store, rebrand()).await;
    let url = servers::redis_url();
    let edge = start(&[
        ("REDIRECT_SOURCE", "redis"),
        ("REDIRECT_STORE_REDIS_URL", &url),
        ("REDIRECT_STORE_PREFIX", &prefix),
        IN_TIME,
    ])
    .await;
    let line = edge.decide("192.0.2.4").await;
    assert_eq!(
        (&line["reason"], &line["source"], &line["data"]),
        (&json!("RULE_MATCH"), &json!("redis"), &json!("fresh"))
    );
}

#[tokio::test]
async fn an_invalid_setting_is_reported_without_its_password() {
    for (settings, expected) in [
        (vec![("REDIRECT_SOURCE", "etcd")], "REDIRECT_SOURCE is \"etcd\"; expected one of"),
        (vec![("REDIRECT_SOURCE", "dynamodb")], "store_table is \"\"; expected the name of the table"),
        (vec![("REDIRECT_SOURCE", "redis")], "store_redis_url is \"\"; expected the address"),
        (
            vec![("REDIRECT_STORE_REDIS_URL", "http://:hunter2@x")],
            "REDIRECT_STORE_REDIS_URL is not the address of a Redis",
        ),
        (vec![("REDIRECT_STORE_REGIONS", "Frankfurt")], "REDIRECT_STORE_REGIONS is \"Frankfurt\""),
        (
            vec![
                ("REDIRECT_SOURCE", "redis"),
                ("REDIRECT_STORE_REDIS_URL", "redis://x"),
                ("REDIRECT_UPDATES", "polling"),
            ],
            "REDIRECT_UPDATES is \"polling\"; expected \"between-invocations\"",
        ),
    ] {
        let edge = start(&settings).await;
        let error = edge.api.init_error().await;
        let error: Value = serde_json::from_str(&error).unwrap();
        let message = error["errorMessage"].as_str().unwrap();
        assert!(message.contains(expected) && !message.contains("hunter2"), "{message}");
    }
}
