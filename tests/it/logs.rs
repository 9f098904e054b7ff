//! The function's lines have the fields that the queries of docs/logs.md use.

use crate::setup::{World, flag, launchdarkly};
use std::collections::BTreeSet;

/// Words of the query language, and names of a query's own results.
const NOT_FIELDS: &str = "filter stats count as by bin and or ispresent avg max min pct sort desc display";

/// The fields that the queries use.
fn queried() -> BTreeSet<String> {
    let text = include_str!("../../docs/logs.md");
    let mut fields = BTreeSet::new();
    // A query is a block without a language.
    let blocks = text.split("```").skip(1).step_by(2);
    for query in blocks.filter(|block| block.starts_with('\n')) {
        let without_texts: String = query.split('"').step_by(2).collect::<Vec<_>>().join(" ");
        let words: Vec<_> =
            without_texts.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '@')).collect();
        let own: BTreeSet<_> = words.windows(2).filter(|pair| pair[0] == "as").map(|pair| pair[1]).collect();
        for word in words {
            let is_name = word.starts_with(|c: char| c.is_ascii_lowercase());
            if is_name && !own.contains(word) && !NOT_FIELDS.split(' ').any(|other| other == word) {
                fields.insert(word.to_owned());
            }
        }
    }
    fields
}

#[tokio::test]
async fn the_lines_have_every_field_that_a_query_uses() {
    let mut world = World::new(launchdarkly(flag(1, true)).await, &[]).await;
    let mut lines = vec![world.visit("/a", "192.0.2.1").await.line];
    let mut failing = World::new(launchdarkly(serde_json::json!({"key": "rebrand"})).await, &[]).await;
    lines.push(failing.visit("/a", "192.0.2.1").await.line);
    let fields: BTreeSet<_> = lines.iter().flat_map(|line| line.as_object().unwrap().keys().cloned()).collect();
    let queried = queried();
    assert!(queried.len() >= 10, "{queried:?}");
    for field in queried {
        assert!(fields.contains(&field), "no line has {field:?}: {fields:?}");
    }
}
