//! The stores in the servers that the tests share.

#![allow(dead_code)] // Each of the test programs that include this file needs a part of it.

use flag_data::clock::Clock;
use flag_data::items::{ItemKind, Stored};
use flag_data::stores::{DynamoDb, Redis, Store, aws_sdk_dynamodb};
use flag_data::transport::Transport;
use standins::servers::{dynamodb_uri, new_table, redis_url, unique};
use std::time::Duration;

/// The SDK's configuration for the emulator, or for a proxy in front of it.
pub(crate) fn config(uri: &str) -> aws_sdk_dynamodb::Config {
    config_with(uri, Duration::from_secs(5))
}

pub(crate) fn config_with(uri: &str, timeout: Duration) -> aws_sdk_dynamodb::Config {
    use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
    aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(uri)
        .http_client(Transport::new(Clock::default(), timeout))
        .build()
}

pub(crate) async fn dynamodb() -> DynamoDb {
    let table = new_table().await;
    DynamoDb::new(table, config(&dynamodb_uri()))
}

pub(crate) fn redis() -> Redis {
    Redis::new(redis_url()).unwrap().prefix(unique("prefix"))
}

pub(crate) async fn one(store: &impl Store, kind: ItemKind, key: &str) -> Option<Stored> {
    store.read(&[(kind, key.to_owned())]).await.unwrap().items.remove(0)
}
