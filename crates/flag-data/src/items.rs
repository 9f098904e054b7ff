//! Flags and segments: their keys, their JSON and its references, and how a store holds them.

use launchdarkly_server_sdk::{Flag, Segment, SerializedItem};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A flag or a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ItemKind {
    /// A feature flag.
    Flag,
    /// A segment.
    Segment,
}

impl ItemKind {
    /// Its name in messages and, with an s, in LaunchDarkly's addresses.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Segment => "segment",
        }
    }
}

/// The kind of an item and its key.
pub type ItemKey = (ItemKind, String);

/// A flag or a segment, as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    json: Arc<str>,
    version: u64,
    /// Whether it is a tombstone.
    pub(crate) is_deleted: bool,
    /// Whether it is a big segment, whose members are not in its JSON: to the SDK it has none.
    /// <https://launchdarkly.com/docs/home/flags/segments-big>
    pub(crate) is_big: bool,
    /// The entity tag it was served with.
    pub(crate) etag: Option<String>,
    references: Arc<[Reference]>,
}

/// What an item refers to: a flag to its prerequisites, and both flags and segments to the segments of their rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// The flag or segment.
    pub key: ItemKey,
    /// Whether a negated clause refers to it.
    pub negated: bool,
}

/// The parts of LaunchDarkly's model that matter for what an item refers to; anything else is left to the SDK. Any of
/// them may be absent or null: Go's tombstones have null lists.
#[derive(Deserialize)]
struct Model {
    version: Option<u64>,
    deleted: Option<bool>,
    on: Option<bool>,
    prerequisites: Option<Vec<Prerequisite>>,
    rules: Option<Vec<Rule>>,
    unbounded: Option<bool>,
}

#[derive(Deserialize)]
struct Prerequisite {
    key: String,
}

#[derive(Deserialize)]
struct Rule {
    clauses: Option<Vec<Clause>>,
}

#[derive(Deserialize)]
struct Clause {
    op: Option<String>,
    values: Option<Vec<Value>>,
    negate: Option<bool>,
}

impl Model {
    /// A flag that is off refers to nothing: its off variation is served whatever its rules say.
    fn references(self) -> BTreeSet<Reference> {
        if self.deleted == Some(true) || self.on == Some(false) {
            return BTreeSet::new();
        }
        let prerequisites = self.prerequisites.into_iter().flatten();
        let prerequisites = prerequisites.map(|flag| Reference { key: (ItemKind::Flag, flag.key), negated: false });
        let clauses = self.rules.into_iter().flatten().filter_map(|rule| rule.clauses).flatten();
        let segments = clauses.filter(|clause| clause.op.as_deref() == Some("segmentMatch")).flat_map(|clause| {
            let negated = clause.negate == Some(true);
            let keys = clause.values.into_iter().flatten().filter_map(|value| value.as_str().map(str::to_owned));
            keys.map(move |key| Reference { key: (ItemKind::Segment, key), negated })
        });
        prerequisites.chain(segments).collect()
    }
}

/// Reads an item's model. The SDK must be able to read the item too, unless it is a tombstone, so that a malformed one is
/// reported by name when it arrives and not at each decision.
fn read(kind: ItemKind, json: &str) -> serde_json::Result<Model> {
    let model: Model = serde_json::from_str(json)?;
    match kind {
        _ if model.deleted == Some(true) => {}
        ItemKind::Flag => drop(serde_json::from_str::<Flag>(json)?),
        ItemKind::Segment => drop(serde_json::from_str::<Segment>(json)?),
    }
    Ok(model)
}

/// A flag that is off, reduced to the fields that the SDK can read, so that a malformed field cannot keep a flag on. Only
/// its off variation counts then; if that is unreadable too, it has none. Other SDKs read a null `on` as off.
fn switched_off(kind: ItemKind, json: &str) -> Option<(String, Model)> {
    let flag: Map<String, Value> = serde_json::from_str(json).ok().filter(|_| kind == ItemKind::Flag)?;
    if !matches!(flag.get("on")?, Value::Bool(false) | Value::Null) {
        return None;
    }
    let field = |name: &str| flag.get(name).cloned().unwrap_or_default();
    let (key, version) = (flag.get("key")?, field("version").as_u64().unwrap_or_default());
    let off_variations = [(field("variations"), field("offVariation")), (json!([]), Value::Null)];
    off_variations.into_iter().find_map(|(variations, off_variation)| {
        let json = json!({
            "key": key, "version": version, "on": false, "targets": [], "rules": [], "prerequisites": [],
            "fallthrough": {}, "variations": variations, "offVariation": off_variation, "salt": "",
        });
        let json = json.to_string();
        let model = read(kind, &json).ok()?;
        Some((json, model))
    })
}

impl Item {
    /// Accepts an item's JSON as it was served. A flag that is off is accepted also if the SDK cannot read all of it.
    ///
    /// # Errors
    /// Why the SDK could not read it.
    pub fn new(kind: ItemKind, json: String, etag: Option<String>) -> Result<Self, String> {
        let (json, model) = match read(kind, &json) {
            Ok(model) => (json, model),
            Err(error) => switched_off(kind, &json).ok_or_else(|| error.to_string())?,
        };
        Ok(Self {
            json: json.into(),
            version: model.version.unwrap_or_default(),
            is_deleted: model.deleted == Some(true),
            is_big: kind == ItemKind::Segment && model.unbounded == Some(true),
            etag,
            references: model.references().into_iter().collect(),
        })
    }

    /// What it refers to, as far as an evaluation can depend on it.
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// The item's JSON.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Its version in LaunchDarkly.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// As a persistent data store of the SDK returns it.
    pub fn serialized(&self) -> SerializedItem {
        SerializedItem { version: self.version, deleted: self.is_deleted, serialized_item: self.json.to_string() }
    }
}

/// Flags and segments by their keys: a flag and its references, or everything in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Items<T = Item> {
    pub flags: HashMap<String, T>,
    pub segments: HashMap<String, T>,
}

/// Everything that a store holds, or is to hold.
pub type Everything = Items<Stored>;

impl<T> Default for Items<T> {
    fn default() -> Self {
        Self { flags: HashMap::new(), segments: HashMap::new() }
    }
}

impl<T> Items<T> {
    /// The item of a key.
    pub fn get(&self, kind: ItemKind, key: &str) -> Option<&T> {
        self.of(kind).get(key)
    }

    /// The items of a kind.
    pub fn of(&self, kind: ItemKind) -> &HashMap<String, T> {
        match kind {
            ItemKind::Flag => &self.flags,
            ItemKind::Segment => &self.segments,
        }
    }

    /// The kinds in the order in which they are written: a flag comes after the segments that it refers to.
    pub fn kinds(&self) -> [(ItemKind, &HashMap<String, T>); 2] {
        [(ItemKind::Segment, &self.segments), (ItemKind::Flag, &self.flags)]
    }

    /// Adds an item.
    pub fn insert(&mut self, kind: ItemKind, key: String, item: T) {
        match kind {
            ItemKind::Flag => self.flags.insert(key, item),
            ItemKind::Segment => self.segments.insert(key, item),
        };
    }
}

/// What a row of a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A flag or a segment.
    Live,
    /// A tombstone: the item was deleted, and older versions of it must not come back.
    Deleted,
    /// Something that is not the JSON of an item.
    Malformed,
}

/// A flag or a segment, or its tombstone, as a store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its version in LaunchDarkly.
    pub version: u64,
    /// What it is.
    pub state: State,
    /// The JSON, verbatim.
    pub json: String,
}

impl Stored {
    /// Reads an item or a tombstone of any SDK: Rust's and Go's have the key `$deleted`, Node's has none in Redis and
    /// its own in DynamoDB; each has `deleted` and `version`.
    pub fn parse(json: String) -> Self {
        #[derive(Deserialize)]
        struct Model {
            version: u64,
            #[serde(default)]
            deleted: bool,
        }
        let (version, state) = match serde_json::from_str(&json) {
            Ok(Model { version, deleted: false }) => (version, State::Live),
            Ok(Model { version, deleted: true }) => (version, State::Deleted),
            Err(_) => (0, State::Malformed),
        };
        Self { version, state, json }
    }

    /// A tombstone, as the Rust SDK writes it.
    pub fn tombstone(version: u64) -> Self {
        let json = format!(r#"{{"version":{version},"key":"$deleted","deleted":true}}"#);
        Self { version, state: State::Deleted, json }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_and_every_dialect_of_tombstones_are_read() {
        for (json, version, state) in [
            (r#"{"key":"a","version":3,"on":true}"#, 3, State::Live),
            (r#"{"key":"a","version":3,"deleted":false}"#, 3, State::Live),
            (r#"{"version":4,"key":"$deleted","deleted":true}"#, 4, State::Deleted),
            (r#"{"key":"$deleted","on":false,"variations":[],"version":4,"deleted":true}"#, 4, State::Deleted),
            (r#"{"key":"a","version":4,"deleted":true}"#, 4, State::Deleted),
            (r#"{"version":4,"deleted":true}"#, 4, State::Deleted),
            ("", 0, State::Malformed),
            (r#"{"key":"a"}"#, 0, State::Malformed),
        ] {
            assert_eq!(Stored::parse(json.to_owned()), Stored { version, state, json: json.to_owned() });
        }
        assert_eq!(Stored::parse(Stored::tombstone(7).json), Stored::tombstone(7));
    }

    #[test]
    fn a_flag_that_is_off_needs_nothing_else_that_can_be_read() {
        for (field, value, off_variation) in [
            ("salt", json!("s"), Some(json!(1))),
            ("on", Value::Null, Some(json!(1))),
            ("version", json!("four"), Some(json!(1))),
            ("fallthrough", Value::Null, Some(json!(1))),
            ("variations", Value::Null, Some(Value::Null)),
            ("offVariation", json!("second"), Some(Value::Null)),
            ("on", json!(true), None),
            ("on", json!("false"), None),
            ("key", Value::Null, None),
        ] {
            let mut flag = json!({
                "key": "a", "version": 4, "on": false, "targets": [], "rules": [{"clauses": 7}], "prerequisites": [],
                "variations": [true, false], "offVariation": 1, "fallthrough": {"variation": 0}, "salt": "s",
            });
            flag[field] = value;
            let item = Item::new(ItemKind::Flag, flag.to_string(), None).ok();
            let read = item.map(|item| {
                assert!(item.references().is_empty());
                let flag: Value = serde_json::from_str(item.json()).unwrap();
                (flag["on"].clone(), flag["offVariation"].clone())
            });
            assert_eq!(read, off_variation.map(|variation| (json!(false), variation)), "{flag}");
        }
        assert!(Item::new(ItemKind::Segment, r#"{"key":"a","on":false}"#.to_owned(), None).is_err());
        assert!(Item::new(ItemKind::Flag, r#"{"key":"a","version":2}"#.to_owned(), None).is_err());
    }
}
