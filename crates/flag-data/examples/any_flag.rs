//! An example: a regional Lambda function that evaluates any flag from the flag store, without calling LaunchDarkly.
//!
//! Event: `{"flag": "rebrand", "context": "192.0.2.1"}`. Answer: `{"value": true, "reason": {"kind": "FALLTHROUGH"}}`.
//! Its environment: `FLAG_STORE_TABLE`, and `FLAG_STORE_PREFIX` if the table has several environments.

use flag_data::stores::{DataStore, DynamoDb};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use launchdarkly_server_sdk::{
    Client, ConfigBuilder, ContextBuilder, NullEventProcessorBuilder, PersistentDataStoreBuilder,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::env;
use std::sync::Arc;

#[derive(Deserialize)]
struct Question {
    flag: String,
    context: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let table = DynamoDb::from_environment(env::var("FLAG_STORE_TABLE")?)?;
    let table = table.prefix(env::var("FLAG_STORE_PREFIX").unwrap_or_default());
    let store = PersistentDataStoreBuilder::new(Arc::new(DataStore::new(table)?));
    // Nothing is sent to LaunchDarkly either, so no key is needed.
    let config = ConfigBuilder::new("none").daemon_mode(true).data_store(&store);
    let client = Client::build(config.event_processor(&NullEventProcessorBuilder::new()).build()?)?;
    client.start_with_default_executor();

    let client = &client;
    lambda_runtime::run(service_fn(|event: LambdaEvent<Question>| async move {
        let Question { flag, context } = event.payload;
        let context = ContextBuilder::new(context).build()?;
        let detail = client.json_variation_detail(&context, &flag, Value::Null);
        Ok::<_, Error>(json!({"value": detail.value, "reason": detail.reason}))
    }))
    .await
}
