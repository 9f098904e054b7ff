//! The flag data in memory, as the SDK's persistent data store: what was fetched, when, and from where.

use super::freshness::{Clock, Moment};
use crate::sources::{ItemKind, check};
use launchdarkly_server_sdk::{
    AllData, DataKind, PersistentDataStore, PersistentDataStoreFactory, PersistentStoreError, SerializedItem,
};
use parking_lot::RwLock;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A flag or a segment, as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    json: String,
    version: u64,
    deleted: bool,
    etag: Option<String>,
}

impl Item {
    /// Takes an item's JSON as it came.
    ///
    /// # Errors
    /// Why the SDK could not read it.
    pub fn new(kind: ItemKind, json: String, etag: Option<String>) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Model {
            #[serde(default)]
            version: u64,
            #[serde(default)]
            deleted: bool,
        }
        let Model { version, deleted } = serde_json::from_str(&json).map_err(|error| error.to_string())?;
        if !deleted {
            check(kind, &json).map_err(|error| error.to_string())?;
        }
        Ok(Self { json, version, deleted, etag })
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
        Self { json, ..self.clone() }
    }

    fn serialized(&self) -> SerializedItem {
        SerializedItem { version: self.version, deleted: self.deleted, serialized_item: self.json.clone() }
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
    items: Arc<Items>,
    origin: Option<Origin>,
    synced: Option<SystemTime>,
}

/// The flag data in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Snapshot(Arc<RwLock<Data>>);

impl Snapshot {
    /// Replaces the data. `synced` is when flag-sync last made the store that it comes from equal to LaunchDarkly.
    pub fn replace(&self, items: Arc<Items>, origin: Origin, synced: Option<SystemTime>) {
        self.set(Data { items, origin: Some(origin), synced });
    }

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

    /// Puts back what was in it, or in another one.
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
