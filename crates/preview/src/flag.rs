//! The flag as the control page sets it and shows it.

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

/// An address that always sees one of the sites.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    address: String,
    sees_new_site: bool,
}

/// Why a flag cannot be set like this.
#[derive(Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub(super) enum FlagSettingError {
    #[error("{0} % is not a share of the visitors: choose 0 to 100")]
    Percent(f64),
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("{0} is targeted twice: remove it first")]
    Twice(String),
}

/// What is not an IP address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IP address: write it as 192.0.2.1 or 2001:db8::1")]
pub(super) struct AddressError(String);

/// Checks that a viewer can have this address.
pub(super) fn check_address(address: &str) -> Result<(), AddressError> {
    address.parse::<IpAddr>().map(drop).map_err(|_| AddressError(address.to_owned()))
}

impl FlagSetting {
    /// On for half the viewers.
    pub(super) fn half() -> Self {
        Self { on: true, new_site_percent: 50.0, targets: Vec::new() }
    }

    pub(super) fn check(&self) -> Result<(), FlagSettingError> {
        if !(0.0..=100.0).contains(&self.new_site_percent) {
            return Err(FlagSettingError::Percent(self.new_site_percent));
        }
        let mut seen = BTreeSet::new();
        for Target { address, .. } in &self.targets {
            check_address(address)?;
            if !seen.insert(address) {
                return Err(FlagSettingError::Twice(address.clone()));
            }
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
        let number = |of: &Value, field| of.get(field).and_then(Value::as_u64).unwrap_or_default();
        let variations = list(flag, "/variations");
        let is_new = |of: &Value| {
            let variation = usize::try_from(number(of, "variation")).unwrap_or(usize::MAX);
            variations.get(variation) == Some(&Value::Bool(true))
        };
        let fallthrough = flag.get("fallthrough").unwrap_or(&Value::Null);
        let rollout = list(fallthrough, "/rollout/variations");
        let new = rollout.iter().filter(|share| is_new(share)).filter_map(|share| share.get("weight")?.as_f64());
        let new_site_percent = match fallthrough.get("variation") {
            Some(_) => f64::from(u8::from(is_new(fallthrough))) * 100.0,
            None => new.sum::<f64>() / 1_000.0,
        };
        let targets = list(flag, "/targets").into_iter().flat_map(|target| {
            let sees_new_site = is_new(&target);
            let addresses = list(&target, "/values").into_iter();
            addresses.filter_map(move |address| Some(Target { address: address.as_str()?.to_owned(), sees_new_site }))
        });
        let on = flag.get("on") == Some(&Value::Bool(true));
        Self {
            version: number(flag, "version"),
            setting: FlagSetting { on, new_site_percent, targets: targets.collect() },
            rules: list(flag, "/rules").len(),
        }
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
        let setting = FlagSetting { on: true, new_site_percent: 37.0, targets };
        setting.check().unwrap();
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
        let check =
            |new_site_percent, targets| FlagSetting { on: true, new_site_percent, targets }.check().unwrap_err();
        assert_eq!(check(101.0, vec![]), FlagSettingError::Percent(101.0));
        assert_eq!(check(5.0, vec![target("me", true)]), FlagSettingError::Address(AddressError("me".to_owned())));
        let twice = vec![target("192.0.2.1", true), target("192.0.2.1", false)];
        assert_eq!(check(5.0, twice), FlagSettingError::Twice("192.0.2.1".to_owned()));
    }
}
