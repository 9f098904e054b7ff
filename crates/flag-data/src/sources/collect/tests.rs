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

/// The keys of the items, and of what is unknown.
fn keys(resolved: &Resolved) -> (String, String) {
    let items: BTreeSet<_> = resolved.items.kinds().into_iter().flat_map(|(_, items)| items.keys().cloned()).collect();
    let unknown: Vec<_> = resolved.unknown.iter().map(|(_, key)| key.as_str()).collect();
    (Vec::from_iter(items).join(" "), unknown.join(" "))
}

#[tokio::test]
async fn a_flag_brings_its_references_and_nothing_else() {
    let off = |entry| with(entry, "/on", false);
    let malformed = |key: &str| (key.to_owned(), json!(7));
    for (flags, segments, expected, unknown) in [
        (
            vec![flag("a", &["b"], &["s"]), flag("b", &["c"], &[]), flag("c", &[], &["s"]), flag("x", &[], &[])],
            vec![segment("s", &["t"]), segment("t", &[]), segment("u", &[])],
            "a b c s t",
            "",
        ),
        // A missing flag is an answer.
        (vec![], vec![], "", ""),
        // A circle goes to the SDK as it is.
        (vec![flag("a", &["b"], &["s"]), flag("b", &["a"], &[])], vec![segment("s", &["s"])], "a b s", ""),
        // An item that is off has no references.
        (vec![off(flag("a", &["b"], &[])), flag("b", &[], &[])], vec![], "a", ""),
        (vec![flag("a", &["b"], &[]), off(flag("b", &[], &["s"]))], vec![segment("s", &[])], "a b", ""),
        (vec![flag("a", &["b"], &[]), malformed("b")], vec![], "a", "b"),
    ] {
        let resolved = collected(flags, segments).await.unwrap();
        assert_eq!(keys(&resolved), (expected.to_owned(), unknown.to_owned()));
    }
    let error = collected([malformed("a")], []).await.unwrap_err().to_string();
    assert!(error.contains("the flag \"a\" cannot be read"), "{error}");
}

#[tokio::test]
async fn a_chain_without_end_is_refused() {
    let key = |n| if n == 0 { "a".to_owned() } else { format!("f{n}") };
    let flags = (0..=MAX_ITEMS).map(|n| flag(&key(n), &[&key(n + 1)], &[]));
    assert_eq!(keys(&collected(flags, []).await.unwrap()).1, key(MAX_ITEMS));
}

#[test]
fn an_environment_without_segments_has_its_flags() {
    for json in [r#"{"flags": {}}"#, r#"{"flags": {}, "segments": null}"#] {
        assert!(Whole::parse(json, "test data").is_ok(), "{json}");
    }
}

fn answer(collection: &Collection, kind: ItemKind, (key, item): Entry) {
    let wanted = (kind, key);
    collection.answer(&wanted, collection.parse(&wanted, Some(item.to_string()), None));
}

#[test]
fn what_is_too_much_is_the_same_in_whatever_order_it_arrives() {
    let mut sizes = [("s1", 900_000), ("s2", 900_000), ("s3", 900_000), ("s4", 900_000), ("s5", 900_000), ("s6", 10)];
    for turn in 0..sizes.len() {
        sizes.rotate_left(turn);
        if turn % 2 == 1 {
            sizes.reverse();
        }
        let collection = Collection::new("a", Arc::default(), BTreeSet::new());
        answer(&collection, ItemKind::Flag, flag("a", &[], &sizes.map(|(key, _)| key)));
        for (key, size) in sizes {
            answer(&collection, ItemKind::Segment, with(segment(key, &[]), "/salt", "x".repeat(size)));
        }
        assert_eq!(keys(&collection.resolve().unwrap()).1, "s5 s6", "{sizes:?}");
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
    answer(&collection, ItemKind::Flag, flag("a", &[], &["s", "u"]));
    collection.fail_open(&SourceError::Status { uri: "u".to_owned(), status: 500 });
    assert_eq!(keys(&collection.resolve().unwrap()), ("a s t".to_owned(), "u".to_owned()));
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
