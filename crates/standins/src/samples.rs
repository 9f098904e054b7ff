//! Flags and segments as LaunchDarkly sends them.

#![allow(clippy::missing_panics_doc, clippy::unwrap_used, clippy::indexing_slicing)] // A test fails by panicking.

use crate::Data;
use serde_json::{Map, Value, json};

/// A boolean flag, on, 50/50.
pub fn flag(key: &str, version: u64) -> Value {
    json!({
        "key": key, "version": version, "on": true, "salt": format!("salt of {key}"), "prerequisites": [], "targets": [],
        "rules": [], "variations": [true, false], "offVariation": 1,
        "fallthrough": {"rollout": {"kind": "rollout", "variations": [
            {"variation": 0, "weight": 50_000}, {"variation": 1, "weight": 50_000},
        ]}},
        "fieldOfTomorrow": {"z": 1, "a": 2},
    })
}

/// A segment with members.
pub fn segment(key: &str, version: u64, included: &[&str]) -> Value {
    json!({"key": key, "version": version, "included": included, "excluded": [], "salt": "s", "rules": []})
}

/// An environment of them.
pub fn data(flags: &[Value], segments: &[Value]) -> Data {
    let by_key = |items: &[Value]| -> Map<String, Value> {
        items.iter().map(|item| (item["key"].as_str().unwrap().to_owned(), item.clone())).collect()
    };
    Data { flags: by_key(flags), segments: by_key(segments) }
}

/// `rebrand`, which asks another flag and, for some, a segment first.
pub fn rebrand() -> Data {
    let mut rebrand = flag("rebrand", 11);
    rebrand["prerequisites"] = json!([{"key": "site-is-up", "variation": 0}]);
    rebrand["rules"] = json!([
        {"id": "r", "variation": 1, "trackEvents": false, "clauses": [
            {"attribute": "", "op": "segmentMatch", "values": ["staff"], "negate": false},
        ]},
    ]);
    let mut site_is_up = flag("site-is-up", 3);
    site_is_up["fallthrough"] = json!({"variation": 0});
    data(&[rebrand, site_is_up, flag("unrelated", 1)], &[segment("staff", 2, &["192.0.2.1", "192.0.2.4"])])
}
