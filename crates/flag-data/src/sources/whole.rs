//! Flag data that is available as a whole: LaunchDarkly's `{"flags": {..}, "segments": {..}}`.

use super::{Collection, FlagSource, Reader, SourceError};
use crate::items::{Everything, ItemKey, ItemKind, Stored};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::{Borrow, Cow};
use std::collections::HashMap;

/// Its items are copied only when they are read.
#[derive(Deserialize)]
pub(super) struct Whole<'a> {
    #[serde(borrow)]
    flags: Items<'a>,
    /// Absent or null where there are none.
    #[serde(borrow)]
    segments: Option<Items<'a>>,
}

type Items<'a> = HashMap<Key<'a>, &'a RawValue>;

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

    fn of(&self, kind: ItemKind) -> Option<&Items<'a>> {
        match kind {
            ItemKind::Flag => Some(&self.flags),
            ItemKind::Segment => self.segments.as_ref(),
        }
    }

    pub(super) fn to_stored(&self) -> Everything {
        let stored = |items: Option<&Items<'_>>| {
            let items = items.into_iter().flatten();
            items.map(|(Key(key), json)| (key.to_string(), Stored::parse(json.get().to_owned()))).collect()
        };
        Everything { flags: stored(self.of(ItemKind::Flag)), segments: stored(self.of(ItemKind::Segment)) }
    }
}

impl Reader for Whole<'_> {
    async fn read(&self, wanted: &[ItemKey], collection: &Collection) {
        for item @ (kind, key) in wanted {
            let json = self.of(*kind).and_then(|items| items.get(key.as_str())).map(|raw| raw.get().to_owned());
            collection.answer(item, collection.parse(item, json, None));
        }
    }
}

/// Flag data in a text that never changes.
pub struct Bundled {
    json: String,
    /// Where the text comes from, for errors.
    file: String,
}

impl Bundled {
    /// A source with the contents of a file.
    pub fn new(json: impl Into<String>, file: impl Into<String>) -> Self {
        Self { json: json.into(), file: file.into() }
    }
}

impl FlagSource for Bundled {
    fn name(&self) -> &'static str {
        "bundled"
    }

    fn changes(&self) -> bool {
        false
    }

    fn fetch<'a>(&'a self, collection: &'a Collection) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(async move { collection.read_from(&Whole::parse(&self.json, &self.file)?).await })
    }
}
