//! Where flag data comes from. Nothing else in the program knows.

mod bundled;
mod launchdarkly;
#[cfg(any(feature = "dynamodb", feature = "redis"))]
mod store;

pub use bundled::{Bundled, Package};
pub use launchdarkly::LaunchDarkly;
pub(crate) use launchdarkly::retry_after;
#[cfg(any(feature = "dynamodb", feature = "redis"))]
pub use store::StoreSource;

use crate::flags::{Item, Items};
use futures_util::future::BoxFuture;
use launchdarkly_server_sdk::{Flag, Segment};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::{Borrow, Cow};
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

/// A place that has flag data.
pub trait FlagSource: Send + Sync {
    /// Its name in the log.
    fn name(&self) -> &'static str;

    /// Whether its data can change while the function runs.
    fn changes(&self) -> bool {
        true
    }

    /// Fetches a flag and what it names: its prerequisites, and the segments of its rules and of theirs.
    ///
    /// `known` is what was fetched last, so that a source can ask for changes only.
    fn fetch<'a>(&'a self, flag_key: &'a str, known: Option<&'a Items>) -> BoxFuture<'a, Result<Fetched, SourceError>>;
}

/// What a fetch brought.
#[derive(Debug)]
pub struct Fetched {
    /// The flag and what it names.
    pub items: Items,
    /// How long the source may serve the same data again, when it says so (LaunchDarkly's TTL setting).
    pub time_to_live: Option<Duration>,
    /// When flag-sync last succeeded, where the source is a store that it fills.
    pub synced: Option<SystemTime>,
}

/// Why a source gave no data.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SourceError {
    #[error("{uri} was not reached: {why}")]
    Unreachable { uri: String, why: String },
    #[error(
        "{uri} refused the SDK key (HTTP {status}): check that LAUNCHDARKLY_SDK_KEY is the SDK key of the environment \
         that has the flag"
    )]
    Refused { uri: String, status: u16 },
    #[error("{uri} asks to be left alone for {wait:?} (HTTP 429)")]
    Throttled { uri: String, wait: Duration },
    #[error("{uri} answered HTTP {status}")]
    Status { uri: String, status: u16 },
    #[error("{what} cannot be read: {why}")]
    Malformed { what: String, why: String },
    #[cfg(any(feature = "dynamodb", feature = "redis"))]
    #[error(transparent)]
    Store(#[from] crate::stores::StoreError),
    #[error("the flag data names itself in a circle: {0}")]
    Circle(String),
    #[error("the flag names more than {0} other flags and segments")]
    TooMany(usize),
}

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
    /// As LaunchDarkly's addresses and data name it.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Flag => "flags",
            Self::Segment => "segments",
        }
    }

    /// As a sentence names one.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Segment => "segment",
        }
    }
}

/// An item that a flag needs.
pub type Wanted = (ItemKind, String);

/// What a reader says of a wanted item.
enum Read {
    Found {
        json: String,
        etag: Option<String>,
    },
    /// The known one still holds.
    Unchanged,
    Missing,
}

impl Read {
    fn bytes(&self) -> usize {
        match self {
            Self::Found { json, .. } => json.len(),
            Self::Unchanged | Self::Missing => 0,
        }
    }
}

/// Reads the items of one level at a time.
trait Reader: Sync {
    fn read(
        &self,
        wanted: &[Wanted],
        known: Option<&Items>,
    ) -> impl Future<Output = Result<Vec<Read>, SourceError>> + Send;
}

/// What is kept in memory and read anew at each evaluation, in bytes. More would cost every viewer too much.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// More items than any real flag names; bounds what a circle or a mistake can cost.
const MOST_ITEMS: usize = 500;

/// Follows the flag's references, level by level, each level in one read.
async fn collect(reader: &impl Reader, flag_key: &str, known: Option<&Items>) -> Result<Items, SourceError> {
    let mut items = Items::default();
    let mut references: HashMap<Wanted, BTreeSet<Wanted>> = HashMap::new();
    let mut level = vec![(ItemKind::Flag, flag_key.to_owned())];
    let mut bytes = 0;
    while !level.is_empty() {
        if references.len() + level.len() > MOST_ITEMS {
            return Err(SourceError::TooMany(MOST_ITEMS));
        }
        let answers = reader.read(&level, known).await?;
        bytes += answers.iter().map(Read::bytes).sum::<usize>();
        if bytes > MOST_BYTES {
            return Err(SourceError::Malformed {
                what: format!("the flag {flag_key:?} with what it names"),
                why: format!("it has more than {MOST_BYTES} bytes"),
            });
        }
        for (wanted, answer) in level.drain(..).zip(answers) {
            let (kind, key) = &wanted;
            let item = match answer {
                Read::Missing => None,
                Read::Unchanged => known.and_then(|known| known.get(*kind, key)).cloned(),
                Read::Found { json, etag } => match Item::new(*kind, json, etag) {
                    Ok(item) => Some(item),
                    Err(why) => {
                        let what = format!("the {} {key:?}", kind.singular());
                        let error = SourceError::Malformed { what, why };
                        if *kind == ItemKind::Flag && key == flag_key {
                            return Err(error);
                        }
                        // The flag itself can still be evaluated: the SDK treats this one as missing.
                        log::warn!("{error}");
                        None
                    }
                },
            };
            references.insert(wanted.clone(), item.as_ref().map(|item| referred(item.json())).unwrap_or_default());
            if let Some(item) = item {
                items.insert(*kind, key.clone(), item);
            }
        }
        let new: BTreeSet<_> =
            references.values().flatten().filter(|wanted| !references.contains_key(wanted)).collect();
        level = new.into_iter().cloned().collect();
    }
    refuse_circles(&references, (ItemKind::Flag, flag_key.to_owned()))?;
    Ok(items)
}

/// What an item names. The parts of LaunchDarkly's model that matter for it; anything else is left to the SDK.
fn referred(json: &str) -> BTreeSet<Wanted> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Model {
        prerequisites: Vec<Prerequisite>,
        rules: Vec<Rule>,
    }
    #[derive(Deserialize)]
    struct Prerequisite {
        key: String,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Rule {
        clauses: Vec<Clause>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Clause {
        op: String,
        values: Vec<serde_json::Value>,
    }
    let model: Model = serde_json::from_str(json).unwrap_or_default();
    let prerequisites = model.prerequisites.into_iter().map(|flag| (ItemKind::Flag, flag.key));
    let clauses = model.rules.into_iter().flat_map(|rule| rule.clauses);
    let segments = clauses.filter(|clause| clause.op == "segmentMatch").flat_map(|clause| clause.values);
    let keys = segments.filter_map(|value| value.as_str().map(|key| (ItemKind::Segment, key.to_owned())));
    prerequisites.chain(keys).collect()
}

/// Walks the references depth first; an item that is met while it is being walked closes a circle.
fn refuse_circles(references: &HashMap<Wanted, BTreeSet<Wanted>>, start: Wanted) -> Result<(), SourceError> {
    let mut done: BTreeSet<Wanted> = BTreeSet::new();
    let mut path: Vec<(Wanted, Vec<Wanted>)> = Vec::new();
    let of = |wanted: &Wanted| references.get(wanted).into_iter().flatten().cloned().collect::<Vec<_>>();
    let first = of(&start);
    path.push((start, first));
    while let Some((_, open)) = path.last_mut() {
        match open.pop() {
            None => done.extend(path.pop().map(|(walked, _)| walked)),
            Some(next) if done.contains(&next) => {}
            Some(next) => {
                if path.iter().any(|(walked, _)| *walked == next) {
                    let keys = path.iter().map(|((_, key), _)| key.as_str()).chain([next.1.as_str()]);
                    return Err(SourceError::Circle(keys.collect::<Vec<_>>().join(" -> ")));
                }
                let open = of(&next);
                path.push((next, open));
            }
        }
    }
    Ok(())
}

/// Whether the SDK can read an item, so that a malformed one is told by name when it arrives and not at each decision.
pub(crate) fn check(kind: ItemKind, json: &str) -> Result<(), serde_json::Error> {
    match kind {
        ItemKind::Flag => serde_json::from_str::<Flag>(json).map(drop),
        ItemKind::Segment => serde_json::from_str::<Segment>(json).map(drop),
    }
}

/// Flag data that is at hand as a whole: LaunchDarkly's `{"flags": {..}, "segments": {..}}`.
#[derive(Deserialize)]
struct Whole<'a> {
    #[serde(borrow)]
    flags: HashMap<Key<'a>, &'a RawValue>,
    #[serde(borrow, default)]
    segments: HashMap<Key<'a>, &'a RawValue>,
}

/// A key that is copied only if it has escapes.
#[derive(Deserialize, PartialEq, Eq, Hash)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl Borrow<str> for Key<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'a> Whole<'a> {
    fn parse(json: &'a str, what: &str) -> Result<Self, SourceError> {
        serde_json::from_str(json)
            .map_err(|error| SourceError::Malformed { what: what.to_owned(), why: error.to_string() })
    }
}

#[cfg(feature = "sync")]
impl Whole<'_> {
    fn to_stored(&self) -> crate::stores::Everything {
        use crate::stores::{Everything, Stored};
        let stored = |items: &HashMap<Key<'_>, &RawValue>| {
            items.iter().map(|(Key(key), json)| (key.to_string(), Stored::parse(json.get().to_owned()))).collect()
        };
        Everything { flags: stored(&self.flags), segments: stored(&self.segments) }
    }
}

impl Reader for Whole<'_> {
    async fn read(&self, wanted: &[Wanted], _known: Option<&Items>) -> Result<Vec<Read>, SourceError> {
        let read = |(kind, key): &Wanted| {
            let items = match kind {
                ItemKind::Flag => &self.flags,
                ItemKind::Segment => &self.segments,
            };
            let json = items.get(key.as_str()).map(|raw| raw.get().to_owned());
            json.map_or(Read::Missing, |json| Read::Found { json, etag: None })
        };
        Ok(wanted.iter().map(read).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    async fn collected(flags: &[(&str, String)], segments: &[(&str, String)]) -> Result<Items, SourceError> {
        let object = |items: &[(&str, String)]| {
            let entries: Vec<_> = items.iter().map(|(key, json)| format!("\"{key}\":{json}")).collect();
            format!("{{{}}}", entries.join(","))
        };
        let json = format!("{{\"flags\":{},\"segments\":{}}}", object(flags), object(segments));
        collect(&Whole::parse(&json, "test data")?, "a", None).await
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
        let items = collected(&flags, &segments).await.unwrap();
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
    async fn a_circle_is_refused_by_name() {
        let flags = [("a", flag("a", &["b"], &[])), ("b", flag("b", &["c"], &[])), ("c", flag("c", &["b"], &[]))];
        let error = collected(&flags, &[]).await.unwrap_err().to_string();
        assert!(error.contains("a -> b -> c -> b"), "{error}");
        let flags = [("a", flag("a", &[], &["s"]))];
        let error = collected(&flags, &[("s", segment("s", &["s"]))]).await.unwrap_err().to_string();
        assert!(error.contains("s -> s"), "{error}");
    }

    #[tokio::test]
    async fn two_ways_to_one_item_are_no_circle() {
        let flags = [("a", flag("a", &["b", "c"], &[])), ("b", flag("b", &["c"], &[])), ("c", flag("c", &[], &[]))];
        assert!(collected(&flags, &[]).await.is_ok());
    }

    #[tokio::test]
    async fn a_malformed_flag_is_named_and_a_malformed_prerequisite_does_not_hinder() {
        let error = collected(&[("a", r#"{"key":"a"}"#.to_owned())], &[]).await.unwrap_err().to_string();
        assert!(error.contains("the flag \"a\" cannot be read"), "{error}");
        let flags = [("a", flag("a", &["b"], &[])), ("b", "7".to_owned())];
        let items = collected(&flags, &[]).await.unwrap();
        assert!(items.get(ItemKind::Flag, "a").is_some());
        assert!(items.get(ItemKind::Flag, "b").is_none());
    }

    #[tokio::test]
    async fn a_chain_without_end_is_refused() {
        let flags: Vec<_> = (0..=MOST_ITEMS)
            .map(|n| (if n == 0 { "a".to_owned() } else { format!("f{n}") }, flag("x", &[&format!("f{}", n + 1)], &[])))
            .collect();
        let flags: Vec<_> = flags.iter().map(|(key, json)| (key.as_str(), json.clone())).collect();
        assert!(matches!(collected(&flags, &[]).await, Err(SourceError::TooMany(_))));
    }

    #[tokio::test]
    async fn a_missing_flag_is_no_error() {
        assert!(collected(&[], &[]).await.unwrap().get(ItemKind::Flag, "a").is_none());
    }
}
