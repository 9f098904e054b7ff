//! What the flag says for a viewer, and what that rests on.

use crate::redirect::Verdict;
use launchdarkly_server_sdk::{Client, Context, EvalError, FlagDetailConfig, Reason as SdkReason};
use std::time::Duration;

/// An evaluation, and what it rests on.
#[derive(Debug)]
pub struct Evaluation {
    /// Which site.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// Which data it rests on.
    pub data: DataState,
    /// How old the data is.
    pub data_age: Option<Duration>,
    /// Where the data comes from.
    pub source: &'static str,
    /// The version of the flag.
    pub flag_version: Option<u64>,
    /// How long ago flag-sync last made the store equal to LaunchDarkly; unknown for another source or writer.
    pub synced_age: Option<Duration>,
}

/// LaunchDarkly's evaluation reason.
/// <https://launchdarkly.com/docs/sdk/concepts/evaluation-reasons>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Reason {
    Off,
    TargetMatch,
    RuleMatch,
    PrerequisiteFailed,
    Fallthrough,
    Error(ErrorKind),
}

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ErrorKind {
    ClientNotReady,
    FlagNotFound,
    MalformedFlag,
    WrongType,
    UserNotSpecified,
    Exception,
}

/// Which data a decision rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataState {
    /// Not older than `max_staleness_seconds`.
    Fresh,
    /// Older, because its source is out of reach.
    Older,
    /// That of the package, or of the repository in offline mode.
    Bundled,
    /// None.
    Default,
    /// Kept by the SDK, which streams or polls.
    Sdk,
}

impl Reason {
    const ALL: [Self; 5] = [Self::Off, Self::TargetMatch, Self::RuleMatch, Self::PrerequisiteFailed, Self::Fallthrough];

    /// As LaunchDarkly names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "OFF",
            Self::TargetMatch => "TARGET_MATCH",
            Self::RuleMatch => "RULE_MATCH",
            Self::PrerequisiteFailed => "PREREQUISITE_FAILED",
            Self::Fallthrough => "FALLTHROUGH",
            Self::Error(_) => "ERROR",
        }
    }

    /// The kind of error, if it is one.
    pub fn error(self) -> Option<ErrorKind> {
        match self {
            Self::Error(kind) => Some(kind),
            _ => None,
        }
    }
}

impl ErrorKind {
    /// As LaunchDarkly names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientNotReady => "CLIENT_NOT_READY",
            Self::FlagNotFound => "FLAG_NOT_FOUND",
            Self::MalformedFlag => "MALFORMED_FLAG",
            Self::WrongType => "WRONG_TYPE",
            Self::UserNotSpecified => "USER_NOT_SPECIFIED",
            Self::Exception => "EXCEPTION",
        }
    }

    /// What the error means for a viewer. Without data nobody is moved; every other error is an answer about a flag
    /// that can show nobody the new site.
    pub(super) fn result(self) -> (Verdict, Reason) {
        let verdict = match self {
            Self::ClientNotReady | Self::UserNotSpecified => Verdict::NoData,
            Self::FlagNotFound | Self::MalformedFlag | Self::WrongType | Self::Exception => Verdict::Current,
        };
        (verdict, Reason::Error(self))
    }
}

impl From<EvalError> for ErrorKind {
    fn from(error: EvalError) -> Self {
        match error {
            EvalError::ClientNotReady => Self::ClientNotReady,
            EvalError::FlagNotFound => Self::FlagNotFound,
            EvalError::MalformedFlag => Self::MalformedFlag,
            EvalError::WrongType => Self::WrongType,
            EvalError::Exception => Self::Exception,
        }
    }
}

impl DataState {
    /// As the log names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Older => "older",
            Self::Bundled => "bundled",
            Self::Default => "default",
            Self::Sdk => "sdk",
        }
    }
}

fn verdict(value: bool) -> Verdict {
    if value { Verdict::Beta } else { Verdict::Current }
}

/// Evaluates the flag. A client that sends events records one.
pub(super) fn evaluate(client: &Client, context: &Context, flag_key: &str) -> (Verdict, Reason) {
    let detail = client.bool_variation_detail(context, flag_key, false);
    let reason = match detail.reason {
        SdkReason::Off => Reason::Off,
        SdkReason::TargetMatch => Reason::TargetMatch,
        SdkReason::RuleMatch { .. } => Reason::RuleMatch,
        SdkReason::PrerequisiteFailed { .. } => Reason::PrerequisiteFailed,
        SdkReason::Fallthrough { .. } => Reason::Fallthrough,
        SdkReason::Error { error } => return ErrorKind::from(error).result(),
    };
    (verdict(detail.value == Some(true)), reason)
}

/// Evaluates the flag by a client that sends events, without recording one: the SDK can do that for all flags together,
/// not for one.
/// <https://launchdarkly.com/docs/sdk/features/all-flags>
pub(super) fn evaluate_without_event(client: &Client, context: &Context, flag_key: &str) -> (Verdict, Reason) {
    if !client.initialized() {
        return ErrorKind::ClientNotReady.result();
    }
    let all = client.all_flags_detail(context, *FlagDetailConfig::new().with_reasons());
    let all = serde_json::to_value(all).unwrap_or_default();
    let kind = all.get("$flagsState").and_then(|states| states.get(flag_key)?.get("reason")?.get("kind")?.as_str());
    let reason = kind.and_then(|kind| Reason::ALL.into_iter().find(|reason| reason.as_str() == kind));
    match (kind, reason, all.get(flag_key)) {
        (None, _, _) | (_, _, None) => ErrorKind::FlagNotFound.result(),
        (_, None, _) => ErrorKind::MalformedFlag.result(),
        (_, Some(reason), Some(value)) => match value.as_bool() {
            Some(value) => (verdict(value), reason),
            // A flag that is off without an off variation: the default.
            None if value.is_null() => (Verdict::Current, reason),
            None => ErrorKind::WrongType.result(),
        },
    }
}
