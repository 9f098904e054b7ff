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

use crate::comparison::{Comparison, Difference, Differing, Losses, ReadError};
use flag_data::backoff::jitter;
use flag_data::items::{ItemKey, State, Stored};
use flag_data::sources::LaunchDarkly;
use flag_data::stores::{Condition, Store, StoreError};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use std::collections::HashMap;
use std::time::Duration;

/// How often a run compares while other writers win, or while LaunchDarkly's answers change.
const MAX_ROUNDS: u32 = 5;

/// How often in a row LaunchDarkly has to give the same answer before a write that does not rise in version.
const MIN_ANSWERS: u32 = 3;

/// How many items are written at once.
const CONCURRENCY: usize = 16;

/// Why the store may differ from LaunchDarkly.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SyncError {
    #[error(transparent)]
    Read(#[from] ReadError),
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

/// Counts LaunchDarkly's answers for items that do not rise in version.
#[derive(Default)]
struct Confirmations(HashMap<ItemKey, Confirmation>);

struct Confirmation {
    stored: Option<Stored>,
    launchdarkly: Option<Stored>,
    /// In a row.
    times: u32,
}

impl Confirmations {
    /// Counts one more comparison. An item that no longer differs, or differs otherwise, starts again.
    fn count(&mut self, comparison: &Comparison) {
        let mut before = std::mem::take(&mut self.0);
        for differing in comparison.differences.iter().filter(|differing| !differing.rises()) {
            let item = (differing.kind, differing.key.clone());
            let (stored, launchdarkly) = (comparison.stored(differing), comparison.launchdarkly(differing));
            let times = before
                .remove(&item)
                .filter(|seen| seen.stored.as_ref() == stored && seen.launchdarkly.as_ref() == launchdarkly)
                .map_or(1, |seen| seen.times + 1);
            let (stored, launchdarkly) = (stored.cloned(), launchdarkly.cloned());
            self.0.insert(item, Confirmation { stored, launchdarkly, times });
        }
    }

    /// Whether the item may be written.
    fn allow(&self, differing: &Differing) -> bool {
        let seen = self.0.get(&(differing.kind, differing.key.clone()));
        differing.rises() || seen.is_some_and(|seen| seen.times >= MIN_ANSWERS)
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
        (report.flags, report.segments) = comparison.counts();
        confirmations.count(&comparison);
        // With the losses of the rounds before, so that a run cannot take a store half by half.
        let Losses { items, lost } = comparison.losses();
        let items = *items_at_first.get_or_insert(items);
        let losses = Losses { items, lost: lost + lost_before };
        let is_stopped = !rules.confirm_mass_change && losses.is_mass_change();
        let may_write = |differing: &Differing| differing.rises() || (!is_stopped && confirmations.allow(differing));
        let round_result = write(store, &comparison, &may_write, &progress).await?;
        report.written += round_result.written;
        report.deleted += round_result.deleted;
        lost_before += round_result.lost;
        let is_settled = comparison.differences.iter().all(|differing| confirmations.allow(differing));
        if is_stopped && (is_settled || round == MAX_ROUNDS) {
            return Err(SyncError::MassChange { written: report.written, losses: losses.lost, items });
        }
        if !round_result.overtaken && round_result.left == 0 {
            if !comparison.marks.initialized {
                store.mark_initialized().await?;
            }
            if !round_result.rejected.is_empty() {
                return Err(SyncError::Incomplete(round_result.rejected));
            }
            store.mark_synced(comparison.requested).await?;
            return Ok(report);
        }
        if round == MAX_ROUNDS && !round_result.overtaken {
            return Err(SyncError::Unsettled);
        }
        report.repeated += 1;
        if round_result.left > 0 {
            tokio::time::sleep(rules.cache_wait).await;
        } else {
            // With jitter, so that the same writers do not meet again.
            tokio::time::sleep(Duration::from_millis(100 << round).mul_f64(jitter())).await;
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
    /// Differences that were not allowed yet.
    left: usize,
    overtaken: bool,
    rejected: Vec<String>,
}

async fn write(
    store: &impl Store,
    comparison: &Comparison,
    may_write: &(impl Fn(&Differing) -> bool + Sync),
    progress: &(impl Fn(usize, usize) + Sync),
) -> Result<Round, SyncError> {
    let differences: Vec<&Differing> = comparison.differences.iter().filter(|differing| may_write(differing)).collect();
    let mut round = Round { left: comparison.differences.len() - differences.len(), ..Round::default() };
    let mut done = 0;
    let is_delete = |differing: &Differing| differing.difference == Difference::Gone;
    // Each step ends before the next begins.
    for step in differences.chunk_by(|a, b| a.kind == b.kind && is_delete(a) == is_delete(b)) {
        let writes: Vec<_> = step.iter().map(|differing| put(store, comparison, differing)).collect();
        let mut writes = stream::iter(writes).buffer_unordered(CONCURRENCY);
        while let Some((differing, write)) = writes.try_next().await? {
            done += 1;
            progress(done, differences.len());
            match write {
                Write::Done => {
                    round.lost += usize::from(comparison.loses(differing));
                    *(if is_delete(differing) { &mut round.deleted } else { &mut round.written }) += 1;
                }
                Write::Overtaken => round.overtaken = true,
                Write::Rejected(why) => round.rejected.push(why),
            }
        }
    }
    Ok(round)
}

enum Write {
    Done,
    Overtaken,
    Rejected(String),
}

async fn put<'a>(
    store: &impl Store,
    comparison: &Comparison,
    differing: &'a Differing,
) -> Result<(&'a Differing, Write), SyncError> {
    let seen = comparison.stored(differing);
    let tombstone = || Stored::tombstone(seen.map_or(0, |item| item.version).saturating_add(1));
    let item = comparison.launchdarkly(differing).cloned().unwrap_or_else(tombstone);
    if item.state == State::Malformed {
        let (kind, key) = (differing.kind.singular(), &differing.key);
        return Ok((differing, Write::Rejected(format!("LaunchDarkly's {kind} {key:?} has no version"))));
    }
    let write = match store.put(differing.kind, &differing.key, &item, Condition::Unchanged(seen)).await {
        Ok(true) => Write::Done,
        Ok(false) => Write::Overtaken,
        Err(error @ StoreError::TooLarge { .. }) => Write::Rejected(error.to_string()),
        Err(error) => return Err(error.into()),
    };
    Ok((differing, write))
}
