use super::*;
use crate::sources::Whole;
use serde_json::{Map, Value, json};

type Entry = (String, Value);

fn clause(segments: &[&str]) -> Value {
    json!({"attribute": "key", "op": "segmentMatch", "values": segments, "negate": false})
}

fn flag(key: &str, prerequisites: &[&str], segments: &[&str]) -> Entry {
    let prerequisites: Vec<_> = prerequisites.iter().map(|key| json!({"key": key, "variation": 0})).collect();
    let rules = json!([{"variation": 0, "trackEvents": false, "clauses": [clause(segments)]}]);
    let flag = json!({
        "key": key, "version": 3, "on": true, "targets": [], "salt": "s", "variations": [true, false],
        "fallthrough": {"variation": 0}, "offVariation": 1, "prerequisites": prerequisites, "rules": rules,
    });
    (key.to_owned(), flag)
}

fn segment(key: &str, segments: &[&str]) -> Entry {
    let segment = json!({
        "key": key, "version": 1, "included": [], "excluded": [], "salt": "s", "unbounded": false,
        "rules": [{"clauses": [clause(segments)]}],
    });
    (key.to_owned(), segment)
}

/// The same item with another value of one field.
fn with((key, mut item): Entry, pointer: &str, value: impl Into<Value>) -> Entry {
    *item.pointer_mut(pointer).unwrap() = value.into();
    (key, item)
}

async fn collected(
    flags: impl IntoIterator<Item = Entry>,
    segments: impl IntoIterator<Item = Entry>,
) -> Result<Resolved, SourceError> {
    let json = json!({"flags": Map::from_iter(flags), "segments": Map::from_iter(segments)}).to_string();
    let collection = Collection::new("a", Arc::default(), BTreeSet::new());
    collection.read_from(&Whole::parse(&json, "test data")?).await?;
    Ok(collection.resolve().unwrap())
}

fn keys(resolved: &Resolved) -> Vec<&str> {
    let items = &resolved.items;
    let keys: BTreeSet<_> = items.flags.keys().chain(items.segments.keys()).map(String::as_str).collect();
    keys.into_iter().collect()
}

#[tokio::test]
async fn a_flag_brings_its_references_and_nothing_else() {
    let flags = [flag("a", &["b"], &["s"]), flag("b", &["c"], &[]), flag("c", &[], &["s"]), flag("other", &[], &[])];
    let segments = [segment("s", &["t"]), segment("t", &[]), segment("u", &[])];
    let resolved = collected(flags, segments).await.unwrap();
    assert_eq!(keys(&resolved), ["a", "b", "c", "s", "t"]);
    assert_eq!(resolved.items.get(ItemKind::Flag, "a").unwrap().version(), 3);
}

#[tokio::test]
async fn a_circle_ends_and_goes_to_the_sdk_as_it_is() {
    let flags = [flag("a", &["b"], &[]), flag("b", &["c"], &["s"]), flag("c", &["b"], &[])];
    let resolved = collected(flags, [segment("s", &["s"])]).await.unwrap();
    assert_eq!(keys(&resolved), ["a", "b", "c", "s"]);
    assert!(resolved.unknown.is_empty());
}

#[tokio::test]
async fn a_flag_that_is_off_has_no_references_nor_has_a_prerequisite_that_is_off() {
    let off = |entry| with(entry, "/on", false);
    let (top, prerequisite) = (flag("a", &["b"], &[]), flag("b", &[], &["s"]));
    for (flags, expected) in [
        ([top.clone(), prerequisite.clone()], &["a", "b", "s"][..]),
        ([off(top.clone()), prerequisite.clone()], &["a"]),
        ([top, off(prerequisite)], &["a", "b"]),
    ] {
        assert_eq!(keys(&collected(flags, [segment("s", &[])]).await.unwrap()), expected);
    }
}

#[tokio::test]
async fn a_malformed_flag_is_named_and_a_malformed_prerequisite_does_not_hinder() {
    let error = collected([("a".to_owned(), json!({"key": "a"}))], []).await.unwrap_err().to_string();
    assert!(error.contains("the flag \"a\" cannot be read"), "{error}");
    let resolved = collected([flag("a", &["b"], &[]), ("b".to_owned(), json!(7))], []).await.unwrap();
    assert_eq!(keys(&resolved), ["a"]);
    assert_eq!(resolved.unknown, BTreeSet::from([(ItemKind::Flag, "b".to_owned())]));
}

#[tokio::test]
async fn a_chain_without_end_is_refused() {
    let key = |n| if n == 0 { "a".to_owned() } else { format!("f{n}") };
    let flags = (0..=MAX_ITEMS).map(|n| flag(&key(n), &[&key(n + 1)], &[]));
    let resolved = collected(flags, []).await.unwrap();
    assert_eq!(resolved.unknown, BTreeSet::from([(ItemKind::Flag, key(MAX_ITEMS))]));
}

#[tokio::test]
async fn an_environment_without_segments_has_its_flags() {
    let (_, flag) = flag("a", &[], &[]);
    for environment in [json!({"flags": {"a": flag}}), json!({"flags": {"a": flag}, "segments": null})] {
        let collection = Collection::new("a", Arc::default(), BTreeSet::new());
        collection.read_from(&Whole::parse(&environment.to_string(), "test data").unwrap()).await.unwrap();
        assert_eq!(keys(&collection.resolve().unwrap()), ["a"], "{environment}");
    }
}

#[tokio::test]
async fn a_missing_flag_is_an_answer() {
    assert!(keys(&collected([], []).await.unwrap()).is_empty());
}

/// Segments of these sizes, which arrive in this order, and a flag that refers to them.
struct InOrder(Vec<(&'static str, usize)>);

impl Reader for InOrder {
    async fn read(&self, wanted: &[ItemKey], collection: &Collection) {
        let answer = |wanted: &ItemKey, item: &Value| {
            collection.answer(wanted, collection.parse(wanted, Some(item.to_string()), None));
        };
        if let [top @ (ItemKind::Flag, _)] = wanted {
            let keys: Vec<_> = self.0.iter().map(|(key, _)| *key).collect();
            answer(top, &flag("a", &[], &keys).1);
            return;
        }
        for (key, size) in &self.0 {
            let (key, segment) = with(segment(key, &[]), "/salt", "x".repeat(*size));
            answer(&(ItemKind::Segment, key), &segment);
        }
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
    let mut known = Items::default();
    for (key, segment) in [segment("s", &["t"]), segment("t", &[])] {
        known.insert(ItemKind::Segment, key, Item::new(ItemKind::Segment, segment.to_string(), None).unwrap());
    }
    let collection = Collection::new("a", Arc::new(known), BTreeSet::new());
    let (key, top) = flag("a", &[], &["s", "u"]);
    let key = (ItemKind::Flag, key);
    collection.answer(&key, collection.parse(&key, Some(top.to_string()), None));
    collection.fail_open(&SourceError::Status { uri: "u".to_owned(), status: 500 });
    let resolved = collection.resolve().unwrap();
    assert_eq!(keys(&resolved), ["a", "s", "t"]);
    assert_eq!(resolved.unknown, BTreeSet::from([(ItemKind::Segment, "u".to_owned())]));
}

#[tokio::test]
async fn a_missing_or_big_segment_under_a_negated_clause_is_noticed_however_deep() {
    let negated = |entry| with(entry, "/rules/0/clauses/0/negate", true);
    let big = |entry| with(entry, "/unbounded", true);
    let top = || flag("a", &[], &["s"]);
    let deleted = ("s".to_owned(), json!({"version": 2, "deleted": true}));
    let other = ("other".to_owned(), json!(null));
    // In a plain clause first.
    let (_, mut both) = flag("a", &[], &["s", "t"]);
    let mut clauses = [clause(&["s", "t"]), clause(&["t"])];
    clauses[1]["negate"] = true.into();
    both["rules"][0]["clauses"] = clauses.into_iter().collect();
    for (what, top, segment, expected) in [
        ("plain", top(), other.clone(), None),
        ("negated", negated(top()), other, Some("s")),
        ("deleted", negated(top()), deleted, Some("s")),
        ("negated above", negated(top()), segment("s", &["t"]), Some("t")),
        ("negated below", top(), negated(segment("s", &["t"])), Some("t")),
        ("big", negated(top()), big(segment("s", &[])), Some("s")),
        ("big, plain", top(), big(segment("s", &[])), None),
        ("not missing", negated(top()), segment("s", &[]), None),
        ("in two clauses", ("a".to_owned(), both), segment("s", &[]), Some("t")),
    ] {
        let resolved = collected([top], [segment]).await.unwrap();
        assert_eq!(resolved.negated.map(|(_, key)| key).as_deref(), expected, "{what}");
    }
}
