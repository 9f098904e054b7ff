//! DynamoDB.
//!
//! A table holds the data of one or more environments, each with its own prefix:
//!
//! | `namespace` (partition key) | `key` (sort key) | other attributes |
//! |---|---|---|
//! | `[prefix:]features` | the flag's key | `version` (N), `item` (S: its JSON) |
//! | `[prefix:]segments` | the segment's key | the same |
//! | `[prefix:]$inited` | `[prefix:]$inited` | none |
//! | `[prefix:]$synced` | `[prefix:]$synced` | `at` (N: milliseconds since 1970) |
//!
//! Only this crate knows the last row. No write covers several items, so each item is written on a condition, segments
//! before the flags that refer to them, and `$inited` last.
//! <https://launchdarkly.com/docs/sdk/features/storing-data/dynamodb>

use super::aws::config_from_environment;
use super::{
    Condition, Contents, DEFAULT_TIMEOUT, Everything, INITED, SYNCED, Store, StoreError, Stored, describe_aws_error,
    from_millis, namespace, to_millis,
};
use crate::backoff::jitter;
use crate::clock::Clock;
use crate::items::{ItemKey, ItemKind};
use crate::transport::Transport;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata};
use aws_sdk_dynamodb::operation::put_item::builders::PutItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, DeleteRequest, KeysAndAttributes, PutRequest, WriteRequest};
use aws_sdk_dynamodb::{Client, Config};
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::time::{Duration, SystemTime};

/// The size of an item with its attribute names. DynamoDB's limit is 400 KB; LaunchDarkly's other SDKs use it too.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html#limits-items>
const MAX_ITEM_BYTES: usize = 400_000;

/// The limits of a batch.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html#limits-api>
const MAX_BATCH_READS: usize = 100;
const MAX_BATCH_WRITES: usize = 25;

/// How often a batch is sent until nothing of it is unprocessed; the wait doubles after each attempt.
const MAX_ATTEMPTS: u32 = 8;
const FIRST_WAIT: Duration = Duration::from_millis(50);

type Row = HashMap<String, AttributeValue>;

/// Flag data in a DynamoDB table.
#[derive(Clone, Debug)]
pub struct DynamoDb {
    client: Client,
    table: String,
    prefix: String,
    /// For errors.
    place: String,
}

impl DynamoDb {
    /// A table, with Region, credentials, endpoint and retries of this configuration. Its HTTP client should be a
    /// [`Transport`].
    pub fn new(table: impl Into<String>, config: Config) -> Self {
        let table = table.into();
        let region = config.region().map(|region| format!(" in {region}")).unwrap_or_default();
        let place = format!("the DynamoDB table {table:?}{region}");
        Self { client: Client::from_conf(config), table, prefix: String::new(), place }
    }

    /// A table with what Lambda gives a function: Region and credentials in the environment.
    ///
    /// # Errors
    /// [`StoreError::Settings`] if Region or credentials are missing.
    pub fn from_environment(table: impl Into<String>) -> Result<Self, StoreError> {
        let transport = Transport::new(Clock::default(), DEFAULT_TIMEOUT);
        Ok(Self::new(table, config_from_environment(None, transport)?.build()))
    }

    /// A replica of a table, with the function's own credentials. It does not retry: another replica answers sooner.
    ///
    /// # Errors
    /// [`StoreError::Settings`] if credentials are missing.
    pub fn replica(table: &str, prefix: &str, region: &str, transport: Transport) -> Result<Self, StoreError> {
        let config = config_from_environment(Some(region), transport)?.retry_config(RetryConfig::disabled());
        Ok(Self::new(table, config.build()).prefix(prefix))
    }

    /// The environment's prefix, for several environments in one table. Default: none.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    fn prefixed(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}:{name}", self.prefix) }
    }

    fn key_of(&self, kind: ItemKind, key: &str) -> Row {
        key_row(&self.prefixed(namespace(kind)), key)
    }

    fn mark(&self, mark: &str) -> Row {
        let name = self.prefixed(mark);
        key_row(&name, &name)
    }

    fn row(&self, kind: ItemKind, key: &str, item: &Stored) -> Result<Row, StoreError> {
        let mut row = self.key_of(kind, key);
        row.insert("version".to_owned(), AttributeValue::N(item.version.to_string()));
        row.insert("item".to_owned(), AttributeValue::S(item.json.clone()));
        let length = |value: &AttributeValue| value.as_s().or(value.as_n()).map_or(0, String::len);
        let size = 100 + row.iter().map(|(name, value)| name.len() + length(value)).sum::<usize>();
        if size > MAX_ITEM_BYTES {
            let (store, key) = (self.place.clone(), key.to_owned());
            return Err(StoreError::TooLarge { store, kind, key, size, limit: MAX_ITEM_BYTES });
        }
        Ok(row)
    }

    /// Reads rows by their keys.
    async fn get(&self, keys: Vec<Row>) -> Result<Vec<Row>, StoreError> {
        let send = |keys| async move {
            let keys = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build();
            let get = self.client.batch_get_item().request_items(&self.table, keys.map_err(|e| self.failed(&e))?);
            let got = get.send().await.map_err(|error| self.error(&error))?;
            let unprocessed = got.unprocessed_keys.unwrap_or_default().remove(&self.table);
            let found = got.responses.unwrap_or_default().remove(&self.table).unwrap_or_default();
            Ok((found, unprocessed.map(|left| left.keys).unwrap_or_default()))
        };
        self.in_batches(keys, MAX_BATCH_READS, send).await
    }

    async fn write(&self, requests: Result<Vec<WriteRequest>, BuildError>) -> Result<(), StoreError> {
        let requests = requests.map_err(|error| self.failed(&error))?;
        let send = |requests| async move {
            let write = self.client.batch_write_item().request_items(&self.table, requests);
            let written = write.send().await.map_err(|error| self.error(&error))?;
            Ok((
                Vec::<()>::new(),
                written.unprocessed_items.unwrap_or_default().remove(&self.table).unwrap_or_default(),
            ))
        };
        self.in_batches(requests, MAX_BATCH_WRITES, send).await.map(drop)
    }

    /// Sends requests in batches, and what `send` returns as unprocessed again. It waits before, with jitter, so that
    /// writers that were throttled together do not come back together.
    async fn in_batches<T: Clone, R, F>(
        &self,
        requests: Vec<T>,
        max: usize,
        send: impl Fn(Vec<T>) -> F,
    ) -> Result<Vec<R>, StoreError>
    where
        F: Future<Output = Result<(Vec<R>, Vec<T>), StoreError>>,
    {
        let mut all = Vec::new();
        for batch in requests.chunks(max) {
            let mut batch = batch.to_vec();
            for attempt in 1.. {
                let (results, unprocessed) = send(batch).await?;
                all.extend(results);
                if unprocessed.is_empty() {
                    break;
                }
                if attempt == MAX_ATTEMPTS {
                    let count = unprocessed.len();
                    let why = format!("{count} items of a batch are unprocessed after {MAX_ATTEMPTS} attempts");
                    return Err(StoreError::Throttled { store: self.place.clone(), why });
                }
                let wait = FIRST_WAIT * 2_u32.pow(attempt - 1);
                tokio::time::sleep(wait.mul_f64(0.5 + jitter() / 2.0)).await;
                batch = unprocessed;
            }
        }
        Ok(all)
    }

    async fn query(&self, kind: ItemKind) -> Result<Vec<Row>, StoreError> {
        let rows = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .key_condition_expression("#namespace = :namespace")
            .expression_attribute_names("#namespace", "namespace")
            .expression_attribute_values(":namespace", AttributeValue::S(self.prefixed(namespace(kind))))
            .into_paginator()
            .items()
            .send();
        rows.collect::<Result<Vec<_>, _>>().await.map_err(|error| self.error(&error))
    }

    fn put_row(&self, row: Row) -> PutItemFluentBuilder {
        self.client.put_item().table_name(&self.table).set_item(Some(row))
    }

    /// Whether a conditional write was done. A condition that does not hold is not an error.
    async fn put_if(&self, put: PutItemFluentBuilder) -> Result<bool, StoreError> {
        match put.send().await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(false),
            Err(error) => Err(self.error(&error)),
        }
    }

    fn failed(&self, error: &BuildError) -> StoreError {
        StoreError::Failed { store: self.place.clone(), why: error.to_string() }
    }

    fn error(&self, error: &(impl ProvideErrorMetadata + Error)) -> StoreError {
        let (store, why) = (self.place.clone(), describe_aws_error(error));
        match error.code() {
            Some("ResourceNotFoundException") => StoreError::NoSuchTable { store },
            Some(
                "ProvisionedThroughputExceededException"
                | "ThrottlingException"
                | "RequestLimitExceeded"
                | "ReplicatedWriteConflictException",
            ) => StoreError::Throttled { store, why },
            Some(
                "AccessDeniedException"
                | "UnrecognizedClientException"
                | "InvalidSignatureException"
                | "ExpiredTokenException"
                | "MissingAuthenticationTokenException",
            ) => StoreError::Refused { store, why },
            Some(_) => StoreError::Failed { store, why },
            None => StoreError::Unreachable { store, why },
        }
    }
}

impl Store for DynamoDb {
    async fn read(&self, keys: &[ItemKey]) -> Result<Contents, StoreError> {
        let (inited, synced) = (self.mark(INITED), self.mark(SYNCED));
        // DynamoDB rejects a batch with the same key twice.
        let unique: HashSet<&ItemKey> = keys.iter().collect();
        let items = unique.into_iter().map(|(kind, key)| self.key_of(*kind, key));
        let rows = self.get([inited.clone(), synced.clone()].into_iter().chain(items).collect()).await?;
        let found: HashMap<_, _> = rows.iter().map(|row| ((text(row, "namespace"), text(row, "key")), row)).collect();
        let row_of = |key: &Row| found.get(&(text(key, "namespace"), text(key, "key"))).copied();
        let items = keys.iter().map(|(kind, key)| row_of(&self.key_of(*kind, key)).map(stored)).collect();
        let synced = row_of(&synced).and_then(|row| from_millis(number(row, "at")?));
        Ok(Contents { items, initialized: row_of(&inited).is_some(), synced })
    }

    async fn all(&self, kind: ItemKind) -> Result<HashMap<String, Stored>, StoreError> {
        let rows = self.query(kind).await?;
        Ok(rows.iter().map(|row| (text(row, "key").to_owned(), stored(row))).collect())
    }

    async fn put(
        &self,
        kind: ItemKind,
        key: &str,
        item: &Stored,
        condition: Condition<'_>,
    ) -> Result<bool, StoreError> {
        let put = self.put_row(self.row(kind, key, item)?).expression_attribute_names("#namespace", "namespace");
        let put = match condition {
            Condition::Newer => put
                .condition_expression("attribute_not_exists(#namespace) OR #version < :version")
                .expression_attribute_names("#version", "version")
                .expression_attribute_values(":version", AttributeValue::N(item.version.to_string())),
            Condition::Unchanged(None) => put.condition_expression("attribute_not_exists(#namespace)"),
            // Nothing else identifies a row without a text.
            Condition::Unchanged(Some(seen)) if seen.json.is_empty() => put
                .condition_expression(
                    "attribute_exists(#namespace) AND (NOT attribute_type(#item, :text) OR #item = :item)",
                )
                .expression_attribute_names("#item", "item")
                .expression_attribute_values(":text", AttributeValue::S("S".to_owned()))
                .expression_attribute_values(":item", AttributeValue::S(String::new())),
            // The text itself, since no other SDK writes a hash of it. An expression may have values of 2 MB.
            // https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html#limits-expression-parameters
            Condition::Unchanged(Some(seen)) => put
                .condition_expression("attribute_exists(#namespace) AND #item = :item")
                .expression_attribute_names("#item", "item")
                .expression_attribute_values(":item", AttributeValue::S(seen.json.clone())),
        };
        self.put_if(put).await
    }

    async fn replace(&self, everything: &Everything) -> Result<(), StoreError> {
        let put = |row| {
            let put = PutRequest::builder().set_item(Some(row)).build()?;
            Ok(WriteRequest::builder().put_request(put).build())
        };
        let delete = |key| {
            let delete = DeleteRequest::builder().set_key(Some(key)).build()?;
            Ok(WriteRequest::builder().delete_request(delete).build())
        };
        let mut gone = Vec::new();
        for (kind, items) in everything.kinds() {
            let rows = self.query(kind).await?;
            let keys = rows.iter().map(|row| text(row, "key")).filter(|key| !items.contains_key(*key));
            gone.extend(keys.map(|key| self.key_of(kind, key)));
            let rows = items.iter().map(|(key, item)| self.row(kind, key, item));
            let rows = rows.filter_map(|row| row.inspect_err(|error| log::error!("{error}")).ok());
            self.write(rows.map(put).collect()).await?;
        }
        self.write(gone.into_iter().map(delete).collect()).await?;
        self.mark_initialized().await
    }

    async fn mark_initialized(&self) -> Result<(), StoreError> {
        self.put_row(self.mark(INITED)).send().await.map(drop).map_err(|error| self.error(&error))
    }

    async fn mark_synced(&self, at: SystemTime) -> Result<(), StoreError> {
        let at = AttributeValue::N(to_millis(at).to_string());
        let mut row = self.mark(SYNCED);
        row.insert("at".to_owned(), at.clone());
        let put = self
            .put_row(row)
            .condition_expression("attribute_not_exists(#at) OR #at < :at")
            .expression_attribute_names("#at", "at")
            .expression_attribute_values(":at", at);
        self.put_if(put).await.map(drop)
    }
}

fn key_row(namespace: &str, key: &str) -> Row {
    let value = |text: &str| AttributeValue::S(text.to_owned());
    HashMap::from([("namespace".to_owned(), value(namespace)), ("key".to_owned(), value(key))])
}

fn text<'a>(row: &'a Row, name: &str) -> &'a str {
    row.get(name).and_then(|value| value.as_s().ok()).map_or("", String::as_str)
}

fn number<'a>(row: &'a Row, name: &str) -> Option<&'a str> {
    row.get(name).and_then(|value| value.as_n().ok()).map(String::as_str)
}

/// With the version of the attribute, which conditions compare.
fn stored(row: &Row) -> Stored {
    let version = number(row, "version").and_then(|version| version.parse().ok()).unwrap_or(0);
    Stored { version, ..Stored::parse(text(row, "item").to_owned()) }
}
