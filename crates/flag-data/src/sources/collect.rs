//! One fetch: from a flag's key to the flag and its references (prerequisites, and the segments of rules), level by
//! level; and what to evaluate from when only a part of it arrived.

use super::error::SourceError;
use crate::items::{Item, ItemKey, ItemKind, Items};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The largest size of a flag with its references, as JSON. A Lambda function may have only 128 MB.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The largest size of a reference: a segment of 60,000 addresses fits. The flag itself may be larger, because nothing but
/// the flag being out of reach may delay the kill switch.
const MAX_REFERENCE_BYTES: usize = 1024 * 1024;

/// The largest number of items of a flag, itself included.
const MAX_ITEMS: usize = 500;

/// An item, `None` if it does not exist, or why it was not read.
pub(super) type Answer = Result<Option<Item>, SourceError>;

/// Reads the items of one level, and hands each to [`Collection::answer`] as soon as it has arrived, so that what has
/// arrived counts when the rest does not come in time.
pub(super) trait Reader: Sync {
    fn read(&self, wanted: &[ItemKey], collection: &Collection) -> impl Future<Output = ()> + Send;
}

/// A fetch of a flag and its references: what it asks for, and what has arrived so far.
pub struct Collection {
    flag: ItemKey,
    known: Arc<Items>,
    resting: BTreeSet<ItemKey>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    answers: HashMap<ItemKey, Answer>,
    /// The size of the items of earlier levels.
    bytes: usize,
    /// The sizes of the items of the current level by name, also of those that did not fit.
    level: Vec<(ItemKey, usize)>,
    time_to_live: Option<Duration>,
    synced: Option<SystemTime>,
}

/// What the SDK is to evaluate from.
#[derive(Debug, Default)]
pub struct Resolved {
    /// The flag and its references; last known copies where a reference did not arrive.
    pub items: Items,
    /// References that did not arrive and have no known copy.
    pub unknown: BTreeSet<ItemKey>,
    /// A segment that is missing, or a big one, although the result of a negated clause depends on it. To the SDK every
    /// context is a non-member of such a segment, so the clause would match everyone.
    pub missing_under_negation: Option<ItemKey>,
    /// How long the source may serve the same data again, if it is known (LaunchDarkly's TTL setting).
    pub time_to_live: Option<Duration>,
    /// When flag-sync last succeeded, if the source is a store that it fills.
    pub synced: Option<SystemTime>,
    /// Reachable, and neither answered nor resting.
    open: Vec<ItemKey>,
}

impl Collection {
    /// A fetch that keeps `known` copies where a reference does not arrive, and does not ask for those that are
    /// `resting` after a failure.
    pub fn new(flag_key: &str, known: Arc<Items>, resting: BTreeSet<ItemKey>) -> Self {
        Self { flag: (ItemKind::Flag, flag_key.to_owned()), known, resting, state: Mutex::default() }
    }

    /// The last known copy of an item.
    pub(super) fn known(&self, (kind, key): &ItemKey) -> Option<&Item> {
        self.known.get(*kind, key)
    }

    /// Reads the flag, then its references, then theirs, until nothing is missing that can be read. Fails only if the
    /// flag itself cannot be read.
    pub(super) async fn read_from(&self, reader: &impl Reader) -> Result<(), SourceError> {
        reader.read(std::slice::from_ref(&self.flag), self).await;
        if let Some(Err(error)) = self.state.lock().answers.get(&self.flag) {
            return Err(error.clone());
        }
        loop {
            let level = self.open();
            if level.is_empty() {
                return Ok(());
            }
            self.state.lock().begin_level();
            reader.read(&level, self).await;
        }
    }

    /// The references to read next.
    fn open(&self) -> Vec<ItemKey> {
        self.resolve().map(|resolved| resolved.open).unwrap_or_default()
    }

    /// Records what a source returned for an item.
    pub(super) fn answer(&self, wanted: &ItemKey, answer: Answer) {
        let mut state = self.state.lock();
        if let Ok(Some(item)) = &answer {
            let place = state.level.partition_point(|(before, _)| before < wanted);
            state.level.insert(place, (wanted.clone(), item.json().len()));
        }
        state.answers.insert(wanted.clone(), answer);
        state.drop_what_does_not_fit();
    }

    /// The answer of a source that has this JSON for an item, or none.
    pub(super) fn parse(&self, wanted: &ItemKey, json: Option<String>, etag: Option<String>) -> Answer {
        let Some(json) = json else { return Ok(None) };
        let limit = if *wanted == self.flag { MAX_BYTES } else { MAX_REFERENCE_BYTES };
        if json.len() > limit {
            return Err(SourceError::TooLarge { what: named(wanted), limit });
        }
        let malformed = |why| SourceError::Malformed { what: named(wanted), why };
        let item = Item::new(wanted.0, json, etag).map_err(malformed)?;
        Ok(Some(item).filter(|item| !item.is_deleted))
    }

    /// Records when flag-sync last succeeded, by the store that was just read. The earliest counts.
    #[cfg(any(feature = "dynamodb", feature = "redis"))]
    pub(super) fn synced(&self, synced: Option<SystemTime>) {
        let mut state = self.state.lock();
        state.synced = state.synced.into_iter().chain(synced).min();
    }

    /// Records how long the source may serve an answer again. The longest counts.
    pub(super) fn time_to_live(&self, time_to_live: Option<Duration>) {
        let mut state = self.state.lock();
        state.time_to_live = state.time_to_live.max(time_to_live);
    }

    /// Ends the fetch early: what is open has failed.
    pub fn fail_open(&self, error: &SourceError) {
        for wanted in self.open() {
            self.answer(&wanted, Err(error.clone()));
        }
    }

    /// Whether the flag itself has arrived, or is known not to exist.
    pub fn has_flag(&self) -> bool {
        matches!(self.state.lock().answers.get(&self.flag), Some(Ok(_)))
    }

    /// The references that failed, and why, among those that were requested.
    pub fn failures(&self) -> Vec<(ItemKey, SourceError)> {
        let failed = |(wanted, answer): (&ItemKey, &Answer)| Some((wanted.clone(), answer.as_ref().err()?.clone()));
        self.state.lock().answers.iter().filter_map(failed).collect()
    }

    /// Whether an item is one that this fetch did not ask for because it failed before.
    pub fn is_resting(&self, wanted: &ItemKey) -> bool {
        self.resting.contains(wanted) && !self.state.lock().answers.contains_key(wanted)
    }

    /// What to evaluate from, by what has arrived so far. `None` until the flag has.
    pub fn resolve(&self) -> Option<Resolved> {
        let state = self.state.lock();
        state.answers.get(&self.flag)?.as_ref().ok()?;
        let mut resolved = Resolved { time_to_live: state.time_to_live, synced: state.synced, ..Resolved::default() };
        let mut bytes = 0;
        // Whether a negated clause depends on an item. An item that was first reached without one is visited again if a
        // negated clause reaches it later.
        let mut seen: HashMap<ItemKey, bool> = HashMap::new();
        let mut queue = VecDeque::from([(self.flag.clone(), false)]);
        while let Some((wanted, negated)) = queue.pop_front() {
            let before = seen.get(&wanted).copied();
            if before >= Some(negated) {
                continue;
            }
            seen.insert(wanted.clone(), negated);
            let (kind, key) = &wanted;
            let answer = state.answers.get(&wanted);
            if answer.is_none() && before.is_none() && seen.len() <= MAX_ITEMS && !self.resting.contains(&wanted) {
                resolved.open.push(wanted.clone());
            }
            let item = match answer {
                Some(Ok(item)) => item.as_ref(),
                Some(Err(_)) | None => self.known(&wanted),
            };
            let is_kept = resolved.items.get(*kind, key).is_some();
            let item = item.filter(|item| is_kept || bytes + item.json().len() <= MAX_BYTES);
            if negated && *kind == ItemKind::Segment && item.is_none_or(|segment| segment.is_big) {
                resolved.missing_under_negation.get_or_insert_with(|| wanted.clone());
            }
            if let Some(item) = item {
                if !is_kept {
                    bytes += item.json().len();
                    resolved.items.insert(*kind, key.clone(), item.clone());
                }
                let references = item.references().iter();
                queue.extend(references.map(|reference| (reference.key.clone(), negated || reference.negated)));
            } else if !matches!(answer, Some(Ok(None))) {
                resolved.unknown.insert(wanted);
            }
        }
        Some(resolved)
    }
}

impl State {
    fn begin_level(&mut self) {
        self.bytes = self.answers.values().flatten().flatten().map(|item| item.json().len()).sum();
        self.level.clear();
    }

    /// When the items of a level are too large together, the last ones by name are dropped, so that the order in which
    /// they arrive makes no difference.
    fn drop_what_does_not_fit(&mut self) {
        let mut bytes = self.bytes;
        for (wanted, size) in &self.level {
            bytes += size;
            if bytes > MAX_BYTES {
                let what = format!("the flag with its references up to {}", named(wanted));
                self.answers.insert(wanted.clone(), Err(SourceError::TooLarge { what, limit: MAX_BYTES }));
            }
        }
    }
}

fn named((kind, key): &ItemKey) -> String {
    format!("the {} {key:?}", kind.singular())
}

#[cfg(test)]
mod tests;
