//! Makes a store equal to LaunchDarkly, whatever else writes to it at the same time.
//!
//! A run reads the store first, then fetches everything from LaunchDarkly, and writes each difference on the condition
//! that the item is still as it was read. So of two runs that write the same item, the later one fetched after the
//! earlier one wrote: data that was fetched before can never replace it. A run that finds an item changed begins
//! anew. No lease is needed for that; versions alone would not do, as a tombstone must not hold off a flag that was
//! made anew, and a run that fetched before a flag was made must not delete it.

use crate::flags::random;
use crate::sources::{ItemKind, LaunchDarkly, SourceError};
use crate::stores::{Condition, Everything, Marks, State, Store, StoreError, Stored};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

/// How often a run begins anew while other writers keep coming first.
const MOST_ROUNDS: u32 = 5;

/// How many items are written at once.
const AT_ONCE: usize = 16;

/// Why the store is not known to be equal to LaunchDarkly.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SyncError {
    #[error("LaunchDarkly's data was not fetched: {0}")]
    Source(#[from] SourceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("other writers of the store came first {MOST_ROUNDS} times; the next run goes on")]
    Overtaken,
    #[error("everything else was written, but not: {}", .0.join("; "))]
    Incomplete(Vec<String>),
}

/// How an item of the store differs from LaunchDarkly's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    /// The store does not have it.
    Missing,
    /// The store has an older version.
    Older,
    /// The store has a newer version.
    Newer,
    /// The store has a tombstone.
    Deleted,
    /// LaunchDarkly no longer has it.
    Gone,
    /// The store has something that is no item.
    Malformed,
}

impl Difference {
    fn between(stored: Option<&Stored>, launchdarkly: Option<&Stored>) -> Option<Self> {
        match (stored, launchdarkly) {
            (None | Some(Stored { state: State::Deleted, .. }), None) => None,
            (Some(_), None) => Some(Self::Gone),
            (None, Some(_)) => Some(Self::Missing),
            (Some(Stored { state: State::Malformed, .. }), Some(_)) => Some(Self::Malformed),
            (Some(stored), Some(new)) if stored.state != new.state => Some(Self::Deleted),
            (Some(stored), Some(new)) if stored.version < new.version => Some(Self::Older),
            (Some(stored), Some(new)) if stored.version > new.version => Some(Self::Newer),
            (Some(_), Some(_)) => None,
        }
    }
}

/// An item that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Differing {
    /// `flag` or `segment`.
    pub kind: ItemKind,
    /// Its key.
    pub key: String,
    /// How it differs.
    pub difference: Difference,
    /// LaunchDarkly's version.
    pub launchdarkly: Option<u64>,
    /// The store's version.
    pub store: Option<u64>,
}

/// LaunchDarkly and the store side by side, the store read first.
#[derive(Debug)]
pub struct Comparison {
    before: Everything,
    new: Everything,
    marks: Marks,
    /// When LaunchDarkly was asked.
    asked: SystemTime,
    /// In the order in which they are to be written: segments before the flags that name them, deletions last.
    pub differences: Vec<Differing>,
}

impl Comparison {
    /// Reads both.
    ///
    /// # Errors
    /// Either was not read.
    pub async fn make(store: &impl Store, launchdarkly: &LaunchDarkly) -> Result<Self, SyncError> {
        let marks = store.read(&[]).await?.marks;
        let (segments, flags) = futures_util::try_join!(store.all(ItemKind::Segment), store.all(ItemKind::Flag))?;
        let before = Everything { flags, segments };
        let asked = SystemTime::now();
        let new = launchdarkly.everything().await?;
        let differences = differences(&before, &new);
        Ok(Self { before, new, marks, asked, differences })
    }

    /// How many flags and segments LaunchDarkly has.
    pub fn counts(&self) -> (usize, usize) {
        (self.new.flags.len(), self.new.segments.len())
    }

    /// What the store said of itself.
    pub fn marks(&self) -> Marks {
        self.marks
    }
}

fn differences(before: &Everything, new: &Everything) -> Vec<Differing> {
    let mut written = Vec::new();
    let mut deleted = Vec::new();
    for ((kind, before), (_, new)) in before.kinds().into_iter().zip(new.kinds()) {
        // In the order of the keys, for the eye.
        let keys: BTreeSet<&String> = before.keys().chain(new.keys()).collect();
        for key in keys {
            let (stored, launchdarkly) = (before.get(key), new.get(key));
            let Some(difference) = Difference::between(stored, launchdarkly) else { continue };
            let differing = Differing {
                kind,
                key: key.clone(),
                difference,
                launchdarkly: launchdarkly.map(|item| item.version),
                store: stored.map(|item| item.version),
            };
            if difference == Difference::Gone { deleted.push(differing) } else { written.push(differing) }
        }
    }
    // A segment goes after the flags that named it.
    deleted.sort_by_key(|differing| differing.kind);
    written.extend(deleted);
    written
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
    /// How often it began anew because another writer came first, or LaunchDarkly's answer was old.
    pub repeated: u32,
}

/// Makes the store equal to LaunchDarkly and marks it so. `progress` is told how many of how many items are done.
///
/// `pause` is how long LaunchDarkly's caches may serve old data: when it sends an older version than the store has,
/// it is asked again after that time, and believed when it still says so.
///
/// # Errors
/// The store may be half-way; the next run goes on from there. It is marked only when it has everything.
pub async fn sync(
    store: &impl Store,
    launchdarkly: &LaunchDarkly,
    pause: Duration,
    progress: impl Fn(usize, usize) + Sync,
) -> Result<Report, SyncError> {
    let mut report = Report::default();
    for round in 1..=MOST_ROUNDS {
        let comparison = Comparison::make(store, launchdarkly).await?;
        (report.flags, report.segments) = comparison.counts();
        let believe = round > 2;
        let outcome = write(store, &comparison, believe, &progress).await?;
        report.written += outcome.written;
        report.deleted += outcome.deleted;
        if !outcome.overtaken && !outcome.was_newer {
            if !comparison.marks.initialized {
                store.mark_initialized().await?;
            }
            if !outcome.refused.is_empty() {
                return Err(SyncError::Incomplete(outcome.refused));
            }
            store.mark_synced(comparison.asked).await?;
            return Ok(report);
        }
        report.repeated += 1;
        if outcome.was_newer {
            tokio::time::sleep(pause).await;
        } else {
            // Those who met must not meet again.
            tokio::time::sleep(Duration::from_millis(100 << round).mul_f64(random())).await;
        }
    }
    Err(SyncError::Overtaken)
}

#[derive(Default)]
struct Outcome {
    written: usize,
    deleted: usize,
    overtaken: bool,
    was_newer: bool,
    refused: Vec<String>,
}

async fn write(
    store: &impl Store,
    comparison: &Comparison,
    believe: bool,
    progress: &(impl Fn(usize, usize) + Sync),
) -> Result<Outcome, SyncError> {
    let mut outcome = Outcome::default();
    let all = comparison.differences.len();
    let mut done = 0;
    let is_delete = |differing: &Differing| differing.difference == Difference::Gone;
    // A step begins when the one before is over.
    for step in comparison.differences.chunk_by(|a, b| a.kind == b.kind && is_delete(a) == is_delete(b)) {
        let writes: Vec<_> = step.iter().map(|differing| put(store, comparison, differing, believe)).collect();
        let mut writes = stream::iter(writes).buffer_unordered(AT_ONCE);
        while let Some((differing, write)) = writes.try_next().await? {
            done += 1;
            progress(done, all);
            match write {
                Write::Done if is_delete(differing) => outcome.deleted += 1,
                Write::Done => outcome.written += 1,
                Write::Overtaken => outcome.overtaken = true,
                Write::Newer => outcome.was_newer = true,
                Write::Refused(why) => outcome.refused.push(why),
            }
        }
    }
    Ok(outcome)
}

enum Write {
    Done,
    Overtaken,
    /// Left alone: the store has a newer version.
    Newer,
    Refused(String),
}

async fn put<'a>(
    store: &impl Store,
    comparison: &Comparison,
    differing: &'a Differing,
    believe: bool,
) -> Result<(&'a Differing, Write), SyncError> {
    if differing.difference == Difference::Newer && !believe {
        return Ok((differing, Write::Newer));
    }
    let of = |everything: &Everything| -> Option<Stored> {
        let items: &HashMap<_, _> = match differing.kind {
            ItemKind::Flag => &everything.flags,
            ItemKind::Segment => &everything.segments,
        };
        items.get(&differing.key).cloned()
    };
    let seen = of(&comparison.before).map(|item| item.version);
    let item = of(&comparison.new).unwrap_or_else(|| Stored::tombstone(seen.unwrap_or(0) + 1));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn items(items: &[(&str, Stored)]) -> HashMap<String, Stored> {
        items.iter().map(|(key, item)| ((*key).to_owned(), item.clone())).collect()
    }

    fn version(version: u64) -> Stored {
        Stored::parse(format!(r#"{{"version":{version}}}"#))
    }

    #[test]
    fn each_difference_has_its_name() {
        use Difference::{Deleted, Gone, Malformed, Missing, Newer, Older};
        let malformed = Stored::parse("[".to_owned());
        for (stored, launchdarkly, expected) in [
            (None, None, None),
            (Some(version(1)), Some(version(1)), None),
            (Some(Stored::tombstone(2)), None, None),
            (None, Some(version(1)), Some(Missing)),
            (Some(version(1)), Some(version(2)), Some(Older)),
            (Some(version(2)), Some(version(1)), Some(Newer)),
            (Some(Stored::tombstone(9)), Some(version(1)), Some(Deleted)),
            (Some(version(1)), None, Some(Gone)),
            (Some(malformed.clone()), None, Some(Gone)),
            (Some(malformed), Some(version(1)), Some(Malformed)),
        ] {
            assert_eq!(Difference::between(stored.as_ref(), launchdarkly.as_ref()), expected);
        }
    }

    #[test]
    fn what_is_named_is_written_before_and_deleted_after_what_names_it() {
        let before = Everything {
            flags: items(&[("old-flag", version(1))]),
            segments: items(&[("old-segment", version(1)), ("s", version(1))]),
        };
        let new = Everything {
            flags: items(&[("b", version(1)), ("a", version(1))]),
            segments: items(&[("new-segment", version(1)), ("s", version(1))]),
        };
        let order: Vec<_> = differences(&before, &new).into_iter().map(|differing| differing.key).collect();
        assert_eq!(order, ["new-segment", "a", "b", "old-flag", "old-segment"]);
    }
}
