//! The log line of a decision.

use crate::flags::Evaluation;
use serde::Serialize;
use std::time::Duration;

/// A decision, as the log tells it. Fields that do not apply are left out.
#[derive(Debug, Default, Serialize)]
pub struct DecisionLine {
    /// `info`, or `warn` when something kept the decision from being what it should be.
    pub level: &'static str,
    /// Readable alone.
    pub message: String,
    /// CloudFront's id of the request, or Lambda's where there is none.
    pub request_id: String,
    /// `redirect`, `pass-through` or `error`.
    pub outcome: &'static str,
    /// The HTTP status of a redirect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What the flag said; absent when it was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variation: Option<bool>,
    /// LaunchDarkly's evaluation reason, and what it rests on.
    #[serde(flatten)]
    pub rests_on: Option<RestsOn>,
    /// From the event to the answer, without Lambda's part, in microseconds.
    pub duration_us: u64,
    /// Whether this is the environment's first decision.
    pub cold_start: bool,
    /// Only where `log_client_ip` says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<String>,
}

/// What an evaluation rests on.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct RestsOn {
    pub reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<&'static str>,
    pub source: &'static str,
    pub data: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_age_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flag_version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synced_age_ms: Option<u64>,
}

impl From<&Evaluation> for RestsOn {
    fn from(evaluation: &Evaluation) -> Self {
        Self {
            reason: evaluation.reason,
            error_kind: evaluation.error_kind,
            source: evaluation.source,
            data: evaluation.data,
            data_age_ms: evaluation.data_age.map(millis),
            flag_version: evaluation.flag_version,
            synced_age_ms: evaluation.synced_age.map(millis),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
