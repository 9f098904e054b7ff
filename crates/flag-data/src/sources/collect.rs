//! One fetch: from a flag's key to the flag and its references (prerequisites, and the segments of rules), level by
//! level; and what to evaluate from when only a part of it arrived.

use super::SourceError;
use crate::items::{Item, ItemKey, ItemKind, Items};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The most that is kept of a flag and its references, as JSON. The function has 128 MB.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The largest reference that is kept: a segment of 60,000 addresses fits. The flag itself may be larger: nothing but
/// the flag being out of reach may hold up the kill switch.
const MAX_REFERENCE_BYTES: usize = 1024 * 1024;

/// The most items that a flag may need, itself included.
const MAX_ITEMS: usize = 500;

/// What a source returns for a wanted item.
pub(super) enum Read {
    Found {
        json: String,
        etag: Option<String>,
    },
    /// The known copy is still current.
    Unchanged,
    Missing,
    Failed(SourceError),
}

/// Reads the items of one level, and hands each to [`Collection::answer`] as soon as it has arrived, so that what has
/// arrived counts when the rest does not come in time. `Err` means that none of the level can be read.
pub(super) trait Reader: Sync {
    fn read(&self, wanted: &[ItemKey], collection: &Collection)
    -> impl Future<Output = Result<(), SourceError>> + Send;
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
    /// The size of all answers together.
    bytes: usize,
    /// The items of the current level. When all together are too large, the last ones by name are dropped, so that the
    /// order in which they arrive makes no difference.
    level: BTreeSet<ItemKey>,
    /// The first by name that was dropped: what comes after it does not fit either.
    first_dropped: Option<ItemKey>,
    time_to_live: Option<Duration>,
    synced: Option<SystemTime>,
}

enum Answer {
    Item(Item),
    Missing,
    Failed(SourceError),
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
    pub negated: Option<ItemKey>,
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

    /// The key of the flag.
    pub fn flag_key(&self) -> &str {
        &self.flag.1
    }

    /// The last known copy of an item.
    pub(super) fn known(&self, (kind, key): &ItemKey) -> Option<&Item> {
        self.known.get(*kind, key)
    }

    /// Reads the flag, then what it refers to, then what that refers to, until nothing is missing that can be had.
    /// Fails only if the flag itself cannot be read.
    pub(super) async fn read_from(&self, reader: &impl Reader) -> Result<(), SourceError> {
        reader.read(std::slice::from_ref(&self.flag), self).await?;
        if let Some(error) = self.flag_failure() {
            return Err(error);
        }
        loop {
            let level = self.resolve().map(|resolved| resolved.open).unwrap_or_default();
            if level.is_empty() {
                return Ok(());
            }
            {
                let mut state = self.state.lock();
                state.level.clear();
                state.first_dropped = None;
            }
            if let Err(error) = reader.read(&level, self).await {
                self.fail_open(&error);
            }
        }
    }

    fn flag_failure(&self) -> Option<SourceError> {
        match self.state.lock().answers.get(&self.flag) {
            Some(Answer::Failed(error)) => Some(error.clone()),
            Some(_) => None,
            None => Some(SourceError::Malformed { what: named(&self.flag), why: "it was not answered".to_owned() }),
        }
    }

    /// Records what a source returned for an item.
    pub(super) fn answer(&self, wanted: &ItemKey, read: Read) {
        let answer = match read {
            Read::Missing => Answer::Missing,
            Read::Unchanged => match self.known(wanted) {
                Some(known) => Answer::Item(known.clone()),
                None => Answer::Missing,
            },
            Read::Failed(error) => Answer::Failed(error),
            Read::Found { json, etag } => self.found(wanted, json, etag),
        };
        let mut state = self.state.lock();
        if let Answer::Item(item) = &answer {
            state.bytes += item.json().len();
            state.level.insert(wanted.clone());
        }
        state.answers.insert(wanted.clone(), answer);
        state.drop_what_does_not_fit(wanted);
    }

    fn found(&self, wanted: &ItemKey, json: String, etag: Option<String>) -> Answer {
        let limit = if *wanted == self.flag { MAX_BYTES } else { MAX_REFERENCE_BYTES };
        if json.len() > limit {
            return Answer::Failed(too_large(wanted, limit));
        }
        match Item::new(wanted.0, json, etag) {
            Ok(item) if item.is_deleted() => Answer::Missing,
            Ok(item) => Answer::Item(item),
            Err(why) => Answer::Failed(SourceError::Malformed { what: named(wanted), why }),
        }
    }

    /// Records when flag-sync last succeeded, by the store that was just read. The earliest counts.
    #[cfg(any(feature = "dynamodb", feature = "redis"))]
    pub(super) fn synced(&self, synced: Option<SystemTime>) {
        let mut state = self.state.lock();
        state.synced = match (state.synced, synced) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }

    /// Records how long the source may serve an answer again. The longest counts.
    pub(super) fn time_to_live(&self, time_to_live: Option<Duration>) {
        let mut state = self.state.lock();
        state.time_to_live = state.time_to_live.max(time_to_live);
    }

    /// Ends the fetch early: what is open has failed.
    pub fn fail_open(&self, error: &SourceError) {
        let open = self.resolve().map(|resolved| resolved.open).unwrap_or_default();
        for wanted in open {
            self.answer(&wanted, Read::Failed(error.clone()));
        }
    }

    /// Whether the flag itself has arrived, or is known not to exist.
    pub fn has_flag(&self) -> bool {
        matches!(self.state.lock().answers.get(&self.flag), Some(Answer::Item(_) | Answer::Missing))
    }

    /// The references that failed, and why, among those that were asked for.
    pub fn failures(&self) -> Vec<(ItemKey, SourceError)> {
        let state = self.state.lock();
        let failures = state.answers.iter().filter_map(|(wanted, answer)| match answer {
            Answer::Failed(error) => Some((wanted.clone(), error.clone())),
            Answer::Item(_) | Answer::Missing => None,
        });
        failures.collect()
    }

    /// Whether an item is one that this fetch did not ask for because it failed before.
    pub fn is_resting(&self, wanted: &ItemKey) -> bool {
        self.resting.contains(wanted) && !self.state.lock().answers.contains_key(wanted)
    }

    /// What to evaluate from, by what has arrived so far. `None` until the flag has.
    pub fn resolve(&self) -> Option<Resolved> {
        if !self.has_flag() {
            return None;
        }
        let state = self.state.lock();
        let mut resolved = Resolved { time_to_live: state.time_to_live, synced: state.synced, ..Resolved::default() };
        let mut bytes = 0;
        // Whether a negated clause depends on an item; one that was seen without is seen again.
        let mut seen: HashMap<ItemKey, bool> = HashMap::new();
        let mut queue = VecDeque::from([(self.flag.clone(), false)]);
        while let Some((wanted, negated)) = queue.pop_front() {
            let before = seen.get(&wanted).copied();
            if before == Some(true) || (before.is_some() && !negated) {
                continue;
            }
            let is_allowed = before.is_some() || seen.len() < MAX_ITEMS;
            if is_allowed {
                seen.insert(wanted.clone(), negated);
            }
            let (kind, key) = &wanted;
            let item = match state.answers.get(&wanted) {
                Some(Answer::Item(item)) => Some(item),
                Some(Answer::Missing) => None,
                Some(Answer::Failed(_)) => self.known(&wanted),
                None => {
                    if is_allowed && before.is_none() && !self.resting.contains(&wanted) {
                        resolved.open.push(wanted.clone());
                    }
                    self.known(&wanted)
                }
            };
            let is_kept = resolved.items.get(*kind, key).is_some();
            let item = item.filter(|_| is_allowed);
            let item = item.filter(|item| is_kept || bytes + item.json().len() <= MAX_BYTES);
            if negated && *kind == ItemKind::Segment && item.is_none_or(Item::is_big_segment) {
                resolved.negated.get_or_insert_with(|| wanted.clone());
            }
            if let Some(item) = item {
                if !is_kept {
                    bytes += item.json().len();
                    resolved.items.insert(*kind, key.clone(), item.clone());
                }
                let references = item.references().iter();
                queue.extend(references.map(|reference| (reference.key.clone(), negated || reference.negated)));
            } else if !matches!(state.answers.get(&wanted), Some(Answer::Missing)) {
                resolved.unknown.insert(wanted);
            }
        }
        Some(resolved)
    }
}

impl State {
    fn drop_what_does_not_fit(&mut self, arrived: &ItemKey) {
        if self.first_dropped.as_ref().is_some_and(|first| first < arrived) {
            self.drop_item(arrived);
        }
        while self.bytes > MAX_BYTES {
            let Some(last) = self.level.last().cloned() else { return };
            self.drop_item(&last);
            self.first_dropped = Some(last);
        }
    }

    fn drop_item(&mut self, wanted: &ItemKey) {
        self.level.remove(wanted);
        let Some(answer) = self.answers.get_mut(wanted) else { return };
        if let Answer::Item(item) = answer {
            self.bytes -= item.json().len();
            let what = format!("the flag with its references up to the {} {:?}", wanted.0.singular(), wanted.1);
            *answer = Answer::Failed(SourceError::TooLarge { what, limit: MAX_BYTES });
        }
    }
}

fn named((kind, key): &ItemKey) -> String {
    format!("the {} {key:?}", kind.singular())
}

fn too_large(wanted: &ItemKey, limit: usize) -> SourceError {
    SourceError::TooLarge { what: named(wanted), limit }
}

#[cfg(test)]
mod tests;
