//! A store as LaunchDarkly's SDK requires it: with synchronous calls, from any thread.

use super::{Condition, Store, StoreError};
use crate::items::{Everything, ItemKind, State, Stored};
use launchdarkly_server_sdk::{
    AllData, DataKind, PersistentDataStore, PersistentDataStoreFactory, PersistentStoreError, SerializedItem,
};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, mpsc};
use std::{io, thread};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A [`Store`] as a persistent data store of LaunchDarkly's SDK, for its `PersistentDataStoreBuilder`.
///
/// Its calls run on a thread with its own tokio runtime. The SDK may call inside a runtime, where `block_on` panics and
/// waiting for a task of the same runtime could last forever. The thread ends with the last store that uses it.
pub struct DataStore<S> {
    store: Arc<S>,
    runtime: Handle,
    running: Arc<oneshot::Sender<()>>,
}

impl<S: Send + Sync + 'static> DataStore<S> {
    /// Starts the thread. The store's HTTP client must belong to it alone: a connection that another runtime made could
    /// wait forever.
    ///
    /// # Errors
    /// The thread did not start.
    pub fn new(store: S) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (running, stopped) = oneshot::channel();
        thread::Builder::new().name("flag store".to_owned()).spawn(move || runtime.block_on(stopped))?;
        Ok(Self { store: Arc::new(store), runtime: handle, running: Arc::new(running) })
    }

    fn wait<T, F>(&self, call: impl FnOnce(Arc<S>) -> F) -> Result<T, PersistentStoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let (done, result) = mpsc::sync_channel(1);
        let call = call(self.store.clone());
        // The receiver waits until this returns.
        self.runtime.spawn(async move { done.send(call.await) });
        let result = result.recv().map_err(|_| PersistentStoreError::new("the call of the store panicked"))?;
        result.map_err(|error| PersistentStoreError::new(error.to_string()))
    }
}

impl<S: Store> DataStore<S> {
    fn item(&self, kind: ItemKind, key: &str) -> Result<Option<SerializedItem>, PersistentStoreError> {
        let keys = [(kind, key.to_owned())];
        let contents = self.wait(|store| async move { store.read(&keys).await })?;
        Ok(contents.items.into_iter().next().flatten().map(serialized))
    }
}

impl<S: Store> PersistentDataStoreFactory for DataStore<S> {
    fn create_persistent_data_store(&self) -> io::Result<Box<dyn PersistentDataStore>> {
        let Self { store, runtime, running } = self;
        Ok(Box::new(Self { store: store.clone(), runtime: runtime.clone(), running: running.clone() }))
    }
}

impl<S: Store> PersistentDataStore for DataStore<S> {
    fn init(&mut self, data: AllData<SerializedItem, SerializedItem>) -> Result<(), PersistentStoreError> {
        let stored = |items: HashMap<String, SerializedItem>| {
            items.into_iter().map(|(key, item)| (key, to_store(item))).collect()
        };
        let everything = Everything { flags: stored(data.flags), segments: stored(data.segments) };
        self.wait(|store| async move { store.replace(&everything).await })
    }

    fn flag(&self, key: &str) -> Result<Option<SerializedItem>, PersistentStoreError> {
        self.item(ItemKind::Flag, key)
    }

    fn segment(&self, key: &str) -> Result<Option<SerializedItem>, PersistentStoreError> {
        self.item(ItemKind::Segment, key)
    }

    fn all_flags(&self) -> Result<HashMap<String, SerializedItem>, PersistentStoreError> {
        let flags = self.wait(|store| async move { store.all(ItemKind::Flag).await })?;
        Ok(flags.into_iter().map(|(key, item)| (key, serialized(item))).collect())
    }

    fn upsert(&mut self, kind: DataKind, key: &str, item: SerializedItem) -> Result<bool, PersistentStoreError> {
        let kind = match kind {
            DataKind::Flag => ItemKind::Flag,
            DataKind::Segment => ItemKind::Segment,
        };
        let key = key.to_owned();
        let item = to_store(item);
        self.wait(|store| async move { store.put(kind, &key, &item, Condition::Newer).await })
    }

    fn is_initialized(&self) -> bool {
        let contents = self.wait(|store| async move { store.read(&[]).await });
        contents.is_ok_and(|contents| contents.initialized)
    }
}

fn serialized(item: Stored) -> SerializedItem {
    SerializedItem { version: item.version, deleted: item.state == State::Deleted, serialized_item: item.json }
}

fn to_store(item: SerializedItem) -> Stored {
    let state = if item.deleted { State::Deleted } else { State::Live };
    Stored { version: item.version, state, json: with_whole_numbers(item.serialized_item) }
}

/// The Rust SDK writes the weights of a rollout as `50000.0`. LaunchDarkly sends `50000`, and SDKs of other languages
/// read nothing else.
fn with_whole_numbers(json: String) -> String {
    fn whole(value: &mut Value) {
        match value {
            Value::Array(values) => values.iter_mut().for_each(whole),
            Value::Object(fields) => fields.values_mut().for_each(whole),
            Value::Number(number) => {
                let text = number.to_string();
                if let Some(Ok(integer)) = text.strip_suffix(".0").map(str::parse::<i64>) {
                    *value = integer.into();
                }
            }
            Value::Null | Value::Bool(_) | Value::String(_) => {}
        }
    }
    let Ok(mut value) = serde_json::from_str(&json) else { return json };
    whole(&mut value);
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_call_is_awaited_inside_and_outside_a_runtime() {
        let data_store = DataStore::new(()).unwrap();
        let check = || {
            let answer = data_store.wait(|_| async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok(42)
            });
            assert_eq!(answer.unwrap(), 42);
        };
        Builder::new_current_thread().build().unwrap().block_on(async { check() });
        Builder::new_multi_thread().build().unwrap().block_on(async { check() });
        thread::scope(|scope| (0..16).for_each(|_| drop(scope.spawn(check))));
        assert!(data_store.wait::<(), _>(|_| async { panic!("on purpose") }).is_err());
        check();
    }

    #[test]
    fn whole_numbers_are_written_as_such() {
        for (given, expected) in [
            (r#"{"a":[{"weight":50000.0},1.5,-3.0]}"#, r#"{"a":[{"weight":50000},1.5,-3]}"#),
            (r#"{"a":1,"b":"1.0","c":null}"#, r#"{"a":1,"b":"1.0","c":null}"#),
            ("not json", "not json"),
        ] {
            assert_eq!(with_whole_numbers(given.to_owned()), expected);
        }
    }
}
