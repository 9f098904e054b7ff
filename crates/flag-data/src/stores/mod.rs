//! Flag data in a database of one's own, in the formats that LaunchDarkly's SDKs and the Relay Proxy share, byte for
//! byte: what any of them wrote is read here, and the other way round.
//! <https://launchdarkly.com/docs/sdk/concepts/data-stores>
//!
//! A database is a [`Store`]: [`DynamoDb`] or [`Redis`]. What works with any of them:
//! - [`DataStore`], by the names [`DynamoDbDataStore`] and [`RedisDataStore`], for every Rust program that uses
//!   LaunchDarkly's SDK;
//! - [`StoreSource`](crate::sources::StoreSource), for the function of this crate;
//! - the module `sync`, which keeps a store up to date.

#[cfg(feature = "dynamodb")]
mod aws;
mod data_store;
#[cfg(feature = "dynamodb")]
mod dynamodb;
#[cfg(feature = "redis")]
mod redis;

#[cfg(feature = "dynamodb")]
pub use aws::AwsTransport;
pub use data_store::DataStore;
#[cfg(feature = "dynamodb")]
pub use dynamodb::{DynamoDb, DynamoDbBuilder, DynamoDbDataStore};
#[cfg(feature = "redis")]
pub use redis::{Redis, RedisBuilder, RedisDataStore};

use crate::sources::{ItemKind, Wanted};
use serde::Deserialize;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// How long a request to a database may take, unless a builder says otherwise.
const USUAL_TIME_OUT: Duration = Duration::from_secs(5);

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

/// What a row of a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A flag or a segment.
    Live,
    /// A tombstone: the item was deleted, and older versions of it must not come back.
    Deleted,
    /// Something that is no JSON of an item.
    Malformed,
}

/// A flag or a segment, or its tombstone, as a store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its version in LaunchDarkly.
    pub version: u64,
    /// What it is.
    pub state: State,
    /// The JSON, verbatim.
    pub json: String,
}

impl Stored {
    /// Reads an item or a tombstone of any SDK: Rust's and Go's have the key `$deleted`, Node's has none in Redis and
    /// its own in DynamoDB; each has `deleted` and `version`.
    pub fn parse(json: String) -> Self {
        #[derive(Deserialize)]
        struct Model {
            version: u64,
            #[serde(default)]
            deleted: bool,
        }
        let (version, state) = match serde_json::from_str(&json) {
            Ok(Model { version, deleted: false }) => (version, State::Live),
            Ok(Model { version, deleted: true }) => (version, State::Deleted),
            Err(_) => (0, State::Malformed),
        };
        Self { version, state, json }
    }

    /// A tombstone, as the Rust SDK writes it.
    pub fn tombstone(version: u64) -> Self {
        let json = format!(r#"{{"version":{version},"key":"$deleted","deleted":true}}"#);
        Self { version, state: State::Deleted, json }
    }
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

/// Everything that a store is to hold.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Everything {
    pub flags: HashMap<String, Stored>,
    pub segments: HashMap<String, Stored>,
}

impl Everything {
    /// The items of a kind.
    #[cfg(feature = "sync")]
    pub(crate) fn of(&self, kind: ItemKind) -> &HashMap<String, Stored> {
        match kind {
            ItemKind::Flag => &self.flags,
            ItemKind::Segment => &self.segments,
        }
    }

    /// The kinds in the order in which they are written: a flag comes after the segments that it names.
    pub fn kinds(&self) -> [(ItemKind, &HashMap<String, Stored>); 2] {
        [(ItemKind::Segment, &self.segments), (ItemKind::Flag, &self.flags)]
    }
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
    fn read(&self, wanted: &[Wanted]) -> impl Future<Output = Result<Contents, StoreError>> + Send;

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

    /// Replaces all there is, whatever its versions, and marks the store as initialised when that is done. An item
    /// that is too large is told in the log and keeps what it was.
    fn replace(&self, everything: &Everything) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Marks the store as initialised.
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

/// The mark of the last successful synchronisation. In a place of its own, which no LaunchDarkly SDK looks at.
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

    #[track_caller]
    fn check(json: &str, version: u64, state: State) {
        let stored = Stored::parse(json.to_owned());
        assert_eq!((stored.version, stored.state), (version, state), "{json}");
        assert_eq!(stored.json, json);
    }

    #[test]
    fn items_and_every_dialect_of_tombstones_are_read() {
        check(r#"{"key":"a","version":3,"on":true}"#, 3, State::Live);
        check(r#"{"key":"a","version":3,"deleted":false}"#, 3, State::Live);
        check(r#"{"version":4,"key":"$deleted","deleted":true}"#, 4, State::Deleted);
        check(r#"{"key":"$deleted","on":false,"variations":[],"version":4,"deleted":true}"#, 4, State::Deleted);
        check(r#"{"key":"a","version":4,"deleted":true}"#, 4, State::Deleted);
        check(r#"{"version":4,"deleted":true}"#, 4, State::Deleted);
        check("", 0, State::Malformed);
        check(r#"{"key":"a"}"#, 0, State::Malformed);
        check("[", 0, State::Malformed);
        assert_eq!(Stored::parse(Stored::tombstone(7).json), Stored::tombstone(7));
    }

    #[test]
    fn times_are_kept_to_the_millisecond() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        assert_eq!(from_millis(&to_millis(time).to_string()), Some(time));
        assert_eq!(from_millis("soon"), None);
    }
}
