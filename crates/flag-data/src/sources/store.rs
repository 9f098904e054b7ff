//! A store that flag-sync or the Relay Proxy fills, or several replicas of it.

use super::{Collection, FlagSource, Reader, SourceError};
use crate::items::ItemKey;
use crate::stores::{Contents, Store, StoreError};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::time::Duration;

/// Flag data from a store: only the items that the flag needs, one read per level.
pub struct StoreSource<S> {
    name: &'static str,
    /// Nearest first.
    replicas: Vec<S>,
    /// How long a replica may take before the next one is asked too.
    patience: Duration,
}

impl<S: Store> StoreSource<S> {
    /// A source that asks the replicas in this order. Each has its share of `budget` before the next one is asked too.
    pub fn new(name: &'static str, replicas: Vec<S>, budget: Duration) -> Self {
        let patience = budget / u32::try_from(replicas.len().max(1)).unwrap_or(u32::MAX);
        Self { name, replicas, patience }
    }

    /// Reads one replica after the other, without giving up on the earlier ones, and uses the first answer of one that
    /// holds complete data.
    async fn read_replicas(&self, wanted: &[ItemKey]) -> Result<Contents, StoreError> {
        let mut waiting = self.replicas.iter();
        let mut asked = FuturesUnordered::new();
        let mut first_error = None;
        let not_initialized = || StoreError::NotInitialized { store: format!("the store ({})", self.name) };
        loop {
            asked.extend(waiting.next().map(|replica| replica.read(wanted)));
            let patience = if waiting.len() == 0 { Duration::MAX } else { self.patience };
            match tokio::time::timeout(patience, asked.next()).await {
                Ok(Some(Ok(contents))) if contents.initialized => return Ok(contents),
                // The nearest one's error is the one to report.
                Ok(Some(answer)) => {
                    first_error = first_error.or_else(|| Some(answer.err().unwrap_or_else(not_initialized)));
                }
                Ok(None) => return Err(first_error.unwrap_or_else(not_initialized)),
                Err(_) => {}
            }
        }
    }
}

impl<S: Store> FlagSource for StoreSource<S> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn fetch<'a>(&'a self, collection: &'a Collection) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(collection.read_from(self))
    }
}

/// One read per level.
impl<S: Store> Reader for StoreSource<S> {
    async fn read(&self, wanted: &[ItemKey], collection: &Collection) {
        match self.read_replicas(wanted).await {
            Ok(Contents { items, synced, .. }) => {
                collection.synced(synced);
                for (wanted, item) in wanted.iter().zip(items) {
                    collection.answer(wanted, collection.parse(wanted, item.map(|item| item.json), None));
                }
            }
            Err(error) => wanted.iter().for_each(|wanted| collection.answer(wanted, Err(error.clone().into()))),
        }
    }
}
