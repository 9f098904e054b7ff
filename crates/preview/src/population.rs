//! A thousand viewers, and which site LaunchDarkly's own evaluation shows to each: the crate that its SDK uses.

use super::flag::FlagView;
use anyhow::{Context, Result};
use flag_data::items::{ItemKind, Items};
use launchdarkly_server_sdk_evaluation::{ContextBuilder, Flag, FlagValue, Segment, Store, evaluate};
use serde::Serialize;

/// The viewers, and which site each of them sees.
pub(super) struct Population {
    pub keys: Vec<String>,
    pub flag: FlagView,
    /// `None` before the flag is known.
    pub picture: Option<Picture>,
    /// How often each viewer has changed since the drag began.
    changes: Vec<u32>,
}

/// What the control page shows.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Picture {
    /// A digit for each viewer: 1 sees the new site.
    sees: String,
    new: usize,
    last_change: Change,
    drag: Drag,
}

/// How many viewers a change of the flag moved.
#[derive(Clone, Debug, Default, Serialize)]
struct Change {
    to_new: usize,
    to_current: usize,
}

/// The share moving in one direction, in any number of steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Drag {
    from_percent: f64,
    to_percent: f64,
    moved: usize,
    /// Viewers who saw the site change more than once on the way.
    moved_again: usize,
}

impl Population {
    /// A thousand values of the visitor cookie, or without one a thousand addresses reserved for documentation
    /// ([RFC 5737](https://www.rfc-editor.org/rfc/rfc5737), [RFC 3849](https://www.rfc-editor.org/rfc/rfc3849)), before
    /// the flag is first known.
    pub(super) fn new(visitor_cookie: &str) -> Self {
        let networks = ["192.0.2", "198.51.100", "203.0.113"];
        let v4 = networks.iter().flat_map(|network| (1..=250).map(move |host| format!("{network}.{host}")));
        let addresses = v4.chain((1..=250).map(|host| format!("2001:db8::{host:x}")));
        let ids = (1..=1_000).map(|number| format!("visitor-{number}"));
        let keys: Vec<_> = if visitor_cookie.is_empty() { addresses.collect() } else { ids.collect() };
        let changes = vec![0; keys.len()];
        Self { keys, flag: FlagView::default(), picture: None, changes }
    }

    /// Evaluates the flag for every viewer. The error says why it cannot.
    pub(super) fn evaluate(&mut self, items: &Items, flag_key: &str) -> Result<()> {
        let item = items.get(ItemKind::Flag, flag_key);
        let item = item.with_context(|| format!("flag {flag_key:?} does not exist in this environment"))?;
        let flag: Flag = serde_json::from_str(item.json())?;
        let view = FlagView::read(&serde_json::from_str(item.json())?);
        let store = ItemStore(items);
        let sees = self.keys.iter().map(|key| {
            // As in the function: without a valid result it is the current site.
            let context = ContextBuilder::new(key).build();
            let sees_new_site = context.is_ok_and(|context| {
                matches!(evaluate(&store, &flag, &context, None).value, Some(FlagValue::Bool(true)))
            });
            if sees_new_site { '1' } else { '0' }
        });
        let sees = sees.collect();
        self.update(sees, view);
        Ok(())
    }

    fn update(&mut self, sees: String, flag: FlagView) {
        let before = self.picture.take().unwrap_or_default();
        let (from, to) = (self.flag.setting.new_site_percent, flag.setting.new_site_percent);
        (self.flag.version, self.flag.setting.new_site_percent) = (flag.version, to);
        let is_share_alone = self.flag == flag;
        let mut drag = before.drag;
        if !is_share_alone || (drag.to_percent - drag.from_percent) * (to - from) < 0.0 {
            drag.from_percent = if is_share_alone { from } else { to };
            self.changes.fill(0);
        }
        let mut last_change = Change::default();
        for ((before, after), changes) in before.sees.chars().zip(sees.chars()).zip(&mut self.changes) {
            match (before, after) {
                ('0', '1') => last_change.to_new += 1,
                ('1', '0') => last_change.to_current += 1,
                _ => continue,
            }
            // The switch and the targets move viewers too; a drag is the share alone.
            *changes += u32::from(is_share_alone);
        }
        drag.to_percent = to;
        drag.moved = self.changes.iter().filter(|changes| **changes > 0).count();
        drag.moved_again = self.changes.iter().filter(|changes| **changes > 1).count();
        self.picture = Some(Picture { new: sees.matches('1').count(), sees, last_change, drag });
        self.flag = flag;
    }
}

/// The flag data, for the evaluation.
struct ItemStore<'a>(&'a Items);

impl Store for ItemStore<'_> {
    fn flag(&self, key: &str) -> Option<Flag> {
        serde_json::from_str(self.0.get(ItemKind::Flag, key)?.json()).ok()
    }

    fn segment(&self, key: &str) -> Option<Segment> {
        serde_json::from_str(self.0.get(ItemKind::Segment, key)?.json()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flag::FlagSetting;
    use flag_data::items::Item;

    fn set(population: &mut Population, percent: u8, on: bool) -> Picture {
        let setting = FlagSetting { on, new_site_percent: percent.into(), targets: Vec::new() };
        let mut items = Items::default();
        let item = Item::new(ItemKind::Flag, setting.flag("rebrand", 1).to_string(), None).unwrap();
        items.insert(ItemKind::Flag, "rebrand".to_owned(), item);
        population.evaluate(&items, "rebrand").unwrap();
        population.picture.clone().unwrap()
    }

    #[test]
    fn a_rising_share_moves_each_viewer_once_and_none_back() {
        let mut population = Population::new("");
        assert_eq!(population.keys.len(), 1_000);
        assert!(population.picture.is_none(), "before the flag is known");
        for percent in 0..=100 {
            assert_eq!(set(&mut population, percent, true).last_change.to_current, 0, "{percent} %");
        }
        let picture = set(&mut population, 100, true);
        assert_eq!(picture.drag, Drag { from_percent: 0.0, to_percent: 100.0, moved: 1_000, moved_again: 0 });
        assert_eq!((picture.new, picture.sees.len()), (1_000, 1_000));
    }

    #[test]
    fn a_new_direction_begins_a_new_drag() {
        let mut population = Population::new("");
        let half = set(&mut population, 50, true);
        assert!((430..570).contains(&half.new), "{}", half.new);
        set(&mut population, 70, true);
        let back = set(&mut population, 50, true);
        assert_eq!(back.sees, half.sees, "the same share is the same viewers");
        assert_eq!((back.drag.from_percent, back.drag.moved_again), (70.0, 0));
        let off = set(&mut population, 50, false);
        assert_eq!((off.new, off.last_change.to_current), (0, half.new));
    }

    #[test]
    fn a_switch_is_not_part_of_a_drag() {
        let mut population = Population::new("");
        for on in [true, false, true] {
            set(&mut population, 100, on);
        }
        let picture = set(&mut population, 70, true);
        let moved = 1_000 - picture.new;
        assert!((230..370).contains(&moved), "{moved}");
        assert_eq!(picture.drag, Drag { from_percent: 100.0, to_percent: 70.0, moved, moved_again: 0 });
        set(&mut population, 70, false);
        assert_eq!(set(&mut population, 20, false).drag.moved, 0, "while it is off, the share moves nobody");
    }

    #[test]
    fn a_missing_flag_is_named() {
        let error = Population::new("").evaluate(&Items::default(), "rebrand").unwrap_err();
        assert_eq!(error.to_string(), "flag \"rebrand\" does not exist in this environment");
    }
}
