//! LaunchDarkly's own SDKs and ours on the same store: either writes, the other evaluates, and both agree.

use crate::setup::{source, sync};
use flag_data::items::ItemKind::{Flag, Segment};
use flag_data::items::State;
use flag_data::stores::{DynamoDbDataStore, RedisDataStore, Store};
use launchdarkly_sdk_transport::HyperTransport;
use launchdarkly_server_sdk::{
    Client, ConfigBuilder, ContextBuilder, NullEventProcessorBuilder, PersistentDataStoreBuilder,
    PersistentDataStoreFactory, ServiceEndpointsBuilder, StreamingDataSourceBuilder,
};
use standins::LaunchDarkly;
use standins::samples::rebrand;
use standins::servers;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;

const CONTEXTS: usize = 1_000;

/// One store, and how LaunchDarkly's SDK of another language reaches it.
struct Shared<S> {
    store: S,
    factory: Arc<dyn PersistentDataStoreFactory>,
    program: Vec<String>,
}

impl<S> Shared<S> {
    async fn other(&self, mode: &str, arguments: &[&str]) -> String {
        let (program, [script, store @ ..]) = self.program.split_first().unwrap() else { panic!("no script") };
        let mut command = Command::new(program);
        command.arg(script).arg(mode).args(store).args(arguments);
        command.env("NODE_PATH", servers::NODE_MODULES).env("NODE_NO_WARNINGS", "1");
        let output = command.output().await.unwrap_or_else(|error| {
            panic!("{program} did not start: {error}; run these tests by `just test`, which installs it")
        });
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command:?}: {text}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn evaluated_by_the_other(&self) -> Vec<bool> {
        serde_json::from_str(&self.other("evaluate", &["rebrand", &CONTEXTS.to_string()]).await).unwrap()
    }

    /// By the Rust SDK in daemon mode.
    fn evaluated_by_us(&self) -> Vec<bool> {
        let store = PersistentDataStoreBuilder::new(self.factory.clone());
        let config = ConfigBuilder::new("sdk-test")
            .daemon_mode(true)
            .data_store(&store)
            .event_processor(&NullEventProcessorBuilder::new());
        let client = Client::build(config.build().unwrap()).unwrap();
        client.start_with_default_executor();
        let contexts = (0..CONTEXTS).map(|n| ContextBuilder::new(format!("192.0.2.{n}")).build().unwrap());
        contexts.map(|context| client.bool_variation(&context, "rebrand", false)).collect()
    }
}

fn redis(prefix: &str) -> Shared<flag_data::stores::Redis> {
    let builder = RedisDataStore::builder(servers::redis_url()).prefix(prefix);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/stores/node/redis.cjs");
    Shared {
        store: builder.build().unwrap(),
        program: ["node", script, &servers::redis_url(), prefix].map(str::to_owned).to_vec(),
        factory: Arc::new(builder),
    }
}

async fn dynamodb(program: &str, script: &str, prefix: &str) -> Shared<flag_data::stores::DynamoDb> {
    let table = servers::new_table().await;
    let uri = servers::dynamodb_uri();
    let builder = DynamoDbDataStore::builder(&table).prefix(prefix).config(crate::databases::config(&uri));
    let script = format!("{}/../../tests/stores/{script}", env!("CARGO_MANIFEST_DIR"));
    Shared {
        store: builder.build().unwrap(),
        program: [program, &script, &uri, &table, prefix].map(str::to_owned).to_vec(),
        factory: Arc::new(builder),
    }
}

async fn dynamodb_and_python(prefix: &str) -> Shared<flag_data::stores::DynamoDb> {
    let python = format!("{}/test/bin/python", servers::TOOLS);
    dynamodb(&python, "dynamodb.py", prefix).await
}

async fn dynamodb_and_node(prefix: &str) -> Shared<flag_data::stores::DynamoDb> {
    dynamodb("node", "node/dynamodb.cjs", prefix).await
}

/// Some get true and some false, so that agreeing means something.
#[track_caller]
fn check_agreement(ours: &[bool], theirs: &[bool]) {
    assert_eq!(ours, theirs);
    let share = ours.iter().filter(|variation| **variation).count();
    assert!((CONTEXTS / 3..CONTEXTS * 2 / 3).contains(&share), "{share} of {CONTEXTS} are true");
    // Two of those whom the segment excludes.
    assert!(!ours[1] && !ours[4]);
}

async fn they_write_and_we_evaluate(shared: &Shared<impl Store>) {
    let launchdarkly = LaunchDarkly::start("sdk-test", rebrand()).await.unwrap();
    shared.other("fill", &[&launchdarkly.uri()]).await;
    assert!(shared.store.read(&[]).await.unwrap().marks.initialized);
    assert_eq!(shared.store.read(&[]).await.unwrap().marks.synced, None, "only flag-sync records that");
    check_agreement(&shared.evaluated_by_us(), &shared.evaluated_by_the_other().await);
    // What they wrote needs no rewriting.
    let report = sync(&shared.store, &source(&launchdarkly)).await.unwrap();
    assert_eq!((report.written, report.deleted), (0, 0));
}

async fn we_write_and_they_evaluate(shared: &Shared<impl Store>) {
    let launchdarkly = LaunchDarkly::start("sdk-test", rebrand()).await.unwrap();
    sync(&shared.store, &source(&launchdarkly)).await.unwrap();
    check_agreement(&shared.evaluated_by_us(), &shared.evaluated_by_the_other().await);
    // Our tombstone is theirs, too: a prerequisite that was deleted fails for everyone.
    launchdarkly.change(|data| drop(data.flags.remove("site-is-up")));
    sync(&shared.store, &source(&launchdarkly)).await.unwrap();
    assert_eq!(shared.store.all(Flag).await.unwrap()["site-is-up"].state, State::Deleted);
    assert!(shared.evaluated_by_the_other().await.iter().all(|variation| !variation));
    assert!(shared.evaluated_by_us().iter().all(|variation| !variation));
}

/// The Rust SDK itself as the writer, through the synchronous calls, inside a runtime.
async fn the_rust_sdk_fills_it_and_they_evaluate(shared: &Shared<impl Store>) {
    let launchdarkly = LaunchDarkly::start("sdk-test", rebrand()).await.unwrap();
    let store = PersistentDataStoreBuilder::new(shared.factory.clone());
    let mut endpoints = ServiceEndpointsBuilder::new();
    let uri = launchdarkly.uri();
    endpoints.polling_base_url(&uri).streaming_base_url(&uri).events_base_url(&uri);
    let transport = HyperTransport::builder().build_https().unwrap();
    let mut streaming = StreamingDataSourceBuilder::new();
    streaming.transport(transport);
    let config = ConfigBuilder::new("sdk-test")
        .service_endpoints(&endpoints)
        .data_source(&streaming)
        .data_store(&store)
        .event_processor(&NullEventProcessorBuilder::new());
    let client = Client::build(config.build().unwrap()).unwrap();
    client.start_with_default_executor();
    assert_eq!(client.wait_for_initialization(Duration::from_secs(10)).await, Some(true));
    assert!(shared.store.read(&[]).await.unwrap().marks.initialized);
    assert_eq!(shared.store.all(Segment).await.unwrap().len(), 1);
    check_agreement(&shared.evaluated_by_us(), &shared.evaluated_by_the_other().await);
}

#[tokio::test]
async fn node_writes_to_redis_and_we_evaluate() {
    they_write_and_we_evaluate(&redis("node-writes")).await;
}

#[tokio::test]
async fn we_write_to_redis_and_node_evaluates() {
    we_write_and_they_evaluate(&redis("we-write")).await;
}

#[tokio::test]
async fn the_rust_sdk_writes_to_redis_and_node_evaluates() {
    the_rust_sdk_fills_it_and_they_evaluate(&redis("the-sdk-writes")).await;
}

#[tokio::test]
async fn python_writes_to_dynamodb_and_we_evaluate() {
    they_write_and_we_evaluate(&dynamodb_and_python("").await).await;
}

#[tokio::test]
async fn we_write_to_dynamodb_and_python_evaluates() {
    we_write_and_they_evaluate(&dynamodb_and_python("staging").await).await;
}

#[tokio::test]
async fn the_rust_sdk_writes_to_dynamodb_and_python_evaluates() {
    the_rust_sdk_fills_it_and_they_evaluate(&dynamodb_and_python("").await).await;
}

#[tokio::test]
async fn node_writes_to_dynamodb_and_we_evaluate() {
    they_write_and_we_evaluate(&dynamodb_and_node("staging").await).await;
}

#[tokio::test]
async fn we_write_to_dynamodb_and_node_evaluates() {
    we_write_and_they_evaluate(&dynamodb_and_node("").await).await;
}

#[tokio::test]
async fn the_rust_sdk_writes_to_dynamodb_and_node_evaluates() {
    the_rust_sdk_fills_it_and_they_evaluate(&dynamodb_and_node("staging").await).await;
}
