//! Why a source gave no data.

use std::time::Duration;

/// A failed request to a source, or an answer that cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SourceError {
    #[error("{uri} was not reached: {why}")]
    Unreachable { uri: String, why: String },
    #[error(
        "{uri} rejected the SDK key (HTTP {status}): check that LAUNCHDARKLY_SDK_KEY is the SDK key of the environment \
         that has the flag"
    )]
    Refused { uri: String, status: u16 },
    #[error("{uri} is rate limiting (HTTP 429); retry after {wait:?}")]
    Throttled { uri: String, wait: Duration },
    #[error("{uri} answered HTTP {status}")]
    Status { uri: String, status: u16 },
    #[error("{what} cannot be read: {why}")]
    Malformed { what: String, why: String },
    #[error("{what} is larger than {limit} bytes")]
    TooLarge { what: String, limit: usize },
    #[cfg(any(feature = "dynamodb", feature = "redis"))]
    #[error(transparent)]
    Store(#[from] crate::stores::StoreError),
}

impl SourceError {
    /// An answer that is an HTTP error.
    pub fn of_status(uri: String, status: u16) -> Self {
        match status {
            401 | 403 => Self::Refused { uri, status },
            _ => Self::Status { uri, status },
        }
    }

    /// The source's `Retry-After`, if it sent one.
    pub fn wait(&self) -> Option<Duration> {
        if let Self::Throttled { wait, .. } = self { Some(*wait) } else { None }
    }

    /// Whether both are the same problem, though a time in them may differ.
    pub fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Status { status, .. }, Self::Status { status: other, .. })
            | (Self::Refused { status, .. }, Self::Refused { status: other, .. }) => status == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}
