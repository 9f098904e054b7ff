//! Where flag data comes from.

mod collect;
mod error;
mod launchdarkly;
#[cfg(any(feature = "dynamodb", feature = "redis"))]
mod store;
mod whole;

use collect::{Answer, Reader};
pub use collect::{Collection, Resolved};
pub use error::SourceError;
pub use launchdarkly::LaunchDarkly;
#[cfg(any(feature = "dynamodb", feature = "redis"))]
pub use store::StoreSource;
pub use whole::Bundled;
use whole::Whole;

use futures_util::future::BoxFuture;

/// A place that has flag data.
pub trait FlagSource: Send + Sync {
    /// Its name in the log.
    fn name(&self) -> &'static str;

    /// Whether its data can change while the function runs.
    fn changes(&self) -> bool {
        true
    }

    /// Fetches a flag and its references: its prerequisites, and the segments of its rules and of theirs. Fails only if
    /// the flag itself cannot be read. What has arrived is in the collection at any time, also if the fetch is given up.
    fn fetch<'a>(&'a self, collection: &'a Collection) -> BoxFuture<'a, Result<(), SourceError>>;
}
