//! How a store differs from LaunchDarkly.

use flag_data::items::{Everything, ItemKind, State, Stored};
use flag_data::sources::{LaunchDarkly, SourceError};
use flag_data::stores::{Marks, Store, StoreError};
use launchdarkly_server_sdk::{Flag, Segment};
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::SystemTime;

/// Up to this size, a store may change as a whole without confirmation.
const MAX_SMALL_STORE: usize = 10;

/// Why a comparison failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ReadError {
    #[error("flag data not fetched: {0}")]
    Source(#[from] SourceError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the store has instead of LaunchDarkly's item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

impl Difference {
    /// The name in JSON and in the table of `flag-sync check`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Older => "older",
            Self::Newer => "newer",
            Self::Changed => "changed",
            Self::Deleted => "deleted",
            Self::Gone => "gone",
            Self::Malformed => "malformed",
        }
    }

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

impl Serialize for Difference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
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
    /// Whether a write only adds: the store has an older version, or nothing usable.
    pub(crate) fn rises(&self) -> bool {
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
    /// When LaunchDarkly was requested.
    pub(crate) requested: SystemTime,
    /// The store's marks.
    pub marks: Marks,
    /// In the order of their writes: segments before the flags that refer to them, deletions last.
    pub differences: Vec<Differing>,
}

impl Comparison {
    /// Reads both.
    ///
    /// # Errors
    /// Either was not read.
    pub async fn make(store: &impl Store, launchdarkly: &LaunchDarkly) -> Result<Self, ReadError> {
        let marks = store.read(&[]).await?.marks;
        let (segments, flags) = futures_util::try_join!(store.all(ItemKind::Segment), store.all(ItemKind::Flag))?;
        let before = Everything { flags, segments };
        let requested = SystemTime::now();
        let new = launchdarkly.everything().await?;
        let differences = differences(&before, &new);
        Ok(Self { before, new, requested, marks, differences })
    }

    /// How many flags and segments LaunchDarkly has.
    pub fn counts(&self) -> (usize, usize) {
        (self.new.flags.len(), self.new.segments.len())
    }

    /// What a run would take from the store.
    pub fn losses(&self) -> Losses {
        let items = self.before.kinds().into_iter().flat_map(|(_, items)| items.values());
        Losses {
            items: items.filter(|item| item.state == State::Live).count(),
            lost: self.differences.iter().filter(|differing| self.loses(differing)).count(),
        }
    }

    /// Whether a write removes an item from the store. A tombstone is not a loss.
    pub(crate) fn loses(&self, differing: &Differing) -> bool {
        !differing.rises() && self.stored(differing).is_some_and(|item| item.state == State::Live)
    }

    pub(crate) fn stored(&self, differing: &Differing) -> Option<&Stored> {
        self.before.of(differing.kind).get(&differing.key)
    }

    pub(crate) fn launchdarkly(&self, differing: &Differing) -> Option<&Stored> {
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
    /// Whether a person has to confirm them.
    pub fn is_mass_change(self) -> bool {
        self.items > MAX_SMALL_STORE && self.lost > self.items / 2
    }
}

fn differences(before: &Everything, new: &Everything) -> Vec<Differing> {
    let mut written = Vec::new();
    let mut deleted = Vec::new();
    for ((kind, before), (_, new)) in before.kinds().into_iter().zip(new.kinds()) {
        // Sorted by key, for the reader of a table.
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
    // A segment is deleted after the flags that referred to it.
    deleted.sort_by_key(|differing| differing.kind);
    written.extend(deleted);
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

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
        // The dialects of other SDKs and of the Relay Proxy.
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
        // Texts that the SDK cannot read.
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
    fn a_segment_is_written_before_and_deleted_after_the_flags_that_refer_to_it() {
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
