//! Flag data in a database, in the formats that LaunchDarkly's SDKs and the Relay Proxy share, byte for byte: each of
//! them reads what another wrote.
//! <https://launchdarkly.com/docs/sdk/concepts/data-stores>
//!
//! A database is a [`Store`]: [`DynamoDb`] or [`Redis`]. Two things work with either:
//! - [`DataStore`], for a Rust program that uses LaunchDarkly's SDK;
//! - [`StoreSource`](crate::sources::StoreSource), which reads a flag and its references.
//!
//! The crate `flag-sync` keeps a store up to date.

#[cfg(feature = "dynamodb")]
mod aws;
mod data_store;
#[cfg(feature = "dynamodb")]
mod dynamodb;
#[cfg(feature = "redis")]
mod redis;

#[cfg(feature = "dynamodb")]
pub use aws::describe_aws_error;
#[cfg(feature = "dynamodb")]
pub use aws_sdk_dynamodb;
pub use data_store::DataStore;
#[cfg(feature = "dynamodb")]
pub use dynamodb::DynamoDb;
#[cfg(feature = "redis")]
pub use redis::Redis;

use crate::items::{Everything, ItemKey, ItemKind, Stored};
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// The limit of a request, unless a program sets another.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a request to a store failed.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StoreError {
    #[error("{store} was not reached: {why}")]
    Unreachable { store: String, why: String },
    #[error("{store} does not exist. Check its name and Region, or deploy cloudformation/flag-store.yaml")]
    NoSuchTable { store: String },
    #[error("{store} denied access: {why}. Check the policy of the role, or the user and password")]
    Refused { store: String, why: String },
    #[error("{store} is throttling: {why}")]
    Throttled { store: String, why: String },
    #[error("{store} is not initialized: run flag-sync, or start the Relay Proxy that fills it")]
    NotInitialized { store: String },
    #[error(
        "the {} {key:?} was not written to {store}: it has {size} bytes, the limit is {limit}. Shorten its lists of \
         targets, or use a segment", .kind.singular()
    )]
    TooLarge { store: String, kind: ItemKind, key: String, size: usize, limit: usize },
    #[error("invalid settings for {store}: {why}")]
    Settings { store: String, why: String },
    #[error("a request to {store} failed: {why}")]
    Failed { store: String, why: String },
}

/// Some items, and what the store records about itself, read together.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// In the order of the requested keys.
    pub items: Vec<Option<Stored>>,
    /// Whether the store holds complete data (`$inited`).
    pub initialized: bool,
    /// When flag-sync last made it equal to LaunchDarkly (`$synced`). Unknown where another program fills it.
    pub synced: Option<SystemTime>,
}

/// The condition of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition<'a> {
    /// The item is missing, or has an older version.
    Newer,
    /// The item is as it was read: missing, or the same text. Its version is not enough, because another writer may
    /// have written other content of the same version.
    Unchanged(Option<&'a Stored>),
}

/// A database that holds flag data. Many tasks and processes may call every method at once.
pub trait Store: Send + Sync + 'static {
    /// Reads items, and with them what the store records about itself.
    fn read(&self, keys: &[ItemKey]) -> impl Future<Output = Result<Contents, StoreError>> + Send;

    /// Reads all items of a kind, with their tombstones.
    fn all(&self, kind: ItemKind) -> impl Future<Output = Result<HashMap<String, Stored>, StoreError>> + Send;

    /// Writes an item if the condition holds, and returns whether it did.
    fn put(
        &self,
        kind: ItemKind,
        key: &str,
        item: &Stored,
        condition: Condition<'_>,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Replaces everything, whatever the versions, then marks the store as initialized. An item that is too large is
    /// logged and stays as it was.
    fn replace(&self, everything: &Everything) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Marks the store as initialized.
    fn mark_initialized(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Records when the store was equal to LaunchDarkly. A later time stays.
    fn mark_synced(&self, at: SystemTime) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// The name of a kind in a store.
fn namespace(kind: ItemKind) -> &'static str {
    match kind {
        ItemKind::Flag => "features",
        ItemKind::Segment => "segments",
    }
}

/// The mark of complete data.
const INITED: &str = "$inited";

/// The mark of the last successful run of flag-sync, at a key that no LaunchDarkly SDK reads.
const SYNCED: &str = "$synced";

/// Milliseconds since 1970, the value of `$synced`.
fn to_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn from_millis(text: &str) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(text.parse().ok()?))
}

#[cfg(all(doctest, feature = "dynamodb"))]
#[doc = include_str!("../../README.md")]
struct Readme;
