//! Secrets in SSM Parameter Store (a `SecureString`) or in Secrets Manager, cached for five minutes.
//!
//! <https://docs.aws.amazon.com/systems-manager/latest/userguide/systems-manager-parameter-store.html>

use aws_config::SdkConfig;
use flag_data::clock::{Clock, Moment};
use flag_data::stores::describe_aws_error;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;

/// When a secret is read again.
const MAX_AGE: Duration = Duration::from_secs(300);

/// A secret that was not read. It never holds one.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{place} was not read: {why}")]
pub struct SecretError {
    place: String,
    why: String,
}

/// A secret. Its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself. Never log it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// Reads secrets by name, and caches them.
pub struct SecretCache {
    parameters: aws_sdk_ssm::Client,
    manager: aws_sdk_secretsmanager::Client,
    clock: Clock,
    known: Mutex<HashMap<String, (Secret, Moment)>>,
}

impl SecretCache {
    /// With the Region and credentials of this configuration, and a clock that sees freezes.
    pub fn new(config: &SdkConfig, clock: Clock) -> Self {
        Self {
            parameters: aws_sdk_ssm::Client::new(config),
            manager: aws_sdk_secretsmanager::Client::new(config),
            clock,
            known: Mutex::default(),
        }
    }

    /// The secret of this name: the ARN of a secret in Secrets Manager, or the name or ARN of an SSM parameter.
    ///
    /// # Errors
    /// It was not read.
    pub async fn read(&self, name: &str) -> Result<Secret, SecretError> {
        let known = self.known.lock().get(name).cloned();
        if let Some((secret, read)) = known
            && self.clock.since(read) < MAX_AGE
        {
            return Ok(secret);
        }
        let requested = self.clock.now();
        let secret = if name.starts_with("arn:") && name.contains(":secretsmanager:") {
            self.in_secrets_manager(name).await?
        } else {
            self.in_parameter_store(name).await?
        };
        self.known.lock().insert(name.to_owned(), (secret.clone(), requested));
        Ok(secret)
    }

    /// Forgets a secret that was rejected: it may have changed.
    pub fn forget(&self, name: &str) {
        self.known.lock().remove(name);
    }

    async fn in_parameter_store(&self, name: &str) -> Result<Secret, SecretError> {
        let failed = |why| SecretError { place: format!("the SSM parameter {name:?}"), why };
        let found = self.parameters.get_parameter().name(name).with_decryption(true).send().await;
        let found = found.map_err(|error| failed(describe_aws_error(&error)))?;
        let value = found.parameter.and_then(|parameter| parameter.value);
        value.map(Secret).ok_or_else(|| failed("it has no value".to_owned()))
    }

    async fn in_secrets_manager(&self, arn: &str) -> Result<Secret, SecretError> {
        let failed = |why| SecretError { place: format!("the secret {arn:?}"), why };
        let found = self.manager.get_secret_value().secret_id(arn).send().await;
        let found = found.map_err(|error| failed(describe_aws_error(&error)))?;
        found.secret_string.map(Secret).ok_or_else(|| failed("it is not a text".to_owned()))
    }
}
