//! How a store differs from LaunchDarkly.

use flag_data::items::{Everything, ItemKind, State, Stored};
use flag_data::sources::{LaunchDarkly, SourceError};
use flag_data::stores::{Marks, Store};
use launchdarkly_server_sdk::{Flag, Segment};
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use std::time::SystemTime;

/// Up to this size, a store may change as a whole without confirmation.
const MAX_SMALL_STORE: usize = 10;

/// What the store has instead of LaunchDarkly's item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Difference {
    /// Nothing.
    Missing,
    /// An older version.
    Older,
    /// A newer version.
    Newer,
    /// Other content of the same version.
    Changed,
    /// A tombstone.
    Deleted,
    /// An item that LaunchDarkly no longer has.
    Gone,
    /// A text that is not an item.
    Malformed,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl Difference {
    fn between(kind: ItemKind, store: Option<&Stored>, launchdarkly: Option<&Stored>) -> Option<Self> {
        match (store, launchdarkly) {
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

/// Whether two texts are the same item to LaunchDarkly's SDK. SDKs of other languages and the Relay Proxy write other
/// spaces, another order, explicit defaults, and drop fields that they do not know. A flag or segment that was created
/// again is another item, if only by its salt.
fn has_same_content(kind: ItemKind, one: &str, other: &str) -> bool {
    fn model<T: DeserializeOwned + Serialize>(json: &str) -> Option<Value> {
        serde_json::to_value(serde_json::from_str::<T>(json).ok()?).ok()
    }
    let read = match kind {
        ItemKind::Flag => model::<Flag>,
        ItemKind::Segment => model::<Segment>,
    };
    one == other
        || match (read(one), read(other)) {
            // The SDK can read neither.
            (None, None) => model::<Value>(one) == model::<Value>(other),
            (one, other) => one == other,
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
    /// LaunchDarkly's item; in JSON its version.
    #[serde(serialize_with = "version")]
    pub launchdarkly: Option<Stored>,
    /// The store's item; in JSON its version.
    #[serde(serialize_with = "version")]
    pub store: Option<Stored>,
}

#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn version<S: Serializer>(item: &Option<Stored>, serializer: S) -> Result<S::Ok, S::Error> {
    item.as_ref().map(|item| item.version).serialize(serializer)
}

impl Differing {
    /// Whether a write only adds: the store has an older version, or nothing usable.
    pub(crate) fn rises(&self) -> bool {
        match (&self.store, &self.launchdarkly) {
            (_, None) => false,
            (None | Some(Stored { state: State::Malformed, .. }), Some(_)) => true,
            (Some(stored), Some(new)) => stored.version < new.version,
        }
    }

    /// Whether a write removes an item from the store. A tombstone is not a loss.
    pub(crate) fn is_loss(&self) -> bool {
        !self.rises() && self.store.as_ref().is_some_and(|item| item.state == State::Live)
    }

    /// When it is written: a segment before the flags that refer to it, and a deletion the other way round.
    pub(crate) fn step(&self) -> u8 {
        match (&self.launchdarkly, self.kind) {
            (Some(_), ItemKind::Segment) => 0,
            (Some(_), ItemKind::Flag) => 1,
            (None, ItemKind::Flag) => 2,
            (None, ItemKind::Segment) => 3,
        }
    }
}

/// LaunchDarkly and the store side by side.
#[derive(Debug)]
pub struct Comparison {
    /// How many flags LaunchDarkly has.
    pub flags: usize,
    /// How many segments LaunchDarkly has.
    pub segments: usize,
    /// How many flags and segments the store has.
    pub stored: usize,
    /// When LaunchDarkly was requested, after the store was read.
    pub requested: SystemTime,
    /// The store's marks.
    pub marks: Marks,
    /// In the order of their writes.
    pub differences: Vec<Differing>,
}

impl Comparison {
    /// Reads both, and fails if either cannot be read.
    pub async fn make(store: &impl Store, launchdarkly: &LaunchDarkly) -> Result<Self, SourceError> {
        let marks = store.read(&[]).await?.marks;
        let (segments, flags) = futures_util::try_join!(store.all(ItemKind::Segment), store.all(ItemKind::Flag))?;
        let requested = SystemTime::now();
        let new = launchdarkly.everything().await?;
        Ok(Self {
            flags: new.flags.len(),
            segments: new.segments.len(),
            stored: flags.values().chain(segments.values()).filter(|item| item.state == State::Live).count(),
            requested,
            marks,
            differences: differences(Everything { flags, segments }, new),
        })
    }

    /// How many items of the store a run would delete, or replace at the same or a lower version.
    pub fn losses(&self) -> usize {
        self.differences.iter().filter(|differing| differing.is_loss()).count()
    }
}

/// Whether a person has to confirm these losses of a store of so many items.
pub fn is_mass_change(items: usize, losses: usize) -> bool {
    items > MAX_SMALL_STORE && losses > items / 2
}

fn differences(stored: Everything, new: Everything) -> Vec<Differing> {
    let mut differences = Vec::new();
    for (kind, mut stored, mut new) in
        [(ItemKind::Flag, stored.flags, new.flags), (ItemKind::Segment, stored.segments, new.segments)]
    {
        // Sorted by key, for the reader of a table.
        let keys: BTreeSet<String> = stored.keys().chain(new.keys()).cloned().collect();
        differences.extend(keys.into_iter().filter_map(|key| {
            let (store, launchdarkly) = (stored.remove(&key), new.remove(&key));
            let difference = Difference::between(kind, store.as_ref(), launchdarkly.as_ref())?;
            Some(Differing { kind, key, difference, launchdarkly, store })
        }));
    }
    differences.sort_by_key(Differing::step);
    differences
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::HashMap;

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
    fn check_same(kind: ItemKind, one: &str, other: &str, expected: bool) {
        for (one, other) in [(one, other), (other, one)] {
            assert_eq!(has_same_content(kind, one, other), expected, "{one} and {other}");
        }
    }

    #[test]
    fn content_is_what_the_sdk_reads() {
        let flag = json!({
            "key": "a", "version": 3, "on": true, "salt": "s", "targets": [], "rules": [], "prerequisites": [],
            "variations": [true, false], "offVariation": 1,
            "fallthrough": {"rollout": {"variations": [{"variation": 0, "weight": 100_000}]}},
        });
        for (field, value, expected) in [
            // The dialects of other SDKs and of the Relay Proxy.
            ("deleted", json!(false), true),
            ("trackEvents", json!(false), true),
            ("debugEventsUntilDate", Value::Null, true),
            ("fieldOfTomorrow", json!(1), true),
            ("fallthrough", json!({"rollout": {"variations": [{"variation": 0, "weight": 100_000.0}]}}), true),
            ("on", json!(false), false),
            ("salt", json!("another"), false),
            ("offVariation", json!(0), false),
            ("offVariation", Value::Null, false),
            ("fallthrough", json!({"variation": 0}), false),
            ("variations", json!([false, true]), false),
            ("trackEvents", json!(true), false),
            ("version", json!(4), false),
            ("rules", json!(7), false),
        ] {
            let mut other = flag.clone();
            other[field] = value;
            check_same(ItemKind::Flag, &flag.to_string(), &other.to_string(), expected);
        }
        let segment = r#"{"key":"s","version":1,"included":["x"],"excluded":[],"rules":[],"salt":"s"}"#;
        check_same(ItemKind::Segment, segment, &segment.replace(':', ": "), true);
        check_same(ItemKind::Segment, segment, &segment.replace("\"x\"", ""), false);
        // Texts that the SDK cannot read.
        check_same(ItemKind::Flag, r#"{"version":1,"a":2}"#, r#"{"a":2,"version":1}"#, true);
        check_same(ItemKind::Flag, r#"{"version":1}"#, r#"{"version":1,"on":true}"#, false);
    }

    #[test]
    fn more_than_half_of_more_than_ten_is_a_mass_change() {
        for (items, losses, expected) in [(10, 10, false), (11, 5, false), (11, 6, true), (12, 6, false), (12, 7, true)]
        {
            assert_eq!(is_mass_change(items, losses), expected, "{losses} of {items}");
        }
    }

    #[test]
    fn a_segment_is_written_before_and_deleted_after_the_flags_that_refer_to_it() {
        let items = |keys: &[&str]| -> HashMap<String, Stored> {
            keys.iter().map(|key| ((*key).to_owned(), version(1))).collect()
        };
        let stored = Everything { flags: items(&["old-flag"]), segments: items(&["old-segment", "s"]) };
        let new = Everything { flags: items(&["b", "a"]), segments: items(&["new-segment", "s"]) };
        let order: Vec<_> = differences(stored, new).into_iter().map(|differing| differing.key).collect();
        assert_eq!(order, ["new-segment", "a", "b", "old-flag", "old-segment"]);
    }
}
