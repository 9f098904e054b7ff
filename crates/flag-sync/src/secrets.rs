//! Secrets in SSM Parameter Store (a `SecureString`) or in Secrets Manager, cached for five minutes.
//!
//! Both keep the version before a change, so that a secret can be rotated without an interruption.
//! <https://docs.aws.amazon.com/systems-manager/latest/userguide/sysman-paramstore-versions.html>
//! <https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html>

use aws_config::SdkConfig;
use aws_sdk_ssm::error::{ProvideErrorMetadata, SdkError};
use flag_data::clock::{Clock, Moment};
use flag_data::stores::describe_aws_error;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// When a secret is read again.
const MAX_AGE: Duration = Duration::from_secs(300);

/// How long the version before a change is accepted.
const ROTATION: Duration = Duration::from_secs(24 * 3_600);

/// A secret that was not read. It never holds one.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{place} was not read: {why}")]
pub struct SecretError {
    place: String,
    why: String,
    is_missing: bool,
}

impl SecretError {
    fn new<E, R>(place: &str, error: &SdkError<E, R>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: std::fmt::Debug,
    {
        let is_missing = matches!(error.code(), Some("ParameterVersionNotFound" | "ResourceNotFoundException"));
        Self { place: place.to_owned(), why: describe_aws_error(error), is_missing }
    }

    fn without_value(place: &str) -> Self {
        Self { place: place.to_owned(), why: "it does not hold a text".to_owned(), is_missing: false }
    }
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

/// A secret, and for a day after a change the version before.
#[derive(Clone, Debug)]
pub struct SecretVersions {
    /// The secret of today.
    pub current: Secret,
    /// The version before, if the current one is younger than a day.
    pub previous: Option<Secret>,
}

/// A version as AWS returns it.
struct Version {
    secret: Secret,
    created: Option<SystemTime>,
    /// Selects the version before, if there may be one.
    previous: Option<String>,
}

/// Reads secrets by name, and caches them.
pub struct SecretCache {
    parameters: aws_sdk_ssm::Client,
    manager: aws_sdk_secretsmanager::Client,
    clock: Clock,
    known: Mutex<HashMap<String, (SecretVersions, Moment)>>,
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
        Ok(self.cached(name, Duration::ZERO).await?.current)
    }

    /// The same with the version before, so that both are accepted for a day after a change.
    ///
    /// # Errors
    /// The current version was not read. If the version before was not read, a warning is logged.
    pub async fn read_rotating(&self, name: &str) -> Result<SecretVersions, SecretError> {
        self.cached(name, ROTATION).await
    }

    /// Forgets a secret that was rejected: it may have changed.
    pub fn forget(&self, name: &str) {
        self.known.lock().remove(name);
    }

    async fn cached(&self, name: &str, rotation: Duration) -> Result<SecretVersions, SecretError> {
        let known = self.known.lock().get(name).cloned();
        if let Some((versions, read)) = known
            && self.clock.since(read) < MAX_AGE
        {
            return Ok(versions);
        }
        let requested = self.clock.now();
        let Version { secret: current, created, previous } = self.version(name, None).await?;
        // A time in the future is a clock that is behind.
        let age = created.map(|created| SystemTime::now().duration_since(created).unwrap_or_default());
        let previous = match previous.filter(|_| age.is_some_and(|age| age < rotation)) {
            None => None,
            Some(selector) => match self.version(name, Some(&selector)).await {
                Ok(previous) => Some(previous.secret),
                Err(error) => {
                    if !error.is_missing {
                        log::warn!("the version before a changed secret is not accepted: {error}");
                    }
                    None
                }
            },
        };
        let versions = SecretVersions { current, previous };
        self.known.lock().insert(name.to_owned(), (versions.clone(), requested));
        Ok(versions)
    }

    async fn version(&self, name: &str, selector: Option<&str>) -> Result<Version, SecretError> {
        if name.starts_with("arn:") && name.contains(":secretsmanager:") {
            self.in_secrets_manager(name, selector.unwrap_or("AWSCURRENT")).await
        } else {
            self.in_parameter_store(name, selector.unwrap_or(name)).await
        }
    }

    async fn in_parameter_store(&self, name: &str, selector: &str) -> Result<Version, SecretError> {
        let place = format!("the SSM parameter {selector:?}");
        let found = self.parameters.get_parameter().name(selector).with_decryption(true).send().await;
        let found = found.map_err(|error| SecretError::new(&place, &error))?.parameter;
        let found = found.ok_or_else(|| SecretError::without_value(&place))?;
        Ok(Version {
            secret: found.value.map(Secret).ok_or_else(|| SecretError::without_value(&place))?,
            created: found.last_modified_date.and_then(|date| date.try_into().ok()),
            previous: (found.version > 1).then(|| format!("{name}:{}", found.version - 1)),
        })
    }

    async fn in_secrets_manager(&self, arn: &str, stage: &str) -> Result<Version, SecretError> {
        let place = format!("the secret {arn:?} ({stage})");
        let found = self.manager.get_secret_value().secret_id(arn).version_stage(stage).send().await;
        let found = found.map_err(|error| SecretError::new(&place, &error))?;
        Ok(Version {
            secret: found.secret_string.map(Secret).ok_or_else(|| SecretError::without_value(&place))?,
            created: found.created_date.and_then(|date| date.try_into().ok()),
            previous: Some("AWSPREVIOUS".to_owned()),
        })
    }
}
