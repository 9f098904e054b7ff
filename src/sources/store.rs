//! A store that flag-sync or the Relay Proxy fills, or several replicas of it.

use super::{Fetched, FlagSource, Read, Reader, SourceError, Wanted, collect};
use crate::flags::Items;
use crate::stores::{Contents, State, Store, StoreError, Stored};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use std::time::{Duration, SystemTime};

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

    /// Asks one replica after the other, without giving up those that were asked before, and takes the first answer.
    async fn read(&self, wanted: &[Wanted]) -> Result<Contents, SourceError> {
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
                Some(Ok(contents)) => return Ok(contents),
                // The nearest one's error is the one to tell.
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

    fn fetch<'a>(
        &'a self,
        flag_key: &'a str,
        _known: Option<&'a Items>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        Box::pin(async move {
            let reader = FromStore { source: self, synced: Mutex::default() };
            let items = collect(&reader, flag_key, None).await?;
            Ok(Fetched { items, time_to_live: None, synced: reader.synced.into_inner() })
        })
    }
}

struct FromStore<'a, S> {
    source: &'a StoreSource<S>,
    /// The earliest that any read gave.
    synced: Mutex<Option<SystemTime>>,
}

impl<S: Store> Reader for FromStore<'_, S> {
    async fn read(&self, wanted: &[Wanted], _known: Option<&Items>) -> Result<Vec<Read>, SourceError> {
        let Contents { items, marks } = self.source.read(wanted).await?;
        if !marks.initialized {
            return Err(StoreError::NotInitialized { store: format!("the store ({})", self.source.name) }.into());
        }
        let mut earliest = self.synced.lock();
        *earliest = match (*earliest, marks.synced) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let read = |item: Option<Stored>| match item {
            None | Some(Stored { state: State::Deleted, .. }) => Read::Missing,
            Some(Stored { json, .. }) => Read::Found { json, etag: None },
        };
        Ok(items.into_iter().map(read).collect())
    }
}
