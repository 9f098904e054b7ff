//! A store in memory, the model of the contract.

use flag_data::items::{Everything, Stored};
use flag_data::items::{ItemKey, ItemKind};
use flag_data::stores::{Condition, Contents, Store, StoreError};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::SystemTime;

#[derive(Default)]
pub(crate) struct Memory(Mutex<(HashMap<ItemKey, Stored>, Contents)>);

impl Store for Memory {
    async fn read(&self, wanted: &[ItemKey]) -> Result<Contents, StoreError> {
        let (items, marks) = &*self.0.lock();
        Ok(Contents { items: wanted.iter().map(|wanted| items.get(wanted).cloned()).collect(), ..marks.clone() })
    }

    async fn all(&self, kind: ItemKind) -> Result<HashMap<String, Stored>, StoreError> {
        let (items, _) = &*self.0.lock();
        let of_kind = items.iter().filter(|((found, _), _)| *found == kind);
        Ok(of_kind.map(|((_, key), item)| (key.clone(), item.clone())).collect())
    }

    async fn put(
        &self,
        kind: ItemKind,
        key: &str,
        item: &Stored,
        condition: Condition<'_>,
    ) -> Result<bool, StoreError> {
        let (items, _) = &mut *self.0.lock();
        let wanted = (kind, key.to_owned());
        let seen = items.get(&wanted);
        let holds = match condition {
            Condition::Newer => seen.is_none_or(|seen| seen.version < item.version),
            Condition::Unchanged(expected) => seen.map(|seen| &seen.json) == expected.map(|expected| &expected.json),
        };
        if holds {
            items.insert(wanted, item.clone());
        }
        Ok(holds)
    }

    async fn replace(&self, everything: &Everything) -> Result<(), StoreError> {
        let (items, marks) = &mut *self.0.lock();
        items.clear();
        for (kind, of_kind) in everything.kinds() {
            items.extend(of_kind.iter().map(|(key, item)| ((kind, key.clone()), item.clone())));
        }
        marks.initialized = true;
        Ok(())
    }

    async fn mark_initialized(&self) -> Result<(), StoreError> {
        self.0.lock().1.initialized = true;
        Ok(())
    }

    async fn mark_synced(&self, at: SystemTime) -> Result<(), StoreError> {
        let synced = &mut self.0.lock().1.synced;
        *synced = (*synced).max(Some(at));
        Ok(())
    }
}
