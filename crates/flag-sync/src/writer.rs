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

use flag_data::backoff::jitter;
use flag_data::items::{Everything, ItemKey, ItemKind, State, Stored};
use flag_data::sources::{LaunchDarkly, SourceError};
use flag_data::stores::{Condition, Marks, Store, StoreError};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use launchdarkly_server_sdk::{Flag, Segment};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

/// How often a run reads and compares while other writers keep coming first, or LaunchDarkly's answers keep changing.
const MAX_ROUNDS: u32 = 5;

/// How often in a row LaunchDarkly has to give the same answer before something is written that does not rise in version.
const ANSWERS: u32 = 3;

/// Up to so many items, a store may change as a whole without confirmation.
const MAX_SMALL_STORE: usize = 10;

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
    /// The store has other content of the same version.
    Changed,
    /// The store has a tombstone.
    Deleted,
    /// LaunchDarkly no longer has it.
    Gone,
    /// The store has something that is not an item.
    Malformed,
}

impl Difference {
    fn between(kind: ItemKind, stored: Option<&Stored>, launchdarkly: Option<&Stored>) -> Option<Self> {
        match (stored, launchdarkly) {
            (None | Some(Stored { state: State::Deleted, .. }), None) => None,
            (Some(_), None) => Some(Self::Gone),
            (None, Some(_)) => Some(Self::Missing),
            (Some(Stored { state: State::Malformed, .. }), Some(_)) => Some(Self::Malformed),
            (Some(stored), Some(new)) if stored.state != new.state => Some(Self::Deleted),
            (Some(stored), Some(new)) if stored.version < new.version => Some(Self::Older),
            (Some(stored), Some(new)) if stored.version > new.version => Some(Self::Newer),
            (Some(stored), Some(new)) => (!has_same_content(kind, &stored.json, &new.json)).then_some(Self::Changed),
        }
    }
}

/// Whether two texts are the same item to LaunchDarkly's SDK. Not the text counts: SDKs of other languages and the Relay
/// Proxy write the same flag with other spaces, another order, defaults spelled out, and without fields that they do not
/// know. A flag or segment that was made again is another one to the SDK, if only by its salt.
fn has_same_content(kind: ItemKind, one: &str, other: &str) -> bool {
    fn model<T: DeserializeOwned + Serialize>(json: &str) -> Option<Value> {
        serde_json::to_value(serde_json::from_str::<T>(json).ok()?).ok()
    }
    let read = match kind {
        ItemKind::Flag => model::<Flag>,
        ItemKind::Segment => model::<Segment>,
    };
    let same_values = || serde_json::from_str::<Value>(one).ok() == serde_json::from_str::<Value>(other).ok();
    one == other
        || match (read(one), read(other)) {
            (Some(one), Some(other)) => one == other,
            (None, None) => same_values(),
            (Some(_), None) | (None, Some(_)) => false,
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

impl Differing {
    /// Whether a write only adds: what the store has is older, or nothing that can be used.
    fn rises(&self) -> bool {
        match self.difference {
            Difference::Missing | Difference::Older | Difference::Malformed => true,
            Difference::Deleted => self.launchdarkly > self.store,
            Difference::Newer | Difference::Changed | Difference::Gone => false,
        }
    }
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

    /// What a run would take from the store.
    pub fn losses(&self) -> Losses {
        let items = self.before.kinds().into_iter().flat_map(|(_, items)| items.values());
        Losses {
            items: items.filter(|item| item.state == State::Live).count(),
            lost: self.differences.iter().filter(|differing| self.loses(differing)).count(),
        }
    }

    /// Whether a write takes something from the store. A tombstone is nothing to lose.
    fn loses(&self, differing: &Differing) -> bool {
        !differing.rises() && self.stored(differing).is_some_and(|item| item.state == State::Live)
    }

    fn stored(&self, differing: &Differing) -> Option<&Stored> {
        self.before.of(differing.kind).get(&differing.key)
    }

    fn launchdarkly(&self, differing: &Differing) -> Option<&Stored> {
        self.new.of(differing.kind).get(&differing.key)
    }
}

/// How many flags and segments a store has, and how many of them would be deleted, or replaced at the same or a lower
/// version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Losses {
    pub items: usize,
    pub lost: usize,
}

impl Losses {
    /// Whether this is so much that it has to be confirmed.
    pub fn is_mass_change(self) -> bool {
        self.items > MAX_SMALL_STORE && self.lost > self.items / 2
    }
}

/// Whether a run may take more than half of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MassChange {
    /// Somebody said so.
    Confirmed,
    /// It stops.
    Unconfirmed,
}

fn differences(before: &Everything, new: &Everything) -> Vec<Differing> {
    let mut written = Vec::new();
    let mut deleted = Vec::new();
    for ((kind, before), (_, new)) in before.kinds().into_iter().zip(new.kinds()) {
        // In the order of the keys, for the eye.
        let keys: BTreeSet<&String> = before.keys().chain(new.keys()).collect();
        for key in keys {
            let (stored, launchdarkly) = (before.get(key), new.get(key));
            let Some(difference) = Difference::between(kind, stored, launchdarkly) else { continue };
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
            if !comparison.marks.initialized {
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
        use Difference::{Changed, Deleted, Gone, Malformed, Missing, Newer, Older};
        let malformed = Stored::parse("[".to_owned());
        for (stored, launchdarkly, expected) in [
            (None, None, None),
            (Some(version(1)), Some(version(1)), None),
            (Some(version(1)), Some(Stored::parse(r#"{"version":1,"on":true}"#.to_owned())), Some(Changed)),
            (Some(Stored::tombstone(2)), None, None),
            (None, Some(version(1)), Some(Missing)),
            (Some(version(1)), Some(version(2)), Some(Older)),
            (Some(version(2)), Some(version(1)), Some(Newer)),
            (Some(Stored::tombstone(9)), Some(version(1)), Some(Deleted)),
            (Some(version(1)), None, Some(Gone)),
            (Some(malformed.clone()), None, Some(Gone)),
            (Some(malformed), Some(version(1)), Some(Malformed)),
        ] {
            assert_eq!(Difference::between(ItemKind::Flag, stored.as_ref(), launchdarkly.as_ref()), expected);
        }
    }

    #[track_caller]
    fn check_same(kind: ItemKind, one: &Value, other: &Value, expected: bool) {
        for (one, other) in [(one, other), (other, one)] {
            assert_eq!(has_same_content(kind, &one.to_string(), &other.to_string()), expected, "{one} and {other}");
        }
    }

    #[test]
    fn content_is_what_the_sdk_reads() {
        let flag = serde_json::json!({
            "key": "a", "version": 3, "on": true, "salt": "s", "targets": [], "rules": [], "prerequisites": [],
            "variations": [true, false], "offVariation": 1,
            "fallthrough": {"rollout": {"variations": [{"variation": 0, "weight": 100_000}]}},
        });
        let with = |field: &str, value: Value| {
            let mut other = flag.clone();
            other[field] = value;
            other
        };
        check_same(ItemKind::Flag, &flag, &flag, true);
        // As SDKs of other languages and the Relay Proxy write it.
        check_same(ItemKind::Flag, &flag, &with("deleted", false.into()), true);
        check_same(ItemKind::Flag, &flag, &with("trackEvents", false.into()), true);
        check_same(ItemKind::Flag, &flag, &with("debugEventsUntilDate", Value::Null), true);
        check_same(ItemKind::Flag, &flag, &with("fieldOfTomorrow", 1.into()), true);
        let weight = serde_json::json!({"rollout": {"variations": [{"variation": 0, "weight": 100_000.0}]}});
        check_same(ItemKind::Flag, &flag, &with("fallthrough", weight), true);
        for (field, value) in [
            ("on", false.into()),
            ("salt", "another".into()),
            ("offVariation", 0.into()),
            ("offVariation", Value::Null),
            ("fallthrough", serde_json::json!({"variation": 0})),
            ("variations", serde_json::json!([false, true])),
            ("trackEvents", true.into()),
            ("version", 4.into()),
            ("rules", 7.into()),
        ] {
            check_same(ItemKind::Flag, &flag, &with(field, value), false);
        }
        let segment =
            serde_json::json!({"key": "s", "version": 1, "included": ["x"], "excluded": [], "rules": [], "salt": "s"});
        let mut other = segment.clone();
        other["included"] = serde_json::json!([]);
        check_same(ItemKind::Segment, &segment, &segment, true);
        check_same(ItemKind::Segment, &segment, &other, false);
        // What the SDK cannot read.
        check_same(
            ItemKind::Flag,
            &serde_json::json!({"version": 1, "a": 2}),
            &serde_json::json!({"a": 2, "version": 1}),
            true,
        );
        check_same(
            ItemKind::Flag,
            &serde_json::json!({"version": 1}),
            &serde_json::json!({"version": 1, "on": true}),
            false,
        );
    }

    #[test]
    fn more_than_half_of_more_than_ten_is_a_mass_change() {
        for (items, lost, expected) in [(10, 10, false), (11, 5, false), (11, 6, true), (12, 6, false), (12, 7, true)] {
            assert_eq!(Losses { items, lost }.is_mass_change(), expected, "{lost} of {items}");
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
