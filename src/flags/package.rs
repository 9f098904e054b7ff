//! Flag data that comes with the function: that of offline mode, and that of the package, which is the last resort.

use super::snapshot::{Data, Origin};
use chrono::{DateTime, FixedOffset};
use flag_data::sources::{Bundled, Collection, FlagSource, SourceError};
use futures_util::FutureExt;
use once_cell::sync::OnceCell;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

const OFFLINE_FLAGS: &str = include_str!("offline-flags.json");

/// The flag data of the repository: `rebrand`, on, 50/50.
pub fn offline() -> Bundled {
    Bundled::new(OFFLINE_FLAGS, "src/flags/offline-flags.json")
}

/// The flag data in the package: `flags.json`, fetched when it was made.
pub(super) struct Package {
    path: Option<PathBuf>,
    /// Read on first use, which most environments never have. A failed read is retried.
    contents: OnceCell<Option<Data>>,
}

impl Package {
    /// The file in the folder where Lambda unpacks the package.
    pub(super) fn of_this_function() -> Self {
        let root = std::env::var_os("LAMBDA_TASK_ROOT");
        Self { path: root.map(|root| PathBuf::from(root).join("flags.json")), contents: OnceCell::new() }
    }

    /// The data, dated by when it was fetched; `None` if the package has none.
    ///
    /// # Errors
    /// A file that is there but cannot be read.
    pub(super) fn read(&self, flag_key: &str) -> Result<Option<&Data>, SourceError> {
        let contents = self.contents.get_or_try_init(|| {
            let Some(path) = &self.path else { return Ok(None) };
            let what = path.display().to_string();
            match std::fs::read_to_string(path) {
                Ok(json) => parse(&json, &what, flag_key).map(Some),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(SourceError::Malformed { what, why: error.to_string() }),
            }
        })?;
        Ok(contents.as_ref())
    }
}

fn parse(json: &str, what: &str, flag_key: &str) -> Result<Data, SourceError> {
    #[derive(Deserialize)]
    struct Dated<'a> {
        fetched_at: &'a str,
    }
    let malformed = |why: String| SourceError::Malformed { what: what.to_owned(), why };
    let Dated { fetched_at } = serde_json::from_str(json).map_err(|error| malformed(error.to_string()))?;
    let fetched_at: DateTime<FixedOffset> = DateTime::parse_from_rfc3339(fetched_at)
        .map_err(|error| malformed(format!("fetched_at is {fetched_at:?}: {error}")))?;
    let collection = Collection::new(flag_key, Arc::default(), BTreeSet::new());
    // A read from memory is ready at once.
    Bundled::new(json, what).fetch(&collection).now_or_never().unwrap_or(Ok(()))?;
    Ok(Data::new(collection.resolve().unwrap_or_default(), Origin::Package(fetched_at.into())))
}
