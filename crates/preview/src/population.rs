//! A thousand viewers, whom LaunchDarkly's own evaluation tells which site they see: the crate that its SDK uses.

use super::flag::Shown;
use flag_data::items::ItemKind;
use flag_data::items::{Item, Items};
use launchdarkly_server_sdk_evaluation::{ContextBuilder, Flag, FlagValue, Segment, Store, evaluate};
use serde::Serialize;

/// Why the viewers could not be told.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub(super) enum PopulationError {
    #[error("the flag {0:?} does not exist in this environment")]
    NoFlag(String),
    #[error("the flag {0:?} cannot be read: {1}")]
    Malformed(String, String),
}

/// The viewers, and which site each of them sees.
pub(super) struct Population {
    addresses: Vec<String>,
    sees_new_site: Vec<bool>,
    flag: Shown,
    last_change: Change,
    drag: Drag,
    /// How often each viewer has changed since the drag began.
    changes: Vec<u32>,
}

/// How many viewers a change of the flag moved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Change {
    to_new: usize,
    to_current: usize,
}

/// The share going in one direction, in as many steps as it likes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Drag {
    from_percent: f64,
    to_percent: f64,
    moved: usize,
    /// Viewers who saw the site change more than once on the way.
    moved_again: usize,
}

/// What the control page shows.
#[derive(Debug, Serialize)]
pub(super) struct Picture {
    /// A digit for each viewer: 1 sees the new site.
    sees: String,
    new: usize,
    last_change: Change,
    drag: Drag,
}

impl Population {
    /// A thousand addresses that are kept for documentation ([RFC 5737](https://www.rfc-editor.org/rfc/rfc5737),
    /// [RFC 3849](https://www.rfc-editor.org/rfc/rfc3849)), before the flag is first known.
    pub(super) fn new() -> Self {
        let networks = ["192.0.2", "198.51.100", "203.0.113"];
        let v4 = networks.iter().flat_map(|network| (1..=250).map(move |host| format!("{network}.{host}")));
        let addresses: Vec<_> = v4.chain((1..=250).map(|host| format!("2001:db8::{host:x}"))).collect();
        let changes = vec![0; addresses.len()];
        let (flag, last_change, drag) = (Shown::default(), Change::default(), Drag::default());
        Self { addresses, sees_new_site: Vec::new(), flag, last_change, drag, changes }
    }

    pub(super) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    pub(super) fn flag(&self) -> &Shown {
        &self.flag
    }

    /// Asks for everyone anew.
    pub(super) fn ask(&mut self, items: &Items, flag_key: &str) -> Result<(), PopulationError> {
        let json = items.get(ItemKind::Flag, flag_key).map(Item::json);
        let json = json.ok_or_else(|| PopulationError::NoFlag(flag_key.to_owned()))?;
        let malformed = |error: serde_json::Error| PopulationError::Malformed(flag_key.to_owned(), error.to_string());
        let flag: Flag = serde_json::from_str(json).map_err(malformed)?;
        let shown = Shown::read(json).map_err(malformed)?;
        let store = Environment(items);
        let answers = self.addresses.iter().map(|address| {
            let context = ContextBuilder::new(address).build().ok();
            let value = context.and_then(|context| match evaluate(&store, &flag, &context, None).value {
                Some(FlagValue::Bool(truth)) => Some(*truth),
                _ => None,
            });
            // As the function does: what cannot be evaluated is the current site.
            value.unwrap_or(false)
        });
        let answers = answers.collect();
        self.take(answers, shown);
        Ok(())
    }

    fn take(&mut self, answers: Vec<bool>, flag: Shown) {
        if self.sees_new_site.is_empty() {
            self.drag.from_percent = flag.new_site_percent;
        } else if !self.goes_on(&flag) {
            self.drag = Drag { from_percent: self.flag.new_site_percent, ..Drag::default() };
            self.changes.fill(0);
        }
        self.last_change = Change::default();
        for ((before, after), changes) in self.sees_new_site.iter().zip(&answers).zip(&mut self.changes) {
            match (before, after) {
                (false, true) => self.last_change.to_new += 1,
                (true, false) => self.last_change.to_current += 1,
                _ => continue,
            }
            *changes += 1;
        }
        self.drag.to_percent = flag.new_site_percent;
        self.drag.moved = self.changes.iter().filter(|changes| **changes > 0).count();
        self.drag.moved_again = self.changes.iter().filter(|changes| **changes > 1).count();
        self.sees_new_site = answers;
        self.flag = flag;
    }

    /// Whether the share goes on in the direction it went, and nothing else changes.
    fn goes_on(&self, flag: &Shown) -> bool {
        let same = Shown { version: flag.version, new_site_percent: flag.new_site_percent, ..self.flag.clone() };
        let (so_far, step) =
            (self.drag.to_percent - self.drag.from_percent, flag.new_site_percent - self.flag.new_site_percent);
        same == *flag && so_far * step >= 0.0
    }

    /// `None` before the flag is known.
    pub(super) fn picture(&self) -> Option<Picture> {
        (!self.sees_new_site.is_empty()).then(|| Picture {
            sees: self.sees_new_site.iter().map(|new| if *new { '1' } else { '0' }).collect(),
            new: self.sees_new_site.iter().filter(|new| **new).count(),
            last_change: self.last_change.clone(),
            drag: self.drag.clone(),
        })
    }
}

/// The flag data as the evaluation wants it.
struct Environment<'a>(&'a Items);

impl Store for Environment<'_> {
    fn flag(&self, key: &str) -> Option<Flag> {
        self.0.get(ItemKind::Flag, key).and_then(|item| serde_json::from_str(item.json()).ok())
    }

    fn segment(&self, key: &str) -> Option<Segment> {
        self.0.get(ItemKind::Segment, key).and_then(|item| serde_json::from_str(item.json()).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn ask(population: &mut Population, percent: u32, on: bool) {
        let flag: Value = json!({
            "key": "rebrand", "version": 1, "on": on, "prerequisites": [], "targets": [], "rules": [], "salt": "s",
            "offVariation": 1, "variations": [true, false],
            "fallthrough": {"rollout": {"variations": [
                {"variation": 0, "weight": percent * 1000}, {"variation": 1, "weight": 100_000 - percent * 1000}]}},
        });
        let mut items = Items::default();
        let item = Item::new(ItemKind::Flag, flag.to_string(), None).unwrap();
        items.insert(ItemKind::Flag, "rebrand".to_owned(), item);
        population.ask(&items, "rebrand").unwrap();
    }

    #[test]
    fn a_rising_share_moves_each_viewer_once_and_none_back() {
        let mut population = Population::new();
        assert_eq!(population.addresses().len(), 1_000);
        assert!(population.picture().is_none(), "before the flag is known");
        ask(&mut population, 0, true);
        for percent in 1..=100 {
            ask(&mut population, percent, true);
            assert_eq!(population.picture().unwrap().last_change.to_current, 0, "{percent} %");
        }
        let picture = population.picture().unwrap();
        assert_eq!(picture.drag, Drag { from_percent: 0.0, to_percent: 100.0, moved: 1_000, moved_again: 0 });
        assert_eq!((picture.new, picture.sees.len()), (1_000, 1_000));
    }

    #[test]
    fn a_new_direction_begins_a_new_drag() {
        let mut population = Population::new();
        ask(&mut population, 50, true);
        let half = population.picture().unwrap();
        assert!((430..570).contains(&half.new), "{}", half.new);
        ask(&mut population, 70, true);
        ask(&mut population, 50, true);
        let back = population.picture().unwrap();
        assert_eq!(back.sees, half.sees, "the same share is the same viewers");
        assert_eq!((back.drag.from_percent, back.drag.moved_again), (70.0, 0));
        ask(&mut population, 50, false);
        let off = population.picture().unwrap();
        assert_eq!((off.new, off.last_change.to_current), (0, half.new));
    }

    #[test]
    fn a_missing_flag_is_named() {
        let error = Population::new().ask(&Items::default(), "rebrand").unwrap_err().to_string();
        assert_eq!(error, "the flag \"rebrand\" does not exist in this environment");
    }
}
