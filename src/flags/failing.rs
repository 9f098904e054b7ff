//! References of the flag that could not be fetched. Each has its own back-off, and no viewer waits for one.

use crate::settings::Settings;
use flag_data::backoff::Backoff;
use flag_data::clock::Clock;
use flag_data::items::ItemKey;
use flag_data::sources::{Collection, SourceError};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The references that failed last time.
pub(super) struct FailingReferences {
    clock: Clock,
    max_wait: Duration,
    flag_key: String,
    references: BTreeMap<ItemKey, (Backoff, SourceError)>,
}

impl FailingReferences {
    pub(super) fn new(clock: Clock, settings: &Settings) -> Self {
        let (max_wait, flag_key) = (settings.max_staleness, settings.flag_key.clone());
        Self { clock, max_wait, flag_key, references: BTreeMap::new() }
    }

    /// The references that are not requested now: all of them while a viewer waits, else those in their back-off.
    pub(super) fn resting(&self, is_viewer_waiting: bool) -> BTreeSet<ItemKey> {
        let resting = self.references.iter().filter(|(_, (backoff, _))| is_viewer_waiting || !backoff.allows());
        resting.map(|(key, _)| key.clone()).collect()
    }

    /// Whether it is time to request one again.
    pub(super) fn is_any_due(&self) -> bool {
        self.references.values().any(|(backoff, _)| backoff.allows())
    }

    /// Records which references failed in a fetch, and logs what has changed.
    pub(super) fn record(&mut self, collection: &Collection) {
        let mut before = std::mem::take(&mut self.references);
        for (key, error) in collection.failures() {
            let (mut backoff, is_known) = match before.remove(&key) {
                Some((backoff, known)) => (backoff, known.is_like(&error)),
                None => (Backoff::new(self.clock.clone(), self.max_wait), false),
            };
            if !is_known {
                let (reference, flag) = (named(&key), &self.flag_key);
                log::warn!(
                    "{reference} of flag {flag:?} not fetched: {error}. Its last known copy, if any, stays in use"
                );
            }
            backoff.failed(error.wait());
            self.references.insert(key, (backoff, error));
        }
        for (key, failing) in before {
            if collection.is_resting(&key) {
                self.references.insert(key, failing);
            } else {
                log::warn!("{} can be fetched again, or is no longer needed", named(&key));
            }
        }
    }
}

pub(super) fn named((kind, key): &ItemKey) -> String {
    format!("{} {key:?}", kind.singular())
}

pub(super) fn listed(keys: &BTreeSet<ItemKey>) -> String {
    keys.iter().map(named).collect::<Vec<_>>().join(", ")
}
