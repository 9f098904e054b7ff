//! The flag data in memory, with its age and origin. The SDK reads it as a persistent data store.

use flag_data::clock::{Clock, Moment};
use flag_data::items::{Item, ItemKey, ItemKind, Items};
use flag_data::sources::Resolved;
use launchdarkly_server_sdk::{
    AllData, DataKind, PersistentDataStore, PersistentDataStoreFactory, PersistentStoreError, SerializedItem,
};
use parking_lot::RwLock;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Where data comes from, and its time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    /// The source, requested at that moment.
    Source(Moment),
    /// The package, made at that time.
    Package(SystemTime),
}

/// The data that the SDK evaluates the flag from.
#[derive(Clone, Debug, Default)]
pub(super) struct Data {
    pub(super) items: Arc<Items>,
    pub(super) origin: Option<Origin>,
    /// When flag-sync last made the store equal to LaunchDarkly, if the data comes from a store.
    pub(super) synced: Option<SystemTime>,
    /// References that count as missing because they could not be fetched.
    pub(super) unknown: Arc<BTreeSet<ItemKey>>,
    /// A missing segment that a negated clause depends on, so that the SDK's result cannot be trusted.
    pub(super) missing_under_negation: Option<ItemKey>,
}

impl Data {
    /// Fetched items, as the SDK evaluates them.
    pub(super) fn new(resolved: Resolved, origin: Origin) -> Self {
        let Resolved { items, synced, unknown, missing_under_negation, .. } = resolved;
        let (items, unknown) = (Arc::new(items), Arc::new(unknown));
        Self { items, origin: Some(origin), synced, unknown, missing_under_negation }
    }

    /// How old the data is; `None` when there is none.
    pub(super) fn age(&self, clock: &Clock) -> Option<Duration> {
        self.origin.map(|origin| match origin {
            Origin::Source(moment) => clock.since(moment),
            Origin::Package(made) => SystemTime::now().duration_since(made).unwrap_or_default(),
        })
    }

    fn item(&self, kind: ItemKind, key: &str) -> Option<SerializedItem> {
        self.items.get(kind, key).map(Item::serialized)
    }
}

/// The flag data in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot(Arc<RwLock<Data>>);

impl Snapshot {
    /// The current data.
    pub(super) fn data(&self) -> Data {
        self.0.read().clone()
    }

    /// Replaces the data. Equal items keep their allocation, so that a comparison of addresses shows a change.
    pub(super) fn set(&self, mut data: Data) {
        let mut held = self.0.write();
        if held.items == data.items {
            data.items = held.items.clone();
        }
        *held = data;
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
        Ok(self.0.read().item(ItemKind::Flag, key))
    }

    fn segment(&self, key: &str) -> Result<Option<SerializedItem>, PersistentStoreError> {
        Ok(self.0.read().item(ItemKind::Segment, key))
    }

    fn all_flags(&self) -> Result<HashMap<String, SerializedItem>, PersistentStoreError> {
        Ok(self.0.read().items.flags.iter().map(|(key, item)| (key.clone(), item.serialized())).collect())
    }

    fn upsert(&mut self, _: DataKind, _: &str, _: SerializedItem) -> Result<bool, PersistentStoreError> {
        Err(PersistentStoreError::new("the snapshot is filled by its source alone"))
    }

    fn is_initialized(&self) -> bool {
        self.0.read().origin.is_some()
    }
}
