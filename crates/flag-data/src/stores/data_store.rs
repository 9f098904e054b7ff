//! A store as LaunchDarkly's SDK takes it: with synchronous calls, from any thread.

use super::{Condition, Store, StoreError};
use crate::items::ItemKind;
use crate::items::{Everything, State, Stored};
use launchdarkly_server_sdk::{AllData, DataKind, PersistentDataStore, PersistentStoreError, SerializedItem};
use serde_json::Value;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, mpsc};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// A [`Store`] for the SDK's `PersistentDataStoreBuilder`, through the builder of its kind.
pub struct DataStore<S> {
    store: Arc<S>,
    bridge: Bridge,
}

impl<S: Store> DataStore<S> {
    pub(super) fn new(store: S) -> io::Result<Self> {
        Ok(Self { store: Arc::new(store), bridge: Bridge::start()? })
    }

    /// Runs a call of the store to its end.
    fn wait<T, F>(&self, call: impl FnOnce(Arc<S>) -> F) -> Result<T, PersistentStoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let ended = self.bridge.wait(call(self.store.clone()));
        let result = ended.ok_or_else(|| PersistentStoreError::new("the call of the store ended early"))?;
        result.map_err(|error| PersistentStoreError::new(error.to_string()))
    }

    fn item(&self, kind: ItemKind, key: &str) -> Result<Option<SerializedItem>, PersistentStoreError> {
        let wanted = [(kind, key.to_owned())];
        let contents = self.wait(|store| async move { store.read(&wanted).await })?;
        Ok(contents.items.into_iter().next().flatten().map(serialized))
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
        match self.wait(|store| async move { store.read(&[]).await }) {
            Ok(contents) => contents.marks.initialized,
            Err(error) => {
                log::warn!("whether the store is initialized is not known: {error}");
                false
            }
        }
    }
}

fn serialized(item: Stored) -> SerializedItem {
    SerializedItem { version: item.version, deleted: item.state == State::Deleted, serialized_item: item.json }
}

fn to_store(item: SerializedItem) -> Stored {
    let state = if item.deleted { State::Deleted } else { State::Live };
    Stored { version: item.version, state, json: with_whole_numbers(item.serialized_item) }
}

/// The Rust SDK writes the weights of a rollout as `50000.0`, which LaunchDarkly sends as `50000` and SDKs of other
/// languages refuse to read otherwise.
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

type Job = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Lets synchronous code wait for asynchronous calls. They run on a thread with a tokio runtime of its own, because
/// the caller may or may not be inside a runtime: `block_on` panics there, and waiting for a task of that same
/// runtime could wait for ever. The thread ends when this is dropped.
struct Bridge {
    jobs: UnboundedSender<Job>,
}

impl Bridge {
    fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (jobs, mut queue) = unbounded_channel::<Job>();
        std::thread::Builder::new().name("flag store".to_owned()).spawn(move || {
            runtime.block_on(async {
                while let Some(job) = queue.recv().await {
                    tokio::spawn(job);
                }
            });
        })?;
        Ok(Self { jobs })
    }

    /// `None` if the call panicked.
    fn wait<T: Send + 'static>(&self, call: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (done, result) = mpsc::sync_channel(1);
        let job = async move {
            // The other end waits, whatever happens.
            let _ = done.send(call.await);
        };
        self.jobs.send(Box::pin(job)).ok()?;
        result.recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer() -> u8 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        42
    }

    #[test]
    fn it_waits_outside_a_runtime() {
        assert_eq!(Bridge::start().unwrap().wait(answer()), Some(42));
    }

    #[tokio::test]
    async fn it_waits_inside_a_runtime_of_one_thread() {
        assert_eq!(Bridge::start().unwrap().wait(answer()), Some(42));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_waits_inside_a_runtime_of_many_threads() {
        let bridge = Arc::new(Bridge::start().unwrap());
        let waiting: Vec<_> = (0..16)
            .map(|_| {
                tokio::spawn({
                    let bridge = bridge.clone();
                    async move { bridge.wait(answer()) }
                })
            })
            .collect();
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap(), Some(42));
        }
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

    #[test]
    fn a_panic_in_a_call_ends_that_call_alone() {
        let bridge = Bridge::start().unwrap();
        assert_eq!(bridge.wait(async { panic!("on purpose") }), None::<u8>);
        assert_eq!(bridge.wait(answer()), Some(42));
    }
}
