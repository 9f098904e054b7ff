//! Makes a store equal to LaunchDarkly, whatever else writes to it at the same time.
//!
//! A run reads the store first, then fetches everything from LaunchDarkly, and writes each difference on the condition
//! that the item still has the text that was compared. So of two runs that write the same item, the later one fetched
//! after the earlier one wrote: older data never replaces it, and a run that finds an item changed starts again. A
//! condition on versions is not enough: a tombstone must not block a flag that was created again, a run that fetched
//! before a flag was created must not delete it, and two runs can hold different content of the same version. No lease
//! is needed, and other writers (a Relay Proxy, an SDK) need no protocol: theirs is one more change of the text.
//!
//! An item that rises in version is written at once. Any other write takes something from the store, so it can be the
//! response of a stale cache: LaunchDarkly is requested again, and believed when its answer stays.

use crate::comparison::{Comparison, Differing, is_mass_change};
use flag_data::backoff::jitter;
use flag_data::items::{ItemKey, State, Stored};
use flag_data::sources::{LaunchDarkly, SourceError};
use flag_data::stores::{Condition, Store, StoreError};
use futures_util::stream::{self, StreamExt};
use serde::Serialize;
use std::collections::HashMap;
use std::time::Duration;

/// How often a run compares while other writers are faster, or while LaunchDarkly's answers change.
const MAX_ROUNDS: u32 = 5;

/// How often in a row LaunchDarkly has to give the same answer before a write that does not rise in version.
const MIN_ANSWERS: u32 = 3;

/// How many items are written at once.
const CONCURRENCY: usize = 16;

/// Why the store may differ from LaunchDarkly.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SyncError {
    #[error("the store is not up to date: {0}")]
    Read(#[from] SourceError),
    #[error(transparent)]
    Write(#[from] StoreError),
    #[error("the store is not up to date: other writers were faster {MAX_ROUNDS} times. The next run resumes")]
    Overtaken,
    #[error(
        "the store is not up to date: LaunchDarkly gave different answers to {MAX_ROUNDS} requests. The next run resumes"
    )]
    Unsettled,
    #[error(
        "{written} items that have risen in version were written, but nothing else: {losses} of {items} items of the \
         store would be deleted, or replaced at the same or a lower version. The SDK key of another environment looks \
         like that, so check it first. If the change is intended, run flag-sync once --confirm-mass-change, or set the \
         parameter ConfirmMassChange of cloudformation/flag-store.yaml to true for one run of the function"
    )]
    MassChange { written: usize, losses: usize, items: usize },
    #[error("not every item was written: {}", .0.join("; "))]
    Incomplete(Vec<String>),
}

/// What a run may do, and when.
#[derive(Clone, Copy, Debug)]
pub struct SyncRules {
    /// How long LaunchDarkly's caches may be stale. A write that does not rise in version waits that long for the same
    /// answer.
    pub cache_wait: Duration,
    /// Whether a run may take more than half of a store.
    pub confirm_mass_change: bool,
}

/// The result of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// LaunchDarkly's flags.
    pub flags: usize,
    /// LaunchDarkly's segments.
    pub segments: usize,
    /// Items written.
    pub written: usize,
    /// Items replaced by tombstones.
    pub deleted: usize,
    /// How often it compared again because another writer was faster, or LaunchDarkly's answer was stale.
    pub repeated: u32,
}

/// How often in a row LaunchDarkly gave the same answer for each item that does not rise in version.
#[derive(Default)]
struct Confirmations(HashMap<ItemKey, (Differing, u32)>);

impl Confirmations {
    /// Counts one more comparison. An item that no longer differs, or differs otherwise, starts again.
    fn count(&mut self, differences: &[Differing]) {
        let before = std::mem::take(&mut self.0);
        for differing in differences.iter().filter(|differing| !differing.rises()) {
            let item = (differing.kind, differing.key.clone());
            let seen = before.get(&item).filter(|(seen, _)| seen == differing);
            let times = seen.map_or(1, |(_, times)| times + 1);
            self.0.insert(item, (differing.clone(), times));
        }
    }

    /// Whether the item may be written.
    fn allow(&self, differing: &Differing) -> bool {
        let seen = self.0.get(&(differing.kind, differing.key.clone()));
        seen.is_none_or(|(_, times)| *times >= MIN_ANSWERS)
    }
}

/// Makes the store equal to LaunchDarkly and marks it. `progress` receives how many of how many items are written.
///
/// # Errors
/// The store may be partly written; the next run resumes. It is marked as synced only when it has everything.
pub async fn sync(
    store: &impl Store,
    launchdarkly: &LaunchDarkly,
    rules: SyncRules,
    progress: impl Fn(usize, usize) + Sync,
) -> Result<Report, SyncError> {
    let mut report = Report::default();
    let mut confirmations = Confirmations::default();
    let mut items_at_first = None;
    let mut lost_before = 0;
    for round in 1..=MAX_ROUNDS {
        let comparison = Comparison::make(store, launchdarkly).await?;
        (report.flags, report.segments) = (comparison.flags, comparison.segments);
        confirmations.count(&comparison.differences);
        // With the losses of the rounds before, so that a run cannot take a store half by half.
        let items = *items_at_first.get_or_insert(comparison.stored);
        let losses = comparison.losses() + lost_before;
        let is_stopped = !rules.confirm_mass_change && is_mass_change(items, losses);
        let (writes, left): (Vec<_>, Vec<_>) = (comparison.differences.iter())
            .partition(|differing| differing.rises() || (!is_stopped && confirmations.allow(differing)));
        let is_settled = left.iter().all(|differing| confirmations.allow(differing));
        let Round { written, deleted, lost, overtaken, rejected } = write(store, &writes, &progress).await?;
        report.written += written;
        report.deleted += deleted;
        lost_before += lost;
        if is_stopped && (is_settled || round == MAX_ROUNDS) {
            return Err(SyncError::MassChange { written: report.written, losses, items });
        }
        if !overtaken && left.is_empty() {
            if !comparison.marks.initialized {
                store.mark_initialized().await?;
            }
            if !rejected.is_empty() {
                return Err(SyncError::Incomplete(rejected));
            }
            store.mark_synced(comparison.requested).await?;
            return Ok(report);
        }
        if round == MAX_ROUNDS && !overtaken {
            return Err(SyncError::Unsettled);
        }
        report.repeated += 1;
        if left.is_empty() {
            // With jitter, so that the same writers do not meet again.
            tokio::time::sleep(Duration::from_millis(100 << round).mul_f64(jitter())).await;
        } else {
            tokio::time::sleep(rules.cache_wait).await;
        }
    }
    Err(SyncError::Overtaken)
}

#[derive(Default)]
struct Round {
    written: usize,
    deleted: usize,
    /// Writes and deletions that took an item from the store.
    lost: usize,
    /// Whether another writer was faster.
    overtaken: bool,
    /// Why items were rejected.
    rejected: Vec<String>,
}

async fn write(
    store: &impl Store,
    differences: &[&Differing],
    progress: &(impl Fn(usize, usize) + Sync),
) -> Result<Round, SyncError> {
    let mut round = Round::default();
    let mut done = 0;
    // Each step ends before the next begins.
    for step in differences.chunk_by(|a, b| a.step() == b.step()) {
        let puts: Vec<_> = step.iter().map(|differing| async { (*differing, put(store, differing).await) }).collect();
        let mut puts = stream::iter(puts).buffer_unordered(CONCURRENCY);
        while let Some((differing, result)) = puts.next().await {
            done += 1;
            progress(done, differences.len());
            match result {
                Ok(true) => {
                    round.lost += usize::from(differing.is_loss());
                    round.written += usize::from(differing.launchdarkly.is_some());
                    round.deleted += usize::from(differing.launchdarkly.is_none());
                }
                Ok(false) => round.overtaken = true,
                Err(SyncError::Incomplete(why)) => round.rejected.extend(why),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(round)
}

/// Writes an item, or a tombstone for one that LaunchDarkly no longer has. `false` if another writer changed it first.
async fn put(store: &impl Store, differing: &Differing) -> Result<bool, SyncError> {
    let Differing { kind, key, launchdarkly, store: seen, .. } = differing;
    let tombstone = || Stored::tombstone(seen.as_ref().map_or(0, |item| item.version).saturating_add(1));
    let item = launchdarkly.clone().unwrap_or_else(tombstone);
    if item.state == State::Malformed {
        let why = format!("LaunchDarkly's {} {key:?} has no version", kind.singular());
        return Err(SyncError::Incomplete(vec![why]));
    }
    match store.put(*kind, key, &item, Condition::Unchanged(seen.as_ref())).await {
        Err(error @ StoreError::TooLarge { .. }) => Err(SyncError::Incomplete(vec![error.to_string()])),
        result => Ok(result?),
    }
}
