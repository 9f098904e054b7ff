//! Secrets in SSM Parameter Store (a `SecureString`) or in Secrets Manager, cached for five minutes.
//!
//! Both keep the version before a change, so that a secret can be rotated without an interruption.
//! <https://docs.aws.amazon.com/systems-manager/latest/userguide/sysman-paramstore-versions.html>
//! <https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html>

use aws_config::SdkConfig;
use aws_sdk_ssm::error::{ProvideErrorMetadata, SdkError};
use flag_data::clock::{Clock, Moment};
use flag_data::sdk_key::SdkKey;
use flag_data::stores::describe_aws_error;
use lambda_runtime::Error;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// When a secret is read again.
const MAX_AGE: Duration = Duration::from_secs(300);

/// How long the version before a change is accepted.
const ROTATION: Duration = Duration::from_secs(24 * 3_600);

/// A secret that was not read. It never holds one.
#[derive(Debug, thiserror::Error)]
#[error("{place} was not read: {why}")]
pub(crate) struct SecretError {
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
}

/// A secret that is not empty, and for a day after a change the version before. It has neither `Debug` nor `Display`, so
/// that it is not logged by mistake.
#[derive(Clone)]
pub(crate) struct Secret {
    current: String,
    previous: Option<String>,
}

impl Secret {
    /// The secret itself. Never log it.
    pub(crate) fn reveal(&self) -> &str {
        &self.current
    }

    /// Every version that is accepted. Never log them.
    pub(crate) fn versions(&self) -> impl Iterator<Item = &str> {
        [self.current.as_str()].into_iter().chain(self.previous.as_deref())
    }
}

/// A version as AWS returns it.
struct Version {
    secret: String,
    created: Option<SystemTime>,
    /// Selects the version before, if there may be one.
    previous: Option<String>,
}

/// Reads secrets by name, and caches them.
pub(crate) struct SecretCache {
    parameters: aws_sdk_ssm::Client,
    manager: aws_sdk_secretsmanager::Client,
    clock: Clock,
    known: Mutex<HashMap<String, (Secret, Moment)>>,
}

impl SecretCache {
    /// With the Region and credentials of this configuration, and a clock that sees freezes.
    pub(crate) fn new(config: &SdkConfig, clock: Clock) -> Self {
        Self {
            parameters: aws_sdk_ssm::Client::new(config),
            manager: aws_sdk_secretsmanager::Client::new(config),
            clock,
            known: Mutex::default(),
        }
    }

    /// The secret of this name: the ARN of a secret in Secrets Manager, or the name or ARN of an SSM parameter.
    pub(crate) async fn read(&self, name: &str) -> Result<Secret, SecretError> {
        self.cached(name, Duration::ZERO).await
    }

    /// The same with the version before, so that both are accepted for a day after a change. If the version before was
    /// not read, a warning is logged.
    pub(crate) async fn read_rotating(&self, name: &str) -> Result<Secret, SecretError> {
        self.cached(name, ROTATION).await
    }

    /// The same for a secret that holds an SDK key.
    pub(crate) async fn sdk_key(&self, name: &str) -> Result<SdkKey, Error> {
        let secret = self.read(name).await?;
        let key = SdkKey::parse(secret.reveal()).map_err(|error| format!("invalid SDK key in {name}: {error}"))?;
        key.ok_or_else(|| format!("no SDK key in {name}").into())
    }

    /// Forgets a secret that was rejected: it may have changed.
    pub(crate) fn forget(&self, name: &str) {
        self.known.lock().remove(name);
    }

    async fn cached(&self, name: &str, rotation: Duration) -> Result<Secret, SecretError> {
        let known = self.known.lock().get(name).cloned();
        if let Some((secret, read)) = known
            && self.clock.since(read) < MAX_AGE
        {
            return Ok(secret);
        }
        let requested = self.clock.now();
        let Version { secret: current, created, previous: selector } = self.version(name, None).await?;
        // A time in the future is a clock that is behind.
        let age = created.map(|created| SystemTime::now().duration_since(created).unwrap_or_default());
        let mut previous = None;
        if let Some(selector) = selector
            && age.is_some_and(|age| age < rotation)
        {
            match self.version(name, Some(&selector)).await {
                Ok(version) => previous = Some(version.secret),
                Err(error) if error.is_missing => {}
                Err(error) => log::warn!("the version before a changed secret is not accepted: {error}"),
            }
        }
        let secret = Secret { current, previous };
        self.known.lock().insert(name.to_owned(), (secret.clone(), requested));
        Ok(secret)
    }

    async fn version(&self, name: &str, selector: Option<&str>) -> Result<Version, SecretError> {
        let (place, text, created, previous) = if name.starts_with("arn:") && name.contains(":secretsmanager:") {
            let stage = selector.unwrap_or("AWSCURRENT");
            let place = format!("the secret {name:?} ({stage})");
            let found = self.manager.get_secret_value().secret_id(name).version_stage(stage).send().await;
            let found = found.map_err(|error| SecretError::new(&place, &error))?;
            (place, found.secret_string, found.created_date, Some("AWSPREVIOUS".to_owned()))
        } else {
            let selector = selector.unwrap_or(name);
            let place = format!("the SSM parameter {selector:?}");
            let found = self.parameters.get_parameter().name(selector).with_decryption(true).send().await;
            let found = found.map_err(|error| SecretError::new(&place, &error))?.parameter;
            let created = found.as_ref().and_then(|found| found.last_modified_date);
            let number = found.as_ref().map(|found| found.version).filter(|number| *number > 1);
            (place, found.and_then(|found| found.value), created, number.map(|number| format!("{name}:{}", number - 1)))
        };
        match text.as_deref().map(str::trim) {
            None | Some("") => {
                Err(SecretError { place, why: "it is empty, or not a text".to_owned(), is_missing: false })
            }
            Some(text) => Ok(Version {
                secret: text.to_owned(),
                created: created.and_then(|created| created.try_into().ok()),
                previous,
            }),
        }
    }
}
