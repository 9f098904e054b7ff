//! How a table is opened.

use super::{DynamoDb, DynamoDbDataStore};
use crate::clock::Clock;
use crate::stores::{AwsTransport, DEFAULT_TIMEOUT, DataStore, StoreError};
use crate::transport::Transport;
use aws_credential_types::Credentials;
use aws_sdk_dynamodb::Config;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Region, StalledStreamProtectionConfig};
use launchdarkly_server_sdk::{PersistentDataStore, PersistentDataStoreFactory};
use std::env;
use std::time::Duration;

impl DynamoDbDataStore {
    /// Begins with the name of the table.
    pub fn builder(table: impl Into<String>) -> DynamoDbBuilder {
        DynamoDbBuilder {
            table: table.into(),
            prefix: String::new(),
            config: None,
            clock: Clock::default(),
            timeout: DEFAULT_TIMEOUT,
        }
    }
}

/// Makes a [`DynamoDbDataStore`], or a [`DynamoDb`] without the SDK's part.
#[derive(Clone, Debug)]
pub struct DynamoDbBuilder {
    table: String,
    prefix: String,
    config: Option<Config>,
    clock: Clock,
    timeout: Duration,
}

impl DynamoDbBuilder {
    /// The environment's prefix, for several environments in one table. By default there is none.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Region, credentials, endpoint and retries, as the AWS SDK knows them; only its HTTP client is not used, because
    /// connections that belong to another runtime could wait for ever. By default, what Lambda gives a function:
    /// Region and credentials from the environment, with `AWS_ENDPOINT_URL_DYNAMODB` for tests.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// How long one request may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The clock that sees a freeze.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The store for the SDK.
    ///
    /// # Errors
    /// [`StoreError::Settings`] where Region or credentials are missing, or no thread can be started.
    pub fn build(&self) -> Result<DynamoDbDataStore, StoreError> {
        let store = self.build_async()?;
        let settings =
            |error: std::io::Error| StoreError::Settings { store: self.table.clone(), why: error.to_string() };
        DataStore::new(store).map_err(settings)
    }

    /// The store with asynchronous calls.
    ///
    /// # Errors
    /// [`StoreError::Settings`] where Region or credentials are missing.
    pub fn build_async(&self) -> Result<DynamoDb, StoreError> {
        let transport = AwsTransport(Transport::new(self.clock.clone(), self.timeout));
        let config = match &self.config {
            Some(config) => config.to_builder(),
            None => from_environment(&self.table, None)?,
        };
        Ok(DynamoDb::new(config.http_client(transport).build(), &self.table, &self.prefix))
    }
}

impl PersistentDataStoreFactory for DynamoDbBuilder {
    fn create_persistent_data_store(&self) -> Result<Box<dyn PersistentDataStore>, std::io::Error> {
        let store = self.build().map_err(std::io::Error::other)?;
        Ok(Box::new(store))
    }
}

/// The configuration that Lambda gives a function. Its credentials outlive the execution environment.
/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime>
fn from_environment(table: &str, region: Option<&str>) -> Result<aws_sdk_dynamodb::config::Builder, StoreError> {
    let required = |name: &str| {
        env::var(name).map_err(|_| StoreError::Settings {
            store: format!("the DynamoDB table {table:?}"),
            why: format!("the environment variable {name} is missing"),
        })
    };
    let region = region.map_or_else(|| required("AWS_REGION"), |region| Ok(region.to_owned()))?;
    let credentials = Credentials::new(
        required("AWS_ACCESS_KEY_ID")?,
        required("AWS_SECRET_ACCESS_KEY")?,
        env::var("AWS_SESSION_TOKEN").ok(),
        None,
        "environment",
    );
    let mut config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region))
        .credentials_provider(credentials)
        // The transport has its own limit for a whole request.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    config.set_endpoint_url(env::var("AWS_ENDPOINT_URL_DYNAMODB").ok());
    Ok(config)
}

impl DynamoDb {
    /// A replica of the table, read by this function: without retries, since another replica is the better one.
    pub fn replica(table: &str, prefix: &str, region: &str, transport: Transport) -> Result<Self, StoreError> {
        let config = from_environment(table, Some(region))?
            .retry_config(RetryConfig::disabled())
            .http_client(AwsTransport(transport));
        Ok(Self::new(config.build(), table, prefix))
    }
}
