//! The evaluation of the flag for a viewer, and the data that it rests on.

use crate::redirect::Verdict;
use launchdarkly_server_sdk::{Client, Context, EvalError, FlagDetailConfig, Reason as SdkReason};
use serde::{Deserialize, Serialize};

/// An evaluation and the data that it rests on, with the fields of the log line.
#[derive(Debug, Serialize)]
pub struct Evaluation {
    /// Which site the viewer should see.
    #[serde(skip)]
    pub verdict: Verdict,
    /// Why the flag has its value.
    #[serde(skip)]
    pub reason: Reason,
    /// Why there is no result, for the reason `ERROR`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<EvalError>,
    /// Where the data comes from.
    pub source: &'static str,
    /// Which data it rests on.
    pub data: DataState,
    /// How old the data is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_age_ms: Option<u64>,
    /// The version of the flag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flag_version: Option<u64>,
    /// How long ago flag-sync last made the store equal to LaunchDarkly; unknown for another source or writer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synced_age_ms: Option<u64>,
}

/// LaunchDarkly's evaluation reason, or a preview.
/// <https://launchdarkly.com/docs/sdk/concepts/evaluation-reasons>
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)]
pub enum Reason {
    Off,
    TargetMatch,
    RuleMatch,
    PrerequisiteFailed,
    Fallthrough,
    Error,
    /// The flag was not evaluated: the visitor has a preview.
    Preview,
}

/// How current the data of a decision is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DataState {
    /// Not older than `max_staleness_seconds`.
    Fresh,
    /// Older, because its source is out of reach.
    Older,
    /// From the package, or from the repository in offline mode.
    Bundled,
    /// There is no data.
    Default,
    /// Kept by the SDK, which streams or polls.
    Sdk,
}

/// The value of the flag and LaunchDarkly's reason for it, or why there is no value.
pub(super) type FlagResult = Result<(bool, Reason), EvalError>;

/// What a result means for a viewer. Without data nobody is moved. Every other error means the current site: the flag
/// cannot show anyone the new one.
pub(super) fn verdict(result: FlagResult) -> Verdict {
    match result {
        Ok((true, _)) => Verdict::Beta,
        Err(EvalError::ClientNotReady) => Verdict::NoData,
        Ok((false, _)) | Err(_) => Verdict::Current,
    }
}

/// Evaluates the flag. A client that sends events records one.
pub(super) fn evaluate(client: &Client, context: &Context, flag_key: &str) -> FlagResult {
    let detail = client.bool_variation_detail(context, flag_key, false);
    let reason = match detail.reason {
        SdkReason::Off => Reason::Off,
        SdkReason::TargetMatch => Reason::TargetMatch,
        SdkReason::RuleMatch { .. } => Reason::RuleMatch,
        SdkReason::PrerequisiteFailed { .. } => Reason::PrerequisiteFailed,
        SdkReason::Fallthrough { .. } => Reason::Fallthrough,
        SdkReason::Error { error } => return Err(error),
    };
    Ok((detail.value == Some(true), reason))
}

/// Evaluates the flag with a client that sends events, but without an event. The SDK offers that for all flags together
/// only.
/// <https://launchdarkly.com/docs/sdk/features/all-flags>
pub(super) fn evaluate_without_event(client: &Client, context: &Context, flag_key: &str) -> FlagResult {
    if !client.initialized() {
        return Err(EvalError::ClientNotReady);
    }
    let all = client.all_flags_detail(context, *FlagDetailConfig::new().with_reasons());
    let all = serde_json::to_value(all).unwrap_or_default();
    let kind = all.get("$flagsState").and_then(|states| states.get(flag_key)?.get("reason")?.get("kind"));
    let (Some(kind), Some(value)) = (kind, all.get(flag_key)) else { return Err(EvalError::FlagNotFound) };
    match (Reason::deserialize(kind), value.as_bool()) {
        (Err(_) | Ok(Reason::Error | Reason::Preview), _) => Err(EvalError::MalformedFlag),
        (Ok(reason), Some(value)) => Ok((value, reason)),
        // A flag that is off without an off variation: the default.
        (Ok(reason), None) if value.is_null() => Ok((false, reason)),
        (Ok(_), None) => Err(EvalError::WrongType),
    }
}
