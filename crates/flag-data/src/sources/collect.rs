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
    /// A segment that is missing although the result of a negated clause depends on it. The SDK takes every context
    /// for a non-member of a missing segment, so the clause would match everyone.
    pub negated: Option<ItemKey>,
    /// How long the source may serve the same data again, if it says so (LaunchDarkly's TTL setting).
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
            Ok(item) => Answer::Item(item),
            Err(why) => Answer::Failed(SourceError::Malformed { what: named(wanted), why }),
        }
    }

    /// Records when flag-sync last succeeded, by the store that was just read. The earliest counts.
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
            if let Some(item) = item {
                if !is_kept {
                    bytes += item.json().len();
                    resolved.items.insert(*kind, key.clone(), item.clone());
                }
                let references = item.references().iter();
                queue.extend(references.map(|reference| (reference.key.clone(), negated || reference.negated)));
            } else {
                if !matches!(state.answers.get(&wanted), Some(Answer::Missing)) {
                    resolved.unknown.insert(wanted.clone());
                }
                if negated && *kind == ItemKind::Segment {
                    resolved.negated.get_or_insert(wanted);
                }
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
mod tests {
    use super::*;
    use crate::sources::Whole;

    fn flag(key: &str, prerequisites: &[&str], segments: &[&str]) -> String {
        let prerequisites: Vec<_> =
            prerequisites.iter().map(|key| serde_json::json!({"key": key, "variation": 0})).collect();
        serde_json::json!({
            "key": key, "version": 3, "on": true, "targets": [], "salt": "s", "variations": [true, false],
            "fallthrough": {"variation": 0}, "offVariation": 1, "prerequisites": prerequisites,
            "rules": [{"variation": 0, "trackEvents": false, "clauses": [{"attribute": "key", "op": "segmentMatch", "values": segments}]}],
        })
        .to_string()
    }

    fn segment(key: &str, segments: &[&str]) -> String {
        serde_json::json!({
            "key": key, "version": 1, "included": [], "excluded": [], "salt": "s",
            "rules": [{"clauses": [{"attribute": "", "op": "segmentMatch", "values": segments}]}],
        })
        .to_string()
    }

    async fn collected(flags: &[(&str, String)], segments: &[(&str, String)]) -> Result<Resolved, SourceError> {
        let object = |items: &[(&str, String)]| {
            let entries: Vec<_> = items.iter().map(|(key, json)| format!("\"{key}\":{json}")).collect();
            format!("{{{}}}", entries.join(","))
        };
        let json = format!("{{\"flags\":{},\"segments\":{}}}", object(flags), object(segments));
        let collection = Collection::new("a", Arc::default(), BTreeSet::new());
        collection.read_from(&Whole::parse(&json, "test data")?).await?;
        Ok(collection.resolve().unwrap())
    }

    #[tokio::test]
    async fn a_flag_brings_what_it_names_and_nothing_else() {
        let flags = [
            ("a", flag("a", &["b"], &["s"])),
            ("b", flag("b", &["c"], &[])),
            ("c", flag("c", &[], &["s"])),
            ("other", flag("other", &[], &[])),
        ];
        let segments = [("s", segment("s", &["t"])), ("t", segment("t", &[])), ("u", segment("u", &[]))];
        let items = collected(&flags, &segments).await.unwrap().items;
        for (kind, key, expected) in [
            (ItemKind::Flag, "a", true),
            (ItemKind::Flag, "b", true),
            (ItemKind::Flag, "c", true),
            (ItemKind::Flag, "other", false),
            (ItemKind::Segment, "s", true),
            (ItemKind::Segment, "t", true),
            (ItemKind::Segment, "u", false),
        ] {
            assert_eq!(items.get(kind, key).is_some(), expected, "{kind:?} {key}");
        }
        assert_eq!(items.get(ItemKind::Flag, "a").unwrap().version(), 3);
    }

    #[tokio::test]
    async fn a_circle_ends_and_goes_to_the_sdk_as_it_is() {
        let flags = [("a", flag("a", &["b"], &[])), ("b", flag("b", &["c"], &["s"])), ("c", flag("c", &["b"], &[]))];
        let resolved = collected(&flags, &[("s", segment("s", &["s"]))]).await.unwrap();
        assert!(["a", "b", "c"].iter().all(|key| resolved.items.get(ItemKind::Flag, key).is_some()));
        assert!(resolved.unknown.is_empty());
    }

    #[tokio::test]
    async fn a_flag_that_is_off_has_no_references_nor_has_a_prerequisite_that_is_off() {
        let off = |json: String| json.replace(r#""on":true"#, r#""on":false"#);
        let flags = [("a", off(flag("a", &["b"], &["s"]))), ("b", flag("b", &[], &[]))];
        let items = collected(&flags, &[("s", segment("s", &[]))]).await.unwrap().items;
        assert!(items.get(ItemKind::Flag, "b").is_none() && items.get(ItemKind::Segment, "s").is_none());
        let flags = [("a", flag("a", &["b"], &[])), ("b", off(flag("b", &[], &["s"])))];
        let items = collected(&flags, &[("s", segment("s", &[]))]).await.unwrap().items;
        assert!(items.get(ItemKind::Flag, "b").is_some() && items.get(ItemKind::Segment, "s").is_none());
    }

    #[tokio::test]
    async fn a_malformed_flag_is_named_and_a_malformed_prerequisite_does_not_hinder() {
        let error = collected(&[("a", r#"{"key":"a"}"#.to_owned())], &[]).await.unwrap_err().to_string();
        assert!(error.contains("the flag \"a\" cannot be read"), "{error}");
        let flags = [("a", flag("a", &["b"], &[])), ("b", "7".to_owned())];
        let resolved = collected(&flags, &[]).await.unwrap();
        assert!(resolved.items.get(ItemKind::Flag, "a").is_some());
        assert_eq!(resolved.unknown, BTreeSet::from([(ItemKind::Flag, "b".to_owned())]));
    }

    #[tokio::test]
    async fn a_chain_without_end_is_refused() {
        let flags: Vec<_> = (0..=MAX_ITEMS)
            .map(|n| (if n == 0 { "a".to_owned() } else { format!("f{n}") }, flag("x", &[&format!("f{}", n + 1)], &[])))
            .collect();
        let flags: Vec<_> = flags.iter().map(|(key, json)| (key.as_str(), json.clone())).collect();
        let resolved = collected(&flags, &[]).await.unwrap();
        assert_eq!(resolved.unknown, BTreeSet::from([(ItemKind::Flag, format!("f{MAX_ITEMS}"))]));
    }

    #[tokio::test]
    async fn a_missing_flag_is_an_answer() {
        assert!(collected(&[], &[]).await.unwrap().items.get(ItemKind::Flag, "a").is_none());
    }

    /// A reader whose items arrive in the given order.
    struct InOrder(Vec<(&'static str, usize)>);

    impl Reader for InOrder {
        async fn read(&self, wanted: &[ItemKey], collection: &Collection) -> Result<(), SourceError> {
            if let [(ItemKind::Flag, _)] = wanted {
                let keys: Vec<_> = self.0.iter().map(|(key, _)| *key).collect();
                collection.answer(&wanted[0], Read::Found { json: flag("a", &[], &keys), etag: None });
                return Ok(());
            }
            for (key, size) in &self.0 {
                let filler = "x".repeat(*size);
                let json = segment(key, &[]).replacen('{', &format!(r#"{{"filler":"{filler}","#), 1);
                collection.answer(&(ItemKind::Segment, (*key).to_owned()), Read::Found { json, etag: None });
            }
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_is_too_much_is_the_same_in_whatever_order_it_arrives() {
        let sizes = [("s1", 900_000), ("s2", 900_000), ("s3", 900_000), ("s4", 900_000), ("s5", 900_000), ("s6", 10)];
        for turn in 0..sizes.len() {
            let mut order = sizes.to_vec();
            order.rotate_left(turn);
            if turn % 2 == 1 {
                order.reverse();
            }
            let collection = Collection::new("a", Arc::default(), BTreeSet::new());
            collection.read_from(&InOrder(order.clone())).await.unwrap();
            let resolved = collection.resolve().unwrap();
            let unknown: Vec<_> = resolved.unknown.iter().map(|(_, key)| key.as_str()).collect();
            assert_eq!(unknown, ["s5", "s6"], "{order:?}");
            assert!(collection.failures().iter().all(|(_, error)| error.to_string().contains("has more than 4194304")));
        }
    }

    #[test]
    fn a_reference_that_failed_keeps_its_known_copy_and_its_references() {
        let item = |kind, json: String| Item::new(kind, json, None).unwrap();
        let mut known = Items::default();
        known.insert(ItemKind::Segment, "s".to_owned(), item(ItemKind::Segment, segment("s", &["t"])));
        known.insert(ItemKind::Segment, "t".to_owned(), item(ItemKind::Segment, segment("t", &[])));
        let collection = Collection::new("a", Arc::new(known), BTreeSet::new());
        let top = (ItemKind::Flag, "a".to_owned());
        collection.answer(&top, Read::Found { json: flag("a", &[], &["s", "u"]), etag: None });
        let error = SourceError::Status { uri: "u".to_owned(), status: 500 };
        collection.fail_open(&error);
        let resolved = collection.resolve().unwrap();
        assert!(["s", "t"].iter().all(|key| resolved.items.get(ItemKind::Segment, key).is_some()));
        assert_eq!(resolved.unknown, BTreeSet::from([(ItemKind::Segment, "u".to_owned())]));
    }

    #[tokio::test]
    async fn a_missing_segment_under_a_negated_clause_is_noticed_however_deep() {
        let negate = |json: String| json.replace(r#""op":"segmentMatch""#, r#""negate":true,"op":"segmentMatch""#);
        for (what, top, segments, expected) in [
            ("plain", flag("a", &[], &["s"]), vec![], None),
            ("negated", negate(flag("a", &[], &["s"])), vec![], Some("s")),
            ("negated above", negate(flag("a", &[], &["s"])), vec![("s", segment("s", &["t"]))], Some("t")),
            ("negated below", flag("a", &[], &["s"]), vec![("s", negate(segment("s", &["t"])))], Some("t")),
            ("not missing", negate(flag("a", &[], &["s"])), vec![("s", segment("s", &[]))], None),
        ] {
            let resolved = collected(&[("a", top)], &segments).await.unwrap();
            assert_eq!(resolved.negated.map(|(_, key)| key).as_deref(), expected, "{what}");
        }
        // In one clause and in another that is negated.
        let both = flag("a", &[], &["s", "t"]).replace(r#""rules":["#, r#""rules":[{"variation":0,"trackEvents":false,"clauses":[{"attribute":"key","op":"segmentMatch","values":["t"],"negate":true}]},"#);
        let resolved = collected(&[("a", both)], &[("s", segment("s", &[]))]).await.unwrap();
        assert_eq!(resolved.negated, Some((ItemKind::Segment, "t".to_owned())));
    }
}
