//! Flag data that comes with a program.

use super::{Collection, FlagSource, SourceError, Whole};
use futures_util::future::BoxFuture;

/// Flag data in a text that never changes: LaunchDarkly's `{"flags": {..}, "segments": {..}}`.
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
