//! The log: JSON, one line each, to standard output, which Lambda hands to CloudWatch Logs.

use crate::flags::Evaluation;
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::Write;
use std::panic::PanicHookInfo;
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

/// Sends messages of this crate and of the SDK, and panics, to the log.
pub fn init() {
    if log::set_logger(&Lines).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        message("error", &format!("panic at {place}: {}", panic_text(panic)));
    }));
}

fn panic_text<'a>(panic: &'a PanicHookInfo<'_>) -> &'a str {
    panic.payload_as_str().unwrap_or("no message")
}

/// A line of its own.
pub fn message(level: &str, message: &str) {
    #[derive(Serialize)]
    struct Message<'a> {
        level: &'a str,
        message: &'a str,
    }
    line(&Message { level, message });
}

/// Writes a line in one piece. A log that cannot be written is no reason to fail a viewer.
pub fn line(line: &impl Serialize) {
    if let Ok(mut bytes) = serde_json::to_vec(line) {
        bytes.push(b'\n');
        let _ = std::io::stdout().lock().write_all(&bytes);
    }
}

struct Lines;

/// Whether this is the first time that the SDK says so. Of more messages than a healthy SDK has, none is kept.
fn is_news(text: &str) -> bool {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut told = TOLD.lock();
    told.len() < 100 && told.insert(text.to_owned())
}

impl log::Log for Lines {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = if record.level() == log::Level::Error { "error" } else { "warn" };
        let text = match record.target().split("::").next() {
            // What it says of an evaluation may quote the context, and so the viewer's address.
            Some("launchdarkly_server_sdk_evaluation") => {
                "LaunchDarkly's evaluation met a clause or a value that it cannot use; the flag's rules name it"
                    .to_owned()
            }
            _ => record.args().to_string(),
        };
        // The SDK repeats itself with every visit or flush.
        if !record.target().starts_with("launchdarkly") || is_news(&text) {
            message(level, &text);
        }
    }

    fn flush(&self) {}
}
