//! The flag data in memory, as the SDK's persistent data store: what was fetched, when, and from where.

use super::freshness::{Clock, Moment};
use crate::sources::{ItemKind, Wanted, check};
use launchdarkly_server_sdk::{
    AllData, DataKind, PersistentDataStore, PersistentDataStoreFactory, PersistentStoreError, SerializedItem,
};
use parking_lot::RwLock;
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A flag or a segment, as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    json: Arc<str>,
    version: u64,
    deleted: bool,
    etag: Option<String>,
    references: Arc<[Reference]>,
}

/// What an item refers to: a flag to its prerequisites, and both flags and segments to the segments of their rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// The flag or segment.
    pub wanted: Wanted,
    /// Whether a negated clause names it.
    pub negated: bool,
}

/// The parts of LaunchDarkly's model that matter for what an item refers to; anything else is left to the SDK. Any of
/// them may be absent or null: Go's tombstones have null lists.
#[derive(Deserialize)]
struct Model {
    version: Option<u64>,
    deleted: Option<bool>,
    on: Option<bool>,
    prerequisites: Option<Vec<Prerequisite>>,
    rules: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
struct Prerequisite {
    key: String,
}

#[derive(Deserialize)]
struct Rule {
    clauses: Option<Vec<Clause>>,
}

#[derive(Deserialize)]
struct Clause {
    op: Option<String>,
    values: Option<Vec<serde_json::Value>>,
    negate: Option<bool>,
}

impl Model {
    /// A flag that is off refers to nothing: its off variation is served whatever its rules say.
    fn references(self) -> BTreeSet<Reference> {
        if self.deleted == Some(true) || self.on == Some(false) {
            return BTreeSet::new();
        }
        let prerequisites = self.prerequisites.into_iter().flatten();
        let prerequisites = prerequisites.map(|flag| Reference { wanted: (ItemKind::Flag, flag.key), negated: false });
        let clauses = self.rules.into_iter().flatten().filter_map(|rule| rule.clauses).flatten();
        let segments = clauses.filter(|clause| clause.op.as_deref() == Some("segmentMatch")).flat_map(|clause| {
            let negated = clause.negate == Some(true);
            let keys = clause.values.into_iter().flatten().filter_map(|value| value.as_str().map(str::to_owned));
            keys.map(move |key| Reference { wanted: (ItemKind::Segment, key), negated })
        });
        prerequisites.chain(segments).collect()
    }
}

impl Item {
    /// Accepts an item's JSON as it was served.
    ///
    /// # Errors
    /// Why the SDK could not read it.
    pub fn new(kind: ItemKind, json: String, etag: Option<String>) -> Result<Self, String> {
        let model: Model = serde_json::from_str(&json).map_err(|error| error.to_string())?;
        let (version, deleted) = (model.version.unwrap_or_default(), model.deleted == Some(true));
        if !deleted {
            check(kind, &json).map_err(|error| error.to_string())?;
        }
        Ok(Self { json: json.into(), version, deleted, etag, references: model.references().into_iter().collect() })
    }

    /// What it refers to, as far as an evaluation can depend on it.
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// The item's JSON.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Its version in LaunchDarkly.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The entity tag it was served with.
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// The same item with other JSON.
    pub(super) fn with_json(&self, json: String) -> Self {
        Self { json: json.into(), ..self.clone() }
    }

    fn serialized(&self) -> SerializedItem {
        SerializedItem { version: self.version, deleted: self.deleted, serialized_item: self.json.to_string() }
    }
}

/// A flag and what it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Items {
    flags: HashMap<String, Item>,
    segments: HashMap<String, Item>,
}

impl Items {
    /// The item of a key.
    pub fn get(&self, kind: ItemKind, key: &str) -> Option<&Item> {
        match kind {
            ItemKind::Flag => self.flags.get(key),
            ItemKind::Segment => self.segments.get(key),
        }
    }

    /// Adds an item.
    pub fn insert(&mut self, kind: ItemKind, key: String, item: Item) {
        match kind {
            ItemKind::Flag => self.flags.insert(key, item),
            ItemKind::Segment => self.segments.insert(key, item),
        };
    }

    /// Adds the items of `other` whose keys are not here.
    pub(super) fn add_missing_from(&mut self, other: &Self) {
        for (mine, others) in [(&mut self.flags, &other.flags), (&mut self.segments, &other.segments)] {
            for (key, item) in others {
                mine.entry(key.clone()).or_insert_with(|| item.clone());
            }
        }
    }

    /// The same items with each flag changed by `change`.
    pub(super) fn map_flags(&self, change: impl Fn(&Item) -> Item) -> Self {
        let flags = self.flags.iter().map(|(key, flag)| (key.clone(), change(flag))).collect();
        Self { flags, segments: self.segments.clone() }
    }
}

/// Where the data in memory came from, and how old it is.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// The source, at that moment.
    Source(Moment),
    /// The package, which was made at that time.
    Package(SystemTime),
}

/// What the SDK evaluates from.
#[derive(Clone, Debug, Default)]
pub(super) struct Data {
    pub(super) items: Arc<Items>,
    pub(super) origin: Option<Origin>,
    /// When flag-sync last made the store that the data comes from equal to LaunchDarkly.
    pub(super) synced: Option<SystemTime>,
    /// References that count as missing because they could not be had.
    pub(super) unknown: Arc<BTreeSet<Wanted>>,
    /// A missing segment that a negated clause depends on, so that the SDK's result is not to be trusted.
    pub(super) negated: Option<Wanted>,
}

/// The flag data in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Snapshot(Arc<RwLock<Data>>);

impl Snapshot {
    /// What is in it now.
    pub(super) fn data(&self) -> Data {
        self.0.read().clone()
    }

    /// Takes the data if it would evaluate as what is in it does, and says whether it would.
    pub(super) fn take_if_same(&self, data: &Data) -> bool {
        let held = self.data().items;
        if Arc::ptr_eq(&held, &data.items) {
            return true;
        }
        let is_same = held == data.items;
        if is_same {
            // The next comparison is one of addresses.
            self.set(data.clone());
        }
        is_same
    }

    /// Replaces the data.
    pub(super) fn set(&self, data: Data) {
        *self.0.write() = data;
    }

    /// Forgets the data.
    pub fn clear(&self) {
        self.set(Data::default());
    }

    /// Where the data came from; `None` when there is none.
    pub fn origin(&self) -> Option<Origin> {
        self.0.read().origin
    }

    /// How old the data is; `None` when there is none.
    pub fn age(&self, clock: &Clock) -> Option<Duration> {
        self.origin().map(|origin| match origin {
            Origin::Source(moment) => clock.since(moment),
            Origin::Package(made) => SystemTime::now().duration_since(made).unwrap_or_default(),
        })
    }

    /// Whether the SDK's result is not to be trusted, because a negated clause depends on a segment that is missing.
    pub(super) fn is_unsafe(&self) -> bool {
        self.0.read().negated.is_some()
    }

    /// When flag-sync last succeeded, if the data comes from a store that it fills.
    pub fn synced(&self) -> Option<SystemTime> {
        self.0.read().synced
    }

    /// How many flags it holds.
    pub fn flags(&self) -> usize {
        self.0.read().items.flags.len()
    }

    /// The version of a flag.
    pub fn flag_version(&self, key: &str) -> Option<u64> {
        self.0.read().items.get(ItemKind::Flag, key).map(Item::version)
    }
}

impl PersistentDataStoreFactory for Snapshot {
    fn create_persistent_data_store(&self) -> Result<Box<dyn PersistentDataStore>, std::io::Error> {
        Ok(Box::new(self.clone()))
    }
}

/// Read by the SDK in daemon mode, in which it never writes: only a source fills the snapshot.
impl PersistentDataStore for Snapshot {
    fn init(&mut self, _: AllData<SerializedItem, SerializedItem>) -> Result<(), PersistentStoreError> {
        Err(PersistentStoreError::new("the snapshot is filled by its source alone"))
    }

    fn flag(&self, key: &str) -> Result<Option<SerializedItem>, PersistentStoreError> {
        Ok(self.0.read().items.get(ItemKind::Flag, key).map(Item::serialized))
    }

    fn segment(&self, key: &str) -> Result<Option<SerializedItem>, PersistentStoreError> {
        Ok(self.0.read().items.get(ItemKind::Segment, key).map(Item::serialized))
    }

    fn all_flags(&self) -> Result<HashMap<String, SerializedItem>, PersistentStoreError> {
        Ok(self.0.read().items.flags.iter().map(|(key, item)| (key.clone(), item.serialized())).collect())
    }

    fn upsert(&mut self, _: DataKind, _: &str, _: SerializedItem) -> Result<bool, PersistentStoreError> {
        Err(PersistentStoreError::new("the snapshot is filled by its source alone"))
    }

    fn is_initialized(&self) -> bool {
        self.origin().is_some()
    }
}
