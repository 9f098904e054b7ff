//! The stores in the servers that the tests share.

#![allow(dead_code)] // Each of the test programs that include this file needs a part of it.

use flag_data::items::{ItemKind, Stored};
use flag_data::stores::{DynamoDb, DynamoDbDataStore, Redis, RedisDataStore, Store, aws_sdk_dynamodb};
use standins::servers::{dynamodb_uri, new_table, redis_url, unique};

/// The SDK's configuration for the emulator, or for what stands before it.
pub(crate) fn config(uri: &str) -> aws_sdk_dynamodb::Config {
    use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
    aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(uri)
        .build()
}

pub(crate) async fn dynamodb() -> DynamoDb {
    let table = new_table().await;
    DynamoDbDataStore::builder(table).config(config(&dynamodb_uri())).build_async().unwrap()
}

pub(crate) fn redis() -> Redis {
    RedisDataStore::builder(redis_url()).prefix(unique("prefix")).build_async().unwrap()
}

pub(crate) async fn one(store: &impl Store, kind: ItemKind, key: &str) -> Option<Stored> {
    store.read(&[(kind, key.to_owned())]).await.unwrap().items.remove(0)
}
