//! Secrets from SSM Parameter Store (a `SecureString`) or Secrets Manager, kept in memory for a while.
//!
//! <https://docs.aws.amazon.com/systems-manager/latest/userguide/systems-manager-parameter-store.html>

use aws_config::SdkConfig;
use flag_data::clock::{Clock, Moment};
use flag_data::stores::aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;

/// A secret that was changed is known after this time.
const KEPT_FOR: Duration = Duration::from_secs(300);

/// A secret that was not read. Never holds one.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{place} was not read: {why}")]
pub struct SecretError {
    place: String,
    why: String,
}

/// A secret. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for what needs it and nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

/// Reads secrets by name.
pub struct Secrets {
    parameters: aws_sdk_ssm::Client,
    manager: aws_sdk_secretsmanager::Client,
    clock: Clock,
    known: Mutex<HashMap<String, (Secret, Moment)>>,
}

impl Secrets {
    /// With the Region and credentials of this configuration. The clock is one that sees a freeze.
    pub fn new(config: &SdkConfig, clock: Clock) -> Self {
        Self {
            parameters: aws_sdk_ssm::Client::new(config),
            manager: aws_sdk_secretsmanager::Client::new(config),
            clock,
            known: Mutex::default(),
        }
    }

    /// The secret of this name: the ARN of a secret of Secrets Manager, or else the name or ARN of a parameter.
    ///
    /// # Errors
    /// It was not read.
    pub async fn read(&self, name: &str) -> Result<Secret, SecretError> {
        let known = self.known.lock().get(name).cloned();
        if let Some((secret, read)) = known
            && self.clock.since(read) < KEPT_FOR
        {
            return Ok(secret);
        }
        let asked = self.clock.now();
        let secret = if name.starts_with("arn:") && name.contains(":secretsmanager:") {
            self.in_secrets_manager(name).await?
        } else {
            self.in_parameter_store(name).await?
        };
        self.known.lock().insert(name.to_owned(), (secret.clone(), asked));
        Ok(secret)
    }

    /// Forgets a secret that turned out to be wrong: it may have been changed.
    pub fn forget(&self, name: &str) {
        self.known.lock().remove(name);
    }

    async fn in_parameter_store(&self, name: &str) -> Result<Secret, SecretError> {
        let failed = |why| SecretError { place: format!("the SSM parameter {name:?}"), why };
        let answer = self.parameters.get_parameter().name(name).with_decryption(true).send().await;
        let answer = answer.map_err(|error| failed(described(&error)))?;
        let value = answer.parameter.and_then(|parameter| parameter.value);
        value.map(Secret).ok_or_else(|| failed("it has no value".to_owned()))
    }

    async fn in_secrets_manager(&self, arn: &str) -> Result<Secret, SecretError> {
        let failed = |why| SecretError { place: format!("the secret {arn:?}"), why };
        let answer = self.manager.get_secret_value().secret_id(arn).send().await;
        let answer = answer.map_err(|error| failed(described(&error)))?;
        answer.secret_string.map(Secret).ok_or_else(|| failed("it is not text".to_owned()))
    }
}

fn described<E, R>(error: &SdkError<E, R>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    match error.code() {
        Some(code) => format!("{code}: {}", error.message().unwrap_or("no message")),
        None => DisplayErrorContext(error).to_string(),
    }
}
