//! The log: JSON, one line each, to standard output, which Lambda sends to CloudWatch Logs.

use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

/// How serious a line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Level {
    #[default]
    Info,
    Warn,
    Error,
}

/// Sends messages of this crate and of the SDK, and panics, to the log.
pub fn init() {
    if log::set_logger(&Lines).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("no message");
        message(Level::Error, &format!("panic at {place}: {text}"));
    }));
}

/// Writes a message as a line.
pub fn message(level: Level, message: &str) {
    #[derive(Serialize)]
    struct Message<'a> {
        level: Level,
        message: &'a str,
    }
    line(&Message { level, message });
}

/// Writes a line in one piece. A failure is ignored: no viewer should get an error because of the log.
pub fn line(line: &impl Serialize) {
    if let Ok(mut bytes) = serde_json::to_vec(line) {
        bytes.push(b'\n');
        let _ = std::io::stdout().lock().write_all(&bytes);
    }
}

struct Lines;

/// How long a message of the SDK is not repeated in the log.
const QUIET: Duration = Duration::from_secs(600);

/// How many messages are remembered. A healthy SDK has a handful.
const MAX_REMEMBERED: usize = 100;

/// The messages of the SDK that were logged within the last ten minutes, and when.
static LOGGED: Mutex<BTreeMap<String, Instant>> = Mutex::new(BTreeMap::new());

/// Whether to log a message: not if it was logged within the last ten minutes.
fn is_due(logged: &mut BTreeMap<String, Instant>, text: &str, now: Instant) -> bool {
    logged.retain(|_, time| now.duration_since(*time) < QUIET);
    if logged.contains_key(text) {
        return false;
    }
    if logged.len() >= MAX_REMEMBERED {
        logged.clear();
    }
    logged.insert(text.to_owned(), now);
    true
}

impl log::Log for Lines {
    /// The macros of the `log` crate check the level that `init` sets.
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let level = if record.level() == log::Level::Error { Level::Error } else { Level::Warn };
        let text = match record.target().split("::").next() {
            // Its message may quote the context, and so the viewer's address.
            Some("launchdarkly_server_sdk_evaluation") => {
                "LaunchDarkly's evaluation failed on a clause or a value that it cannot read: check the flag's rules"
                    .to_owned()
            }
            _ => record.args().to_string(),
        };
        // The SDK repeats itself at every evaluation or flush.
        if !record.target().starts_with("launchdarkly") || is_due(&mut LOGGED.lock(), &text, Instant::now()) {
            message(level, &text);
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_message_is_logged_every_ten_minutes() {
        let mut logged = BTreeMap::new();
        let start = Instant::now();
        for (seconds, text, expected) in [
            (0, "a", true),
            (1, "a", false),
            (1, "b", true),
            (599, "a", false),
            (600, "a", true),
            (601, "a", false),
            (1_200, "a", true),
        ] {
            assert_eq!(
                is_due(&mut logged, text, start + Duration::from_secs(seconds)),
                expected,
                "{text} at {seconds}"
            );
        }
        for number in 0..1_000 {
            let (text, now) = (format!("message {number}"), start + Duration::from_secs(2_000));
            assert!(is_due(&mut logged, &text, now) && !is_due(&mut logged, &text, now), "{text}");
        }
        assert!(logged.len() <= MAX_REMEMBERED);
    }
}
