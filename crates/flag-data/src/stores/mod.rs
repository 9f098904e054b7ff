//! Flag data in a database of one's own, in the formats that LaunchDarkly's SDKs and the Relay Proxy share, byte for
//! byte: what any of them wrote is read here, and the other way round.
//! <https://launchdarkly.com/docs/sdk/concepts/data-stores>
//!
//! A database is a [`Store`]: [`DynamoDb`] or [`Redis`]. What works with any of them:
//! - [`DataStore`], by the names [`DynamoDbDataStore`] and [`RedisDataStore`], for every Rust program that uses
//!   LaunchDarkly's SDK;
//! - [`StoreSource`](crate::sources::StoreSource), which reads a flag and its references from it.
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
pub use aws::AwsTransport;
#[cfg(feature = "dynamodb")]
pub use aws_sdk_dynamodb;
pub use data_store::DataStore;
#[cfg(feature = "dynamodb")]
pub use dynamodb::{DynamoDb, DynamoDbBuilder, DynamoDbDataStore};
#[cfg(feature = "redis")]
pub use redis::{Redis, RedisBuilder, RedisDataStore};

use crate::items::{Everything, ItemKey, ItemKind, Stored};
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// How long a request to a database may take, unless a builder says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a store did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StoreError {
    #[error("{store} was not reached: {why}")]
    Unreachable { store: String, why: String },
    #[error("{store} does not exist: check its name and Region, or deploy cloudformation/flag-store.yaml")]
    NoSuchTable { store: String },
    #[error("{store} may not be used: {why}; check the policy of the role, or the user and password")]
    Refused { store: String, why: String },
    #[error("{store} is asked too much: {why}")]
    Throttled { store: String, why: String },
    #[error("{store} holds no complete data yet: run flag-sync, or start the Relay Proxy that fills it")]
    NotInitialized { store: String },
    #[error(
        "the {kind} {key:?} has {size} bytes; {store} takes at most {most} for one: shorten its lists of targets, or \
         use a segment"
    )]
    TooLarge { store: String, kind: &'static str, key: String, size: usize, most: usize },
    #[error("{store} cannot be used: {why}")]
    Settings { store: String, why: String },
    #[error("{store} did not do it: {why}")]
    Failed { store: String, why: String },
}

/// What a store says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Whether it holds complete data (`$inited`).
    pub initialized: bool,
    /// When flag-sync last made it equal to LaunchDarkly (`$synced`). Unknown where another program fills it.
    pub synced: Option<SystemTime>,
}

/// Some items and the store's marks, read together.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// In the order in which they were asked for.
    pub items: Vec<Option<Stored>>,
    /// The marks.
    pub marks: Marks,
}

/// On what a write depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition<'a> {
    /// There is no such item yet, or an older version.
    Newer,
    /// The item is as it was seen: not there, or the same text. The version alone would not do: a writer that came
    /// between may have written other content of the same version.
    Unchanged(Option<&'a Stored>),
}

/// A database that holds flag data. Every method may be called from many tasks and processes at once.
pub trait Store: Send + Sync + 'static {
    /// Reads items, and the marks with them.
    fn read(&self, wanted: &[ItemKey]) -> impl Future<Output = Result<Contents, StoreError>> + Send;

    /// Reads all items of a kind, tombstones too.
    fn all(&self, kind: ItemKind) -> impl Future<Output = Result<HashMap<String, Stored>, StoreError>> + Send;

    /// Writes an item if the condition holds; says whether it did.
    fn put(
        &self,
        kind: ItemKind,
        key: &str,
        item: &Stored,
        condition: Condition<'_>,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Replaces all there is, whatever its versions, and marks the store as initialized when that is done. An item
    /// that is too large is logged and keeps its previous state.
    fn replace(&self, everything: &Everything) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Marks the store as initialized.
    fn mark_initialized(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Tells that the store was equal to LaunchDarkly at that time. A later time that is there already stays.
    fn mark_synced(&self, at: SystemTime) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// As the stores name a kind of item.
fn namespace(kind: ItemKind) -> &'static str {
    match kind {
        ItemKind::Flag => "features",
        ItemKind::Segment => "segments",
    }
}

/// The mark that the data is complete.
const INITED: &str = "$inited";

/// The mark of the last successful synchronization. In a place of its own, which no LaunchDarkly SDK looks at.
const SYNCED: &str = "$synced";

/// Milliseconds since 1970, as `$synced` holds them.
fn to_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn from_millis(text: &str) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(text.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_to_the_millisecond() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        assert_eq!(from_millis(&to_millis(time).to_string()), Some(time));
        assert_eq!(from_millis("soon"), None);
    }
}
