//! The example, as Lambda runs it.

use crate::databases::config;
use flag_data::items::{Everything, Stored};
use flag_data::stores::{DynamoDbDataStore, Store};
use serde_json::{Value, json};
use standins::samples::rebrand;
use standins::{Function, RuntimeApi, servers};

#[tokio::test]
async fn the_example_evaluates_any_flag_from_the_table() {
    let table = servers::new_table().await;
    let store = DynamoDbDataStore::builder(&table).config(config(&servers::dynamodb_uri())).build().unwrap();
    let stored = |items: serde_json::Map<String, Value>| {
        items.into_iter().map(|(key, item)| (key, Stored::parse(item.to_string()))).collect()
    };
    let data = rebrand();
    store.replace(&Everything { flags: stored(data.flags), segments: stored(data.segments) }).await.unwrap();
    let api = RuntimeApi::start().await.unwrap();
    let environment = [
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ("AWS_ENDPOINT_URL_DYNAMODB", servers::dynamodb_uri()),
        ("FLAG_STORE_TABLE", table),
    ];
    // Cargo builds examples beside the tests.
    let example = std::env::current_exe().unwrap().with_file_name("../examples/any_flag");
    let _function = Function::start(&example, &api, environment).unwrap();
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
