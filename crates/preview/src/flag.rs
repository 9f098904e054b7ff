//! The flag as the control page sets it and shows it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The flag of the repository, from which the stand-in's is made: the same salt, so the same viewers.
const OFFLINE_FLAGS: &str = include_str!("../../../src/flags/offline-flags.json");

/// What a person sets on the control page.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    on: bool,
    new_site_percent: u8,
    targets: Vec<Target>,
}

/// An address that always sees one of the sites.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    address: String,
    sees_new_site: bool,
}

/// Why a flag cannot be set like this.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub(super) enum WantedError {
    #[error("{0} % is more than all visitors: choose 0 to 100")]
    Percent(u8),
    #[error("{0:?} is no IP address: write it as 192.0.2.1 or 2001:db8::1")]
    NoAddress(String),
    #[error("{0} is targeted twice: remove it first")]
    Twice(String),
}

impl Wanted {
    /// On for half the viewers, as the release template of LaunchDarkly's experiments has it.
    pub(super) fn half() -> Self {
        Self { on: true, new_site_percent: 50, targets: Vec::new() }
    }

    pub(super) fn check(&self) -> Result<(), WantedError> {
        if self.new_site_percent > 100 {
            return Err(WantedError::Percent(self.new_site_percent));
        }
        let mut seen = BTreeSet::new();
        for Target { address, .. } in &self.targets {
            if address.parse::<IpAddr>().is_err() {
                return Err(WantedError::NoAddress(address.clone()));
            }
            if !seen.insert(address) {
                return Err(WantedError::Twice(address.clone()));
            }
        }
        Ok(())
    }

    /// The flag in LaunchDarkly's format.
    pub(super) fn flag(&self, key: &str, version: u64) -> Value {
        let offline: Value = serde_json::from_str(OFFLINE_FLAGS).unwrap_or_default();
        let mut flag = offline.pointer("/flags/rebrand").cloned().unwrap_or_default();
        let weight = u32::from(self.new_site_percent) * 1_000;
        let target = |sees_new_site, variation| {
            let addresses = self.targets.iter().filter(|target| target.sees_new_site == sees_new_site);
            let addresses: Vec<_> = addresses.map(|target| &target.address).collect();
            json!({ "contextKind": "user", "values": addresses, "variation": variation })
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

/// What the control page shows of a flag, also of one that it did not set.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Shown {
    pub version: u64,
    pub on: bool,
    /// The share of the default rule that sees the new site.
    pub new_site_percent: f64,
    pub targets: Vec<Target>,
    /// How many rules come before the default one.
    pub rules: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Model {
    version: u64,
    on: bool,
    variations: Vec<Value>,
    fallthrough: Fallthrough,
    #[serde(default)]
    targets: Vec<ModelTarget>,
    #[serde(default)]
    rules: Vec<Value>,
}

#[derive(Deserialize)]
struct Fallthrough {
    variation: Option<usize>,
    rollout: Option<Rollout>,
}

#[derive(Deserialize)]
struct Rollout {
    variations: Vec<Weighted>,
}

#[derive(Deserialize)]
struct Weighted {
    variation: usize,
    weight: u32,
}

#[derive(Deserialize)]
struct ModelTarget {
    values: Vec<String>,
    variation: usize,
}

impl Shown {
    /// Reads a flag in LaunchDarkly's format.
    pub(super) fn read(flag: &str) -> Result<Self, serde_json::Error> {
        let model: Model = serde_json::from_str(flag)?;
        let is_new = |variation: usize| model.variations.get(variation) == Some(&Value::Bool(true));
        let new_site_percent = match (model.fallthrough.variation, &model.fallthrough.rollout) {
            (Some(variation), _) => f64::from(u8::from(is_new(variation))) * 100.0,
            (None, Some(rollout)) => {
                let new = rollout.variations.iter().filter(|weighted| is_new(weighted.variation));
                f64::from(new.map(|weighted| weighted.weight).sum::<u32>()) / 1_000.0
            }
            (None, None) => 0.0,
        };
        let targets = model.targets.iter().flat_map(|target| {
            let sees_new_site = is_new(target.variation);
            target.values.iter().map(move |address| Target { address: address.clone(), sees_new_site })
        });
        Ok(Self {
            version: model.version,
            on: model.on,
            new_site_percent,
            targets: targets.collect(),
            rules: model.rules.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(address: &str, sees_new_site: bool) -> Target {
        Target { address: address.to_owned(), sees_new_site }
    }

    #[test]
    fn what_is_set_is_shown() {
        let targets = vec![target("192.0.2.1", true), target("2001:db8::1", false)];
        let wanted = Wanted { on: true, new_site_percent: 37, targets: targets.clone() };
        wanted.check().unwrap();
        let shown = Shown::read(&wanted.flag("rebrand", 7).to_string()).unwrap();
        assert_eq!(shown, Shown { version: 7, on: true, new_site_percent: 37.0, targets, rules: 0 });
    }

    #[test]
    fn a_flag_of_another_hand_is_read() {
        let flag = r#"{"version": 3, "on": false, "variations": [false, true], "rules": [{}, {}],
            "fallthrough": {"variation": 1}, "targets": [{"values": ["192.0.2.1"], "variation": 0}]}"#;
        let shown = Shown::read(flag).unwrap();
        assert_eq!((shown.new_site_percent, shown.rules), (100.0, 2));
        assert_eq!(shown.targets, [target("192.0.2.1", false)]);
    }

    #[test]
    fn what_cannot_be_set_is_named() {
        let check = |new_site_percent, targets| Wanted { on: true, new_site_percent, targets }.check().unwrap_err();
        assert_eq!(check(101, vec![]), WantedError::Percent(101));
        assert_eq!(check(5, vec![target("me", true)]), WantedError::NoAddress("me".to_owned()));
        let twice = vec![target("192.0.2.1", true), target("192.0.2.1", false)];
        assert_eq!(check(5, twice), WantedError::Twice("192.0.2.1".to_owned()));
    }
}
