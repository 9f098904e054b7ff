//! A store that flag-sync or the Relay Proxy fills, or several replicas of it.

use super::{Collection, FlagSource, Read, Reader, SourceError};
use crate::items::{ItemKey, State, Stored};
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
    /// A source that asks the replicas in this order, and gets an answer from one of them within `budget` if there is
    /// one to be had.
    pub fn new(name: &'static str, replicas: Vec<S>, budget: Duration) -> Self {
        let patience = budget / u32::try_from(replicas.len().max(1)).unwrap_or(u32::MAX);
        Self { name, replicas, patience }
    }

    fn not_initialized(&self) -> StoreError {
        StoreError::NotInitialized { store: format!("the store ({})", self.name) }
    }

    /// Reads one replica after the other, without giving up on the earlier ones, and uses the first answer of one that
    /// holds complete data.
    async fn read_replicas(&self, wanted: &[ItemKey]) -> Result<Contents, SourceError> {
        let mut waiting = self.replicas.iter();
        let mut asked = FuturesUnordered::new();
        let mut first_error = None;
        loop {
            if let Some(replica) = waiting.next() {
                asked.push(replica.read(wanted));
            }
            let answer = if waiting.len() == 0 {
                asked.next().await
            } else {
                match tokio::time::timeout(self.patience, asked.next()).await {
                    Ok(answer) => answer,
                    Err(_) => continue,
                }
            };
            match answer {
                Some(Ok(contents)) if contents.marks.initialized => return Ok(contents),
                Some(Ok(_)) => first_error = first_error.or_else(|| Some(self.not_initialized())),
                // The nearest one's error is the one to report.
                Some(Err(error)) => first_error = first_error.or(Some(error)),
                None if waiting.len() == 0 => {
                    let none =
                        StoreError::Settings { store: self.name.to_owned(), why: "it has no replica".to_owned() };
                    return Err(first_error.unwrap_or(none).into());
                }
                None => {}
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
    async fn read(&self, wanted: &[ItemKey], collection: &Collection) -> Result<(), SourceError> {
        let Contents { items, marks } = self.read_replicas(wanted).await?;
        collection.synced(marks.synced);
        for (wanted, item) in wanted.iter().zip(items) {
            let read = match item {
                None | Some(Stored { state: State::Deleted, .. }) => Read::Missing,
                Some(Stored { json, .. }) => Read::Found { json, etag: None },
            };
            collection.answer(wanted, read);
        }
        Ok(())
    }
}
