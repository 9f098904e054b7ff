//! The log line of a decision.

use crate::flags::{DataState, Evaluation, Reason};
use crate::log::Level;
use crate::redirect::{Paths, Redirect, Verdict};
use launchdarkly_server_sdk::EvalError;
use serde::Serialize;

/// How old a flag store may be before each decision warns of it. The alarm in cloudformation/flag-store.yaml is sooner.
const MAX_SYNC_AGE_MS: u64 = 3_600_000;

/// A decision, for the log. Fields that do not apply are left out.
#[derive(Debug, Default, Serialize)]
pub struct DecisionLine {
    /// A warning if something is wrong, such as old flag data; an error for an event that is not CloudFront's.
    pub level: Level,
    /// The answer in words, and the problem, if there is one.
    pub message: String,
    /// CloudFront's id of the request, or Lambda's where there is none.
    pub request_id: String,
    /// What the function answered.
    pub outcome: Outcome,
    /// The HTTP status of a redirect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Whether the flag is true for the visitor; absent if it was not evaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variation: Option<bool>,
    /// Why the flag has that value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What the evaluation rests on.
    #[serde(flatten)]
    pub evaluation: Option<Evaluation>,
    /// From the event to the answer, without Lambda's overhead, in microseconds.
    pub duration_us: u64,
    /// How much of it was spent waiting for flag data, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waited_us: Option<u64>,
    /// Whether this is the environment's first decision.
    pub cold_start: bool,
    /// Only with `log_client_ip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<String>,
}

/// What the function answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Outcome {
    Redirect,
    #[default]
    PassThrough,
    Error,
}

impl DecisionLine {
    /// Records a problem, which makes the line a warning.
    pub fn warn(&mut self, what: &str) {
        self.level = Level::Warn;
        what.clone_into(&mut self.message);
    }

    /// Records an event that is not one of CloudFront's.
    pub fn error(&mut self, what: String) {
        self.level = Level::Error;
        self.message = what;
        self.outcome = Outcome::Error;
    }

    /// Records an evaluation, and a warning if it rests on old data or none.
    pub fn evaluated(&mut self, evaluation: Evaluation, flag_key: &str) {
        match (evaluation.error_kind, evaluation.data) {
            (Some(EvalError::ClientNotReady), _) => self.warn("there is no flag data"),
            (Some(EvalError::FlagNotFound), _) => {
                self.warn(&format!("flag {flag_key:?} does not exist in this environment"));
            }
            (Some(EvalError::WrongType), _) => self.warn(&format!("flag {flag_key:?} is not a boolean flag")),
            (Some(EvalError::MalformedFlag), _) => self.warn(&format!("flag {flag_key:?} cannot be evaluated")),
            (Some(EvalError::Exception), _) => self.warn(&format!("flag {flag_key:?} was not evaluated")),
            (None, DataState::Older) => self.warn("the flag data is older than max_staleness_seconds allows"),
            _ if evaluation.synced_age_ms > Some(MAX_SYNC_AGE_MS) => {
                self.warn("flag-sync has not succeeded for more than an hour");
            }
            // Offline mode has no other data, so it is not a problem there.
            (None, DataState::Bundled) if evaluation.source != "bundled" => {
                self.warn("using the flag data of the package");
            }
            _ => {}
        }
        self.variation = Some(evaluation.verdict == Verdict::Beta);
        self.reason = Some(evaluation.reason);
        self.evaluation = Some(evaluation);
    }

    /// Records the answer; `None` passes the request through. Path and query stay out of the log: they are private.
    pub fn answered(&mut self, redirect: Option<&Redirect>, paths: &Paths) {
        let what = match redirect {
            None => "pass-through".to_owned(),
            Some(redirect) => format!("{} to {}", redirect.status, paths.site(redirect)),
        };
        self.message = if self.message.is_empty() { what } else { format!("{what}: {}", self.message) };
        self.outcome = if redirect.is_some() { Outcome::Redirect } else { Outcome::PassThrough };
        self.status = redirect.map(|redirect| redirect.status);
    }
}
