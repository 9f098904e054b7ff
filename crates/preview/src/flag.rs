//! The flag as the control page sets it and shows it.

use anyhow::{Result, ensure};
use redirect::visitor::is_id;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The flag of the repository, from which the stand-in's is made: the same salt, so the same viewers.
const OFFLINE_FLAGS: &str = include_str!("../../../src/flags/offline-flags.json");

/// What a person sets on the control page.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FlagSetting {
    pub on: bool,
    /// The share of the default rule that sees the new site.
    pub new_site_percent: f64,
    pub targets: Vec<Target>,
}

/// A visitor who always sees one of the sites.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    key: String,
    sees_new_site: bool,
}

/// Checks that a visitor can have this key: the value of the visitor cookie, or without one an IP address.
pub(super) fn check_key(key: &str, visitor_cookie: &str) -> Result<()> {
    if visitor_cookie.is_empty() {
        ensure!(key.parse::<IpAddr>().is_ok(), "{key:?} is not an IP address: write it as 192.0.2.1 or 2001:db8::1");
    } else {
        ensure!(is_id(key), "{key:?} is not an id: write 1 to 128 letters, digits, '.', '_' and '-'");
    }
    Ok(())
}

impl FlagSetting {
    /// Checks that the flag can be set like this.
    pub(super) fn check(&self, visitor_cookie: &str) -> Result<()> {
        let percent = self.new_site_percent;
        ensure!((0.0..=100.0).contains(&percent), "{percent} % is not a share of the visitors: choose 0 to 100");
        let mut seen = BTreeSet::new();
        for Target { key, .. } in &self.targets {
            check_key(key, visitor_cookie)?;
            ensure!(seen.insert(key), "{key} is targeted twice: remove it first");
        }
        Ok(())
    }

    /// The flag in LaunchDarkly's format.
    pub(super) fn flag(&self, key: &str, version: u64) -> Value {
        let offline: Value = serde_json::from_str(OFFLINE_FLAGS).unwrap_or_default();
        let mut flag = offline.pointer("/flags/rebrand").cloned().unwrap_or_default();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Checked to be from 0 to 100.
        let weight = (self.new_site_percent * 1_000.0) as u32;
        let target = |sees_new_site, variation| {
            let targets = self.targets.iter().filter(|target| target.sees_new_site == sees_new_site);
            let keys: Vec<_> = targets.map(|target| &target.key).collect();
            json!({ "contextKind": "user", "values": keys, "variation": variation })
        };
        let changes = json!({
            "key": key,
            "version": version,
            "on": self.on,
            "targets": [target(true, 0), target(false, 1)],
            "fallthrough": { "rollout": { "contextKind": "user", "variations": [
                { "variation": 0, "weight": weight },
                { "variation": 1, "weight": 100_000 - weight },
            ] } },
        });
        if let (Some(flag), Value::Object(changes)) = (flag.as_object_mut(), changes) {
            flag.extend(changes);
        }
        flag
    }
}

/// A flag as the control page shows it, also one that it did not set.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct FlagView {
    pub version: u64,
    #[serde(flatten)]
    pub setting: FlagSetting,
    /// How many rules come before the default one.
    pub rules: usize,
}

impl FlagView {
    /// Reads a flag in LaunchDarkly's format. A field that is absent counts as empty.
    pub(super) fn read(flag: &Value) -> Self {
        let list = |of: &Value, pointer| of.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
        let is_new = |of: &Value| {
            let variation = of.get("variation").and_then(|index| flag.pointer(&format!("/variations/{index}")));
            variation == Some(&Value::Bool(true))
        };
        let shares = list(flag, "/fallthrough/rollout/variations");
        let new = shares.iter().filter(|share| is_new(share)).filter_map(|share| share.get("weight")?.as_f64());
        let is_new_for_all = flag.get("fallthrough").is_some_and(is_new);
        let new_site_percent = if is_new_for_all { 100.0 } else { new.sum::<f64>() / 1_000.0 };
        let targets = list(flag, "/targets").into_iter().flat_map(|target| {
            let sees_new_site = is_new(&target);
            let keys = list(&target, "/values").into_iter();
            keys.filter_map(move |key| Some(Target { key: key.as_str()?.to_owned(), sees_new_site }))
        });
        let on = flag.get("on") == Some(&Value::Bool(true));
        Self {
            version: flag.get("version").and_then(Value::as_u64).unwrap_or_default(),
            setting: FlagSetting { on, new_site_percent, targets: targets.collect() },
            rules: list(flag, "/rules").len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(key: &str, sees_new_site: bool) -> Target {
        Target { key: key.to_owned(), sees_new_site }
    }

    #[test]
    fn what_is_set_is_shown() {
        let targets = vec![target("192.0.2.1", true), target("2001:db8::1", false)];
        let setting = FlagSetting { on: true, new_site_percent: 37.0, targets };
        setting.check("").unwrap();
        assert_eq!(FlagView::read(&setting.flag("rebrand", 7)), FlagView { version: 7, setting, rules: 0 });
    }

    #[test]
    fn a_flag_that_was_set_elsewhere_is_read() {
        let view = FlagView::read(&json!({
            "version": 3, "on": false, "variations": [false, true], "rules": [{}, {}],
            "fallthrough": {"variation": 1}, "targets": [{"values": ["192.0.2.1"], "variation": 0}],
        }));
        assert_eq!((view.setting.new_site_percent, view.rules), (100.0, 2));
        assert_eq!(view.setting.targets, [target("192.0.2.1", false)]);
    }

    #[test]
    fn what_cannot_be_set_is_named() {
        let (yes, no) = (target("192.0.2.1", true), target("192.0.2.1", false));
        for (new_site_percent, targets, expected) in [
            (101.0, vec![], "101 % is not a share of the visitors: choose 0 to 100"),
            (5.0, vec![target("me", true)], "\"me\" is not an IP address: write it as 192.0.2.1 or 2001:db8::1"),
            (5.0, vec![yes, no], "192.0.2.1 is targeted twice: remove it first"),
        ] {
            let error = FlagSetting { on: true, new_site_percent, targets }.check("").unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        check_key("me", "visitor").unwrap();
        let error = check_key("2001:db8::1", "visitor").unwrap_err();
        assert!(error.to_string().contains("is not an id"), "{error}");
    }
}
