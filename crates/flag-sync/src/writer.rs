//! Makes a store equal to LaunchDarkly, whatever else writes to it at the same time.
//!
//! A run reads the store first, then fetches everything from LaunchDarkly, and writes each difference on the condition
//! that the item still has the very text that was compared. So of two runs that write the same item, the later one
//! fetched after the earlier one wrote: data that was fetched before can never replace it, and a run that finds an item
//! changed starts again. Versions alone would not do: a tombstone must not hold off a flag that was made again, a run
//! that fetched before a flag was made must not delete it, and two runs can hold different content of the same version.
//! No lease is needed, and other writers (a Relay Proxy, an SDK) need not know of any of this: theirs is one more change
//! of the text.
//!
//! What rises in version is written at once. Anything else would turn back or take away what the store has, so it can be
//! the answer of a cache that is behind: LaunchDarkly is asked again, and believed when its answer stays.

use crate::comparison::{Comparison, Difference, Differing, Losses};
use flag_data::backoff::jitter;
use flag_data::items::{ItemKey, State, Stored};
use flag_data::sources::{LaunchDarkly, SourceError};
use flag_data::stores::{Condition, Store, StoreError};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use std::collections::HashMap;
use std::time::Duration;

/// How often a run reads and compares while other writers keep coming first, or LaunchDarkly's answers keep changing.
const MAX_ROUNDS: u32 = 5;

/// How often in a row LaunchDarkly has to give the same answer before something is written that does not rise in version.
const ANSWERS: u32 = 3;

/// How many items are written at once.
const CONCURRENCY: usize = 16;

/// Why the store is not known to be equal to LaunchDarkly.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SyncError {
    #[error("LaunchDarkly's data was not fetched: {0}")]
    Source(#[from] SourceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("other writers of the store came first {MAX_ROUNDS} times; the next run resumes")]
    Overtaken,
    #[error("LaunchDarkly's answers still differ from each other after {MAX_ROUNDS} requests; the next run resumes")]
    Unsettled,
    #[error(
        "{written} items that have risen in version were written, but nothing else: {losses} of {items} items of the \
         store would be deleted, or replaced at the same or a lower version. The SDK key of another environment looks \
         like that, so check it first. If this is meant, run flag-sync once --confirm-mass-change, or set the parameter \
         ConfirmMassChange of cloudformation/flag-store.yaml to true for one run of the function"
    )]
    MassChange { written: usize, losses: usize, items: usize },
    #[error("everything else was written, but not: {}", .0.join("; "))]
    Incomplete(Vec<String>),
}

/// Whether a run may take more than half of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MassChange {
    /// Somebody said so.
    Confirmed,
    /// It stops.
    Unconfirmed,
}

/// What a run did.
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
    /// How often it started again because another writer was first, or LaunchDarkly's answer was old.
    pub repeated: u32,
}

/// LaunchDarkly's answers for what does not rise in version.
#[derive(Default)]
struct Answers(HashMap<ItemKey, Answer>);

struct Answer {
    stored: Option<Stored>,
    launchdarkly: Option<Stored>,
    /// In a row.
    times: u32,
}

impl Answers {
    /// Counts those of one more comparison. An item that did not differ in between, or differed otherwise, is counted
    /// from the start.
    fn count(&mut self, comparison: &Comparison) {
        let mut before = std::mem::take(&mut self.0);
        for differing in comparison.differences.iter().filter(|differing| !differing.rises()) {
            let wanted = (differing.kind, differing.key.clone());
            let (stored, launchdarkly) = (comparison.stored(differing), comparison.launchdarkly(differing));
            let same = before
                .remove(&wanted)
                .filter(|answer| answer.stored.as_ref() == stored && answer.launchdarkly.as_ref() == launchdarkly);
            let first = || Answer { stored: stored.cloned(), launchdarkly: launchdarkly.cloned(), times: 0 };
            let mut answer = same.unwrap_or_else(first);
            answer.times += 1;
            self.0.insert(wanted, answer);
        }
    }

    /// Whether an answer has stayed the same often enough to be written.
    fn believes(&self, differing: &Differing) -> bool {
        let answer = self.0.get(&(differing.kind, differing.key.clone()));
        answer.is_some_and(|answer| answer.times >= ANSWERS)
    }
}

/// Makes the store equal to LaunchDarkly and marks it so. `progress` is given how many of how many items are done.
///
/// `pause` is how long LaunchDarkly's caches may serve old data: what does not rise in version is asked for again after
/// that time, and written when the answer stays.
///
/// # Errors
/// The store may be half-way; the next run resumes. It is marked only when it has everything.
pub async fn sync(
    store: &impl Store,
    launchdarkly: &LaunchDarkly,
    pause: Duration,
    mass_change: MassChange,
    progress: impl Fn(usize, usize) + Sync,
) -> Result<Report, SyncError> {
    let mut report = Report::default();
    let mut answers = Answers::default();
    let mut items_at_first = None;
    let mut lost_before = 0;
    for round in 1..=MAX_ROUNDS {
        let comparison = Comparison::make(store, launchdarkly).await?;
        (report.flags, report.segments) = comparison.counts();
        answers.count(&comparison);
        // What this run has already taken counts too, so that it cannot take a store half by half.
        let losses = comparison.losses();
        let items = *items_at_first.get_or_insert(losses.items);
        let losses = Losses { items, lost: losses.lost + lost_before };
        let is_stopped = mass_change == MassChange::Unconfirmed && losses.is_mass_change();
        let may_write = |differing: &Differing| differing.rises() || (!is_stopped && answers.believes(differing));
        let outcome = write(store, &comparison, &may_write, &progress).await?;
        report.written += outcome.written;
        report.deleted += outcome.deleted;
        lost_before += outcome.lost;
        let is_settled =
            comparison.differences.iter().all(|differing| differing.rises() || answers.believes(differing));
        if is_stopped && (is_settled || round == MAX_ROUNDS) {
            return Err(SyncError::MassChange { written: report.written, losses: losses.lost, items });
        }
        if !outcome.overtaken && outcome.left == 0 {
            if !comparison.marks().initialized {
                store.mark_initialized().await?;
            }
            if !outcome.refused.is_empty() {
                return Err(SyncError::Incomplete(outcome.refused));
            }
            store.mark_synced(comparison.asked).await?;
            return Ok(report);
        }
        if round == MAX_ROUNDS && !outcome.overtaken {
            return Err(SyncError::Unsettled);
        }
        report.repeated += 1;
        if outcome.left > 0 {
            tokio::time::sleep(pause).await;
        } else {
            // Those who met must not meet again.
            tokio::time::sleep(Duration::from_millis(100 << round).mul_f64(jitter())).await;
        }
    }
    Err(SyncError::Overtaken)
}

#[derive(Default)]
struct Outcome {
    written: usize,
    deleted: usize,
    /// Of the two, those that took something from the store.
    lost: usize,
    /// Differences that were not written yet.
    left: usize,
    overtaken: bool,
    refused: Vec<String>,
}

async fn write(
    store: &impl Store,
    comparison: &Comparison,
    may_write: &(impl Fn(&Differing) -> bool + Sync),
    progress: &(impl Fn(usize, usize) + Sync),
) -> Result<Outcome, SyncError> {
    let differences: Vec<&Differing> = comparison.differences.iter().filter(|differing| may_write(differing)).collect();
    let mut outcome = Outcome { left: comparison.differences.len() - differences.len(), ..Outcome::default() };
    let mut done = 0;
    let is_delete = |differing: &Differing| differing.difference == Difference::Gone;
    // A step begins when the one before is over.
    for step in differences.chunk_by(|a, b| a.kind == b.kind && is_delete(a) == is_delete(b)) {
        let writes: Vec<_> = step.iter().map(|differing| put(store, comparison, differing)).collect();
        let mut writes = stream::iter(writes).buffer_unordered(CONCURRENCY);
        while let Some((differing, write)) = writes.try_next().await? {
            done += 1;
            progress(done, differences.len());
            if matches!(write, Write::Done) && comparison.loses(differing) {
                outcome.lost += 1;
            }
            match write {
                Write::Done if is_delete(differing) => outcome.deleted += 1,
                Write::Done => outcome.written += 1,
                Write::Overtaken => outcome.overtaken = true,
                Write::Refused(why) => outcome.refused.push(why),
            }
        }
    }
    Ok(outcome)
}

enum Write {
    Done,
    Overtaken,
    Refused(String),
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
        return Ok((differing, Write::Refused(format!("LaunchDarkly's {kind} {key:?} has no version"))));
    }
    let write = match store.put(differing.kind, &differing.key, &item, Condition::Unchanged(seen)).await {
        Ok(true) => Write::Done,
        Ok(false) => Write::Overtaken,
        Err(error @ StoreError::TooLarge { .. }) => Write::Refused(error.to_string()),
        Err(error) => return Err(error.into()),
    };
    Ok((differing, write))
}
