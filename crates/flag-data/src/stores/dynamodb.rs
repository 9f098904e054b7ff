//! DynamoDB.
//!
//! One table holds the data of one or more environments, distinguished by a prefix:
//!
//! | `namespace` (partition key) | `key` (sort key) | other attributes |
//! |---|---|---|
//! | `[prefix:]features` | the flag's key | `version` (N), `item` (S: its JSON) |
//! | `[prefix:]segments` | the segment's key | the same |
//! | `[prefix:]$inited` | `[prefix:]$inited` | none |
//! | `[prefix:]$synced` | `[prefix:]$synced` | `at` (N: milliseconds since 1970) |
//!
//! The last is this crate's own. Nothing is atomic over several items, so an item is written on a condition, segments
//! before the flags that name them, and `$inited` when all the others are there.
//! <https://launchdarkly.com/docs/sdk/features/storing-data/dynamodb>

mod builder;

pub use builder::DynamoDbBuilder;

use super::{
    Condition, Contents, DataStore, Everything, INITED, Marks, SYNCED, Store, StoreError, Stored, from_millis,
    namespace, to_millis,
};
use crate::backoff::jitter;
use crate::items::{ItemKey, ItemKind};
use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{AttributeValue, DeleteRequest, KeysAndAttributes, PutRequest, WriteRequest};
use aws_sdk_dynamodb::{Client, Config};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

/// The largest item, attribute names included. DynamoDB's limit is 400 KB; other LaunchDarkly SDKs stop here too.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html#limits-items>
const MAX_ITEM_BYTES: usize = 400_000;

/// What one read and one write of a batch take.
const MAX_BATCH_READS: usize = 100;
const MAX_BATCH_WRITES: usize = 25;

/// How often what a batch left over is sent again, and how long after the first time; each time twice as long.
const MAX_ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

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

/// A DynamoDB table for LaunchDarkly's SDK.
///
/// ```ignore
/// let table = DynamoDbDataStore::builder("flags").prefix("production");
/// let store = PersistentDataStoreBuilder::new(Arc::new(table));
/// let config = ConfigBuilder::new(&sdk_key).daemon_mode(true).data_store(&store).build()?;
/// ```
pub type DynamoDbDataStore = DataStore<DynamoDb>;

impl DynamoDb {
    fn new(config: Config, table: &str, prefix: &str) -> Self {
        let region = config.region().map(|region| format!(" in {region}")).unwrap_or_default();
        Self {
            client: Client::from_conf(config),
            table: table.to_owned(),
            prefix: prefix.to_owned(),
            place: format!("the DynamoDB table {table:?}{region}"),
        }
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

    /// An item with its key, as DynamoDB takes it.
    fn row(&self, kind: ItemKind, key: &str, item: &Stored) -> Result<Row, StoreError> {
        let mut row = self.key_of(kind, key);
        row.insert("version".to_owned(), AttributeValue::N(item.version.to_string()));
        row.insert("item".to_owned(), AttributeValue::S(item.json.clone()));
        let length = |value: &AttributeValue| value.as_s().or(value.as_n()).map_or(0, String::len);
        let size = 100 + row.iter().map(|(name, value)| name.len() + length(value)).sum::<usize>();
        if size > MAX_ITEM_BYTES {
            return Err(StoreError::TooLarge {
                store: self.place.clone(),
                kind: kind.singular(),
                key: key.to_owned(),
                size,
                most: MAX_ITEM_BYTES,
            });
        }
        Ok(row)
    }

    /// Reads rows by their keys, as many times as it takes.
    async fn get(&self, keys: Vec<Row>) -> Result<Vec<Row>, StoreError> {
        let mut found = Vec::new();
        for keys in keys.chunks(MAX_BATCH_READS) {
            let mut keys = keys.to_vec();
            for pause in pauses() {
                let wanted = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build();
                let wanted = wanted.map_err(|error| self.failed(&error))?;
                let answer = self.client.batch_get_item().request_items(&self.table, wanted).send().await;
                let answer = answer.map_err(|error| self.aws_error(&error))?;
                found.extend(answer.responses.unwrap_or_default().remove(&self.table).unwrap_or_default());
                let left = answer.unprocessed_keys.unwrap_or_default().remove(&self.table);
                keys = left.map(|left| left.keys).unwrap_or_default();
                if keys.is_empty() {
                    break;
                }
                self.wait(pause, keys.len()).await?;
            }
        }
        Ok(found)
    }

    /// Writes a batch, as many times as it takes.
    async fn write(&self, mut batch: Vec<WriteRequest>) -> Result<(), StoreError> {
        for pause in pauses() {
            let answer = self.client.batch_write_item().request_items(&self.table, batch).send().await;
            let left = answer.map_err(|error| self.aws_error(&error))?.unprocessed_items;
            batch = left.unwrap_or_default().remove(&self.table).unwrap_or_default();
            if batch.is_empty() {
                break;
            }
            self.wait(pause, batch.len()).await?;
        }
        Ok(())
    }

    /// Waits before what was left over is sent again; fails when that was tried often enough.
    async fn wait(&self, pause: Option<Duration>, left: usize) -> Result<(), StoreError> {
        let Some(pause) = pause else {
            return Err(StoreError::Throttled {
                store: self.place.clone(),
                why: format!("{left} items of a batch were left over {MAX_ATTEMPTS} times"),
            });
        };
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// All rows of a kind.
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
        rows.collect::<Result<Vec<_>, _>>().await.map_err(|error| self.aws_error(&error))
    }

    fn failed(&self, error: &(impl std::error::Error + ?Sized)) -> StoreError {
        StoreError::Failed { store: self.place.clone(), why: error.to_string() }
    }

    fn aws_error<E, R>(&self, error: &SdkError<E, R>) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: std::fmt::Debug,
    {
        let store = self.place.clone();
        let why = match (error.code(), error.message()) {
            (Some(code), message) => format!("{code}: {}", message.unwrap_or("no message")),
            (None, _) => DisplayErrorContext(error).to_string(),
        };
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
    async fn read(&self, wanted: &[ItemKey]) -> Result<Contents, StoreError> {
        let (inited, synced) = (self.mark(INITED), self.mark(SYNCED));
        // DynamoDB refuses a batch that asks for one key twice.
        let items: HashSet<&ItemKey> = wanted.iter().collect();
        let keys = items.into_iter().map(|(kind, key)| self.key_of(*kind, key));
        let rows = self.get([inited.clone(), synced.clone()].into_iter().chain(keys).collect()).await?;
        let mut found: HashMap<(&str, &str), &Row> = HashMap::new();
        for row in &rows {
            found.insert((text(row, "namespace"), text(row, "key")), row);
        }
        let row_of = |key: &Row| found.get(&(text(key, "namespace"), text(key, "key"))).copied();
        let items = wanted.iter().map(|(kind, key)| row_of(&self.key_of(*kind, key)).map(stored)).collect();
        let synced = row_of(&synced).and_then(|row| from_millis(number(row, "at")?));
        Ok(Contents { items, marks: Marks { initialized: row_of(&inited).is_some(), synced } })
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
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(self.row(kind, key, item)?))
            .expression_attribute_names("#namespace", "namespace");
        let put = match condition {
            Condition::Newer => put
                .condition_expression("attribute_not_exists(#namespace) OR #version < :version")
                .expression_attribute_names("#version", "version")
                .expression_attribute_values(":version", AttributeValue::N(item.version.to_string())),
            Condition::Unchanged(None) => put.condition_expression("attribute_not_exists(#namespace)"),
            // A row without a text can only be recognized by that.
            Condition::Unchanged(Some(seen)) if seen.json.is_empty() => put
                .condition_expression(
                    "attribute_exists(#namespace) AND (NOT attribute_type(#item, :text) OR #item = :item)",
                )
                .expression_attribute_names("#item", "item")
                .expression_attribute_values(":text", AttributeValue::S("S".to_owned()))
                .expression_attribute_values(":item", AttributeValue::S(String::new())),
            // DynamoDB compares the text itself, as no other SDK writes a hash beside it. At most 400 KB of the 2 MB that
            // the values of an expression may have.
            // https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html#limits-expression-parameters
            Condition::Unchanged(Some(seen)) => put
                .condition_expression("attribute_exists(#namespace) AND #item = :item")
                .expression_attribute_names("#item", "item")
                .expression_attribute_values(":item", AttributeValue::S(seen.json.clone())),
        };
        was_done(put.send().await).map_err(|error| self.aws_error(&error))
    }

    async fn replace(&self, everything: &Everything) -> Result<(), StoreError> {
        let mut left_over: Vec<WriteRequest> = Vec::new();
        for (kind, items) in everything.kinds() {
            let before = self.query(kind).await?;
            let gone = before.iter().filter(|row| !items.contains_key(text(row, "key")));
            for row in gone {
                let key = self.key_of(kind, text(row, "key"));
                let delete = DeleteRequest::builder().set_key(Some(key)).build();
                let delete = delete.map_err(|error| self.failed(&error))?;
                left_over.push(WriteRequest::builder().delete_request(delete).build());
            }
            let mut puts = Vec::with_capacity(items.len());
            for (key, item) in items {
                match self.row(kind, key, item) {
                    Ok(row) => {
                        let put = PutRequest::builder().set_item(Some(row)).build();
                        let put = put.map_err(|error| self.failed(&error))?;
                        puts.push(WriteRequest::builder().put_request(put).build());
                    }
                    Err(error) => log::error!("{error}"),
                }
            }
            for batch in puts.chunks(MAX_BATCH_WRITES) {
                self.write(batch.to_vec()).await?;
            }
        }
        for batch in left_over.chunks(MAX_BATCH_WRITES) {
            self.write(batch.to_vec()).await?;
        }
        self.mark_initialized().await
    }

    async fn mark_initialized(&self) -> Result<(), StoreError> {
        let put = self.client.put_item().table_name(&self.table).set_item(Some(self.mark(INITED)));
        put.send().await.map(drop).map_err(|error| self.aws_error(&error))
    }

    async fn mark_synced(&self, at: SystemTime) -> Result<(), StoreError> {
        let at = AttributeValue::N(to_millis(at).to_string());
        let mut row = self.mark(SYNCED);
        row.insert("at".to_owned(), at.clone());
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(row))
            .condition_expression("attribute_not_exists(#at) OR #at < :at")
            .expression_attribute_names("#at", "at")
            .expression_attribute_values(":at", at);
        was_done(put.send().await).map(drop).map_err(|error| self.aws_error(&error))
    }
}

/// Whether a conditional write was done; that it was not is not an error.
fn was_done<T, E: ProvideErrorMetadata, R>(outcome: Result<T, SdkError<E, R>>) -> Result<bool, SdkError<E, R>> {
    match outcome {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(false),
        Err(error) => Err(error),
    }
}

/// After each try: how long to wait before the next, or `None` after the last. With jitter, so that writers that were
/// throttled together do not come back together.
fn pauses() -> impl Iterator<Item = Option<Duration>> {
    (1..=MAX_ATTEMPTS).map(|tried| {
        let longest = FIRST_PAUSE * 2_u32.pow(tried - 1);
        (tried < MAX_ATTEMPTS).then(|| longest.mul_f64(0.5 + jitter() / 2.0))
    })
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

/// The version is that of the attribute, which conditions go by.
fn stored(row: &Row) -> Stored {
    let version = number(row, "version").and_then(|version| version.parse().ok()).unwrap_or(0);
    Stored { version, ..Stored::parse(text(row, "item").to_owned()) }
}
