//! Flag data that is available as a whole: LaunchDarkly's `{"flags": {..}, "segments": {..}}`.

use super::{Collection, Read, Reader, SourceError};
use crate::items::{Everything, ItemKey, ItemKind, Stored};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::{Borrow, Cow};
use std::collections::HashMap;

/// Its items are copied only when they are read.
#[derive(Deserialize)]
pub(super) struct Whole<'a> {
    #[serde(borrow)]
    flags: HashMap<Key<'a>, &'a RawValue>,
    #[serde(borrow, default)]
    segments: HashMap<Key<'a>, &'a RawValue>,
}

/// A key that is copied only if it has escapes.
#[derive(Deserialize, PartialEq, Eq, Hash)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl Borrow<str> for Key<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'a> Whole<'a> {
    pub(super) fn parse(json: &'a str, what: &str) -> Result<Self, SourceError> {
        serde_json::from_str(json)
            .map_err(|error| SourceError::Malformed { what: what.to_owned(), why: error.to_string() })
    }
}

impl Whole<'_> {
    pub(super) fn to_stored(&self) -> Everything {
        let stored = |items: &HashMap<Key<'_>, &RawValue>| {
            items.iter().map(|(Key(key), json)| (key.to_string(), Stored::parse(json.get().to_owned()))).collect()
        };
        Everything { flags: stored(&self.flags), segments: stored(&self.segments) }
    }
}

impl Reader for Whole<'_> {
    async fn read(&self, wanted: &[ItemKey], collection: &Collection) -> Result<(), SourceError> {
        for item @ (kind, key) in wanted {
            let items = match kind {
                ItemKind::Flag => &self.flags,
                ItemKind::Segment => &self.segments,
            };
            let json = items.get(key.as_str()).map(|raw| raw.get().to_owned());
            collection.answer(item, json.map_or(Read::Missing, |json| Read::Found { json, etag: None }));
        }
        Ok(())
    }
}
