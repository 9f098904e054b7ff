use super::*;
use crate::sources::Whole;
use serde_json::{Value, json};
use standins::{Data, samples};

fn clause(segments: &[&str]) -> Value {
    json!({"attribute": "key", "op": "segmentMatch", "values": segments})
}

fn flag(key: &str, prerequisites: &[&str], segments: &[&str]) -> Value {
    let mut flag = samples::flag(key, 3);
    flag["prerequisites"] = prerequisites.iter().map(|key| json!({"key": key, "variation": 0})).collect();
    flag["rules"] = json!([{"variation": 0, "trackEvents": false, "clauses": [clause(segments)]}]);
    flag
}

fn segment(key: &str, segments: &[&str]) -> Value {
    let mut segment = samples::segment(key, 1, &[]);
    segment["rules"] = json!([{"clauses": [clause(segments)]}]);
    segment
}

fn with(mut item: Value, field: &str, value: impl Into<Value>) -> Value {
    item[field] = value.into();
    item
}

async fn collected(flags: &[Value], segments: &[Value]) -> Result<Resolved, SourceError> {
    let Data { flags, segments } = samples::data(flags, segments);
    let json = json!({"flags": flags, "segments": segments}).to_string();
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
    let off = |item| with(item, "on", false);
    let malformed = |key| json!({"key": key});
    for (flags, segments, expected, unknown) in [
        (
            &[flag("a", &["b"], &["s"]), flag("b", &["c"], &[]), flag("c", &[], &["s"]), flag("x", &[], &[])][..],
            &[segment("s", &["t"]), segment("t", &[]), segment("u", &[])][..],
            "a b c s t",
            "",
        ),
        // A missing flag is an answer.
        (&[], &[], "", ""),
        // A circle goes to the SDK as it is.
        (&[flag("a", &["b"], &["s"]), flag("b", &["a"], &[])], &[segment("s", &["s"])], "a b s", ""),
        // An item that is off has no references.
        (&[off(flag("a", &["b"], &[])), flag("b", &[], &[])], &[], "a", ""),
        (&[flag("a", &["b"], &[]), off(flag("b", &[], &["s"]))], &[segment("s", &[])], "a b", ""),
        (&[flag("a", &["b"], &[]), malformed("b")], &[], "a", "b"),
    ] {
        let resolved = collected(flags, segments).await.unwrap();
        assert_eq!(keys(&resolved), (expected.to_owned(), unknown.to_owned()));
    }
    let error = collected(&[malformed("a")], &[]).await.unwrap_err().to_string();
    assert!(error.contains("the flag \"a\" cannot be read"), "{error}");
}

#[tokio::test]
async fn a_chain_without_end_is_refused() {
    let key = |n| if n == 0 { "a".to_owned() } else { format!("f{n}") };
    let flags: Vec<_> = (0..=MAX_ITEMS).map(|n| flag(&key(n), &[&key(n + 1)], &[])).collect();
    assert_eq!(keys(&collected(&flags, &[]).await.unwrap()).1, key(MAX_ITEMS));
}

#[test]
fn an_environment_without_segments_has_its_flags() {
    for json in [r#"{"flags": {}}"#, r#"{"flags": {}, "segments": null}"#] {
        assert!(Whole::parse(json, "test data").is_ok(), "{json}");
    }
}

fn answer(collection: &Collection, kind: ItemKind, item: &Value) {
    let wanted = (kind, item["key"].as_str().unwrap().to_owned());
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
        answer(&collection, ItemKind::Flag, &flag("a", &[], &sizes.map(|(key, _)| key)));
        for (key, size) in sizes {
            answer(&collection, ItemKind::Segment, &with(segment(key, &[]), "salt", "x".repeat(size)));
        }
        assert_eq!(keys(&collection.resolve().unwrap()).1, "s5 s6", "{sizes:?}");
        assert!(collection.failures().iter().all(|(_, error)| error.to_string().contains("is larger than 4194304")));
    }
}

#[test]
fn a_reference_that_failed_keeps_its_known_copy_and_its_references() {
    let mut known = Items::default();
    for (key, json) in [("s", segment("s", &["t"])), ("t", segment("t", &[]))] {
        let segment = Item::new(ItemKind::Segment, json.to_string(), None).unwrap();
        known.insert(ItemKind::Segment, key.to_owned(), segment);
    }
    let collection = Collection::new("a", Arc::new(known), BTreeSet::new());
    answer(&collection, ItemKind::Flag, &flag("a", &[], &["s", "u"]));
    collection.fail_open(&SourceError::Status { uri: "u".to_owned(), status: 500 });
    assert_eq!(keys(&collection.resolve().unwrap()), ("a s t".to_owned(), "u".to_owned()));
}

#[tokio::test]
async fn a_missing_or_big_segment_under_a_negated_clause_is_noticed_however_deep() {
    let negated = |mut item: Value| {
        item["rules"][0]["clauses"][0]["negate"] = true.into();
        item
    };
    let big = |segment| with(segment, "unbounded", true);
    let top = || flag("a", &[], &["s"]);
    let (other, deleted) = (segment("other", &[]), json!({"key": "s", "version": 2, "deleted": true}));
    let mut both = negated(flag("a", &[], &["t"]));
    both["rules"][0]["clauses"].as_array_mut().unwrap().insert(0, clause(&["s", "t"]));
    for (what, top, segment, expected) in [
        ("plain", top(), other.clone(), None),
        ("negated", negated(top()), other, Some("s")),
        ("deleted", negated(top()), deleted, Some("s")),
        ("negated above", negated(top()), segment("s", &["t"]), Some("t")),
        ("negated below", top(), negated(segment("s", &["t"])), Some("t")),
        ("big", negated(top()), big(segment("s", &[])), Some("s")),
        ("big, plain", top(), big(segment("s", &[])), None),
        ("not missing", negated(top()), segment("s", &[]), None),
        ("in two clauses", both, segment("s", &[]), Some("t")),
    ] {
        let resolved = collected(&[top], &[segment]).await.unwrap();
        assert_eq!(resolved.missing_under_negation.map(|(_, key)| key).as_deref(), expected, "{what}");
    }
}
