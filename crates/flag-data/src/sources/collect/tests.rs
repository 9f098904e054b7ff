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
async fn an_environment_without_segments_has_its_flags() {
    for rest in ["", r#","segments":{}"#, r#","segments":null"#] {
        let json = format!(r#"{{"flags":{{"a":{}}}{rest}}}"#, flag("a", &[], &[]));
        let collection = Collection::new("a", Arc::default(), BTreeSet::new());
        collection.read_from(&Whole::parse(&json, "test data").unwrap()).await.unwrap();
        assert!(collection.resolve().unwrap().items.get(ItemKind::Flag, "a").is_some(), "{rest}");
    }
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
async fn a_missing_or_big_segment_under_a_negated_clause_is_noticed_however_deep() {
    let negate = |json: String| json.replace(r#""op":"segmentMatch""#, r#""negate":true,"op":"segmentMatch""#);
    let big = |json: String| json.replacen('{', r#"{"unbounded":true,"#, 1);
    for (what, top, segments, expected) in [
        ("plain", flag("a", &[], &["s"]), vec![], None),
        ("negated", negate(flag("a", &[], &["s"])), vec![], Some("s")),
        (
            "deleted",
            negate(flag("a", &[], &["s"])),
            vec![("s", r#"{"version":2,"deleted":true}"#.to_owned())],
            Some("s"),
        ),
        ("negated above", negate(flag("a", &[], &["s"])), vec![("s", segment("s", &["t"]))], Some("t")),
        ("negated below", flag("a", &[], &["s"]), vec![("s", negate(segment("s", &["t"])))], Some("t")),
        ("big", negate(flag("a", &[], &["s"])), vec![("s", big(segment("s", &[])))], Some("s")),
        ("big, plain", flag("a", &[], &["s"]), vec![("s", big(segment("s", &[])))], None),
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
