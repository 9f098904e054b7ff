//! The floor: a function on the same runtime client that answers every event with the same redirect.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::value::RawValue;

const ANSWER: &str = r#"{"status":"302","headers":{"location":[{"key":"Location","value":"/site/index.html"}]}}"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::run(service_fn(async |_: LambdaEvent<Box<RawValue>>| {
        RawValue::from_string(ANSWER.to_owned()).map_err(Error::from)
    }))
    .await
}
