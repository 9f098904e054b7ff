//! The function of this crate with a store as its source: the real binary, with no LaunchDarkly in reach.

use crate::data::{flag, rebrand};
use crate::servers::{self, source, sync};
use redirect::standins::{DynamoDbFault, DynamoDbProxy, Function, LaunchDarkly, RuntimeApi, lambda_environment};
use redirect::stores::{DynamoDb, DynamoDbDataStore, RedisDataStore, Store};
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) struct Edge {
    api: RuntimeApi,
    pub(crate) function: Function,
}

impl Edge {
    /// Starts the function, which Lambda runs in eu-central-1, with settings of its own.
    pub(crate) async fn start(settings: &[(&'static str, &str)]) -> Self {
        let api = RuntimeApi::start().await.unwrap();
        let mut environment = lambda_environment(&api);
        environment.extend([
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
            // A store needs no key, and nothing may ask LaunchDarkly.
            ("LAUNCHDARKLY_SDK_KEY", String::new()),
            ("LAUNCHDARKLY_BASE_URI", "http://127.0.0.1:9".to_owned()),
        ]);
        environment.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let function = Function::start(env!("CARGO_BIN_EXE_redirect"), &api, environment).unwrap();
        Self { api, function }
    }

    /// The answer to a viewer's request.
    pub(crate) async fn visit(&self, uri: &str, client_ip: &str) -> Value {
        let event = json!({"Records": [{"cf": {
            "config": {"eventType": "viewer-request"},
            "request": {"clientIp": client_ip, "method": "GET", "uri": uri, "querystring": "", "headers": {}},
        }}]});
        let polls = self.api.polls();
        let outcome = self.api.invoke(event.to_string()).await.unwrap();
        self.api.polled(polls + 1).await;
        serde_json::from_slice(&outcome.body).unwrap()
    }

    pub(crate) async fn decide(&self, client_ip: &str) -> Value {
        let id = servers::unique("request");
        let event = json!({"Records": [{"cf": {
            "config": {"eventType": "viewer-request", "requestId": id},
            "request": {"clientIp": client_ip, "method": "GET", "uri": "/", "querystring": "", "headers": {}},
        }}]});
        let polls = self.api.polls();
        let outcome = self.api.invoke(event.to_string()).await.unwrap();
        assert!(!outcome.is_error);
        let answer: Value = serde_json::from_slice(&outcome.body).unwrap();
        assert_eq!(answer["status"], "302", "{answer}");
        let line = servers::line(&self.function, |line| line["request_id"] == id.as_str()).await;
        self.api.polled(polls + 1).await;
        line
    }
}

async fn filled(table: &str) -> DynamoDb {
    let store = DynamoDbDataStore::builder(table).config(servers::config(&servers::dynamodb_uri()));
    let store = store.build_async().unwrap();
    let launchdarkly = LaunchDarkly::start("sdk-test", rebrand()).await.unwrap();
    sync(&store, &source(&launchdarkly)).await.unwrap();
    store
}

pub(crate) const IN_TIME: (&str, &str) = ("REDIRECT_INIT_BUDGET_MS", "2000");

#[tokio::test]
async fn a_table_in_the_region_of_the_function_is_asked_once_per_level() {
    let table = servers::new_table().await;
    filled(&table).await;
    let proxy = DynamoDbProxy::start(&servers::dynamodb_uri()).await.unwrap();
    let uri = proxy.uri();
    let edge = Edge::start(&[
        ("REDIRECT_SOURCE", "dynamodb"),
        ("REDIRECT_STORE_TABLE", &table),
        ("REDIRECT_STORE_REGIONS", "us-east-1,eu-central-1"),
        ("AWS_ENDPOINT_URL_DYNAMODB", &uri),
        IN_TIME,
    ])
    .await;
    let line = edge.decide("192.0.2.1").await;
    // The segment excludes this one, which takes all three items to know.
    assert_eq!(
        (&line["variation"], &line["reason"], &line["flag_version"]),
        (&json!(false), &json!("RULE_MATCH"), &json!(11))
    );
    assert_eq!((&line["source"], &line["data"]), (&json!("dynamodb"), &json!("fresh")));
    assert!(line["synced_age_ms"].as_u64().unwrap() < 60_000, "{line}");
    let nearest = ("BatchGetItem".to_owned(), "eu-central-1".to_owned());
    assert_eq!(proxy.seen(), [nearest.clone(), nearest], "the flag; then what it names, at once");
}

#[tokio::test]
async fn another_region_answers_when_the_nearest_does_not() {
    for fault in [DynamoDbFault::Hang, DynamoDbFault::Throttle, DynamoDbFault::Refuse, DynamoDbFault::Cut] {
        let table = servers::new_table().await;
        filled(&table).await;
        let proxy = DynamoDbProxy::start(&servers::dynamodb_uri()).await.unwrap();
        proxy.fail_region("eu-central-1", fault);
        let uri = proxy.uri();
        let edge = Edge::start(&[
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
async fn a_change_reaches_the_function_and_an_outage_does_not_hurt_it() {
    let table = servers::new_table().await;
    let store = filled(&table).await;
    let proxy = DynamoDbProxy::start(&servers::dynamodb_uri()).await.unwrap();
    let uri = proxy.uri();
    let edge = Edge::start(&[
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
    let launchdarkly = LaunchDarkly::start("sdk-test", changed).await.unwrap();
    sync(&store, &source(&launchdarkly)).await.unwrap();
    edge.decide("192.0.2.1").await;
    let line = edge.decide("192.0.2.1").await;
    assert_eq!((&line["reason"], &line["flag_version"]), (&json!("FALLTHROUGH"), &json!(12)));
    proxy.fail("", 0, usize::MAX, DynamoDbFault::Refuse);
    for _ in 0..3 {
        let line = edge.decide("192.0.2.1").await;
        assert_eq!((&line["reason"], &line["flag_version"]), (&json!("FALLTHROUGH"), &json!(12)));
    }
    let told =
        servers::line(&edge.function, |line| line["message"].as_str().unwrap_or_default().contains("AccessDenied"))
            .await;
    assert_eq!(told["level"], "error");
}

#[tokio::test]
async fn a_store_that_is_not_initialised_is_not_trusted() {
    let table = servers::new_table().await;
    let uri = servers::dynamodb_uri();
    let edge = Edge::start(&[
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
async fn a_store_that_was_not_synchronised_for_long_is_told() {
    let table = servers::new_table().await;
    let store = DynamoDbDataStore::builder(&table).config(servers::config(&servers::dynamodb_uri()));
    let store = store.build_async().unwrap();
    let flags = rebrand().flags.into_iter();
    let flags = flags.map(|(key, flag)| (key, redirect::stores::Stored::parse(flag.to_string()))).collect();
    let everything = redirect::stores::Everything { flags, segments: std::collections::HashMap::new() };
    store.replace(&everything).await.unwrap();
    store.mark_synced(std::time::SystemTime::now() - Duration::from_secs(7_200)).await.unwrap();
    let uri = servers::dynamodb_uri();
    let edge = Edge::start(&[
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
    let store = RedisDataStore::builder(servers::redis_url()).prefix(&prefix).build_async().unwrap();
    let launchdarkly = LaunchDarkly::start("sdk-test", rebrand()).await.unwrap();
    sync(&store, &source(&launchdarkly)).await.unwrap();
    let url = servers::redis_url();
    let edge = Edge::start(&[
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
async fn a_wrong_setting_names_itself_and_hides_a_password() {
    for (settings, expected) in [
        (vec![("REDIRECT_SOURCE", "etcd")], "REDIRECT_SOURCE is \"etcd\"; expected one of"),
        (vec![("REDIRECT_SOURCE", "dynamodb")], "store_table is \"\"; expected the name of the table"),
        (vec![("REDIRECT_SOURCE", "redis")], "store_redis_url is \"\"; expected the address"),
        (vec![("REDIRECT_STORE_REDIS_URL", "http://:hunter2@x")], "REDIRECT_STORE_REDIS_URL is no address of a Redis"),
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
        let edge = Edge::start(&settings).await;
        let error = edge.api.init_error().await;
        let error: Value = serde_json::from_str(&error).unwrap();
        let message = error["errorMessage"].as_str().unwrap();
        assert!(message.contains(expected) && !message.contains("hunter2"), "{message}");
    }
}

#[tokio::test]
async fn the_example_evaluates_any_flag_from_the_table() {
    let table = servers::new_table().await;
    filled(&table).await;
    let api = RuntimeApi::start().await.unwrap();
    let mut environment = lambda_environment(&api);
    environment.extend([
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ("AWS_ENDPOINT_URL_DYNAMODB", servers::dynamodb_uri()),
        ("FLAG_STORE_TABLE", table),
    ]);
    let _function = Function::start(env!("CARGO_BIN_EXE_any-flag"), &api, environment).unwrap();
    for (flag, kind, value) in [
        ("rebrand", "RULE_MATCH", json!(false)),
        ("site-is-up", "FALLTHROUGH", json!(true)),
        ("nowhere", "ERROR", Value::Null),
    ] {
        let event = json!({"flag": flag, "context": "192.0.2.1"}).to_string();
        let answer: Value = serde_json::from_slice(&api.invoke(event).await.unwrap().body).unwrap();
        assert_eq!((&answer["reason"]["kind"], &answer["value"]), (&json!(kind), &value), "{answer}");
    }
}
