//! The flag data in memory, as the SDK's persistent data store: what was fetched, when, and from where.

use flag_data::clock::{Clock, Moment};
use flag_data::items::{Item, ItemKey, ItemKind, Items};
use launchdarkly_server_sdk::{
    AllData, DataKind, PersistentDataStore, PersistentDataStoreFactory, PersistentStoreError, SerializedItem,
};
use parking_lot::RwLock;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The origin of the data in memory, and how old it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
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
    /// References that count as missing because they could not be fetched.
    pub(super) unknown: Arc<BTreeSet<ItemKey>>,
    /// A missing segment that a negated clause depends on, so that the SDK's result cannot be trusted.
    pub(super) negated: Option<ItemKey>,
}

/// The flag data in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot(Arc<RwLock<Data>>);

impl Snapshot {
    /// What is in it now.
    pub(super) fn data(&self) -> Data {
        self.0.read().clone()
    }

    /// Accepts the data if it has the same items; returns whether it has.
    pub(super) fn replace_if_equal(&self, data: &Data) -> bool {
        let held = self.data().items;
        if Arc::ptr_eq(&held, &data.items) {
            return true;
        }
        let is_equal = held == data.items;
        if is_equal {
            // The next comparison is one of addresses.
            self.set(data.clone());
        }
        is_equal
    }

    /// Replaces the data.
    pub(super) fn set(&self, data: Data) {
        *self.0.write() = data;
    }

    /// Forgets the data.
    pub(super) fn clear(&self) {
        self.set(Data::default());
    }

    /// The origin of the data; `None` if there is none.
    pub(super) fn origin(&self) -> Option<Origin> {
        self.0.read().origin
    }

    /// How old the data is; `None` when there is none.
    pub(super) fn age(&self, clock: &Clock) -> Option<Duration> {
        self.origin().map(|origin| match origin {
            Origin::Source(moment) => clock.since(moment),
            Origin::Package(made) => SystemTime::now().duration_since(made).unwrap_or_default(),
        })
    }

    /// Whether the SDK's result cannot be trusted, because a negated clause depends on a segment that is missing.
    pub(super) fn is_unsafe(&self) -> bool {
        self.0.read().negated.is_some()
    }

    /// When flag-sync last succeeded, if the data comes from a store that it fills.
    pub(super) fn synced(&self) -> Option<SystemTime> {
        self.0.read().synced
    }

    /// How many flags it holds.
    pub(super) fn flags(&self) -> usize {
        self.0.read().items.flags.len()
    }

    /// The version of a flag.
    pub(super) fn flag_version(&self, key: &str) -> Option<u64> {
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
