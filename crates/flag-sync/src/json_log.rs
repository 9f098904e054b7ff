//! The log of the Lambda function: one JSON object per line on standard output, which Lambda sends to CloudWatch Logs.

use log::{LevelFilter, Log, Metadata, Record};
use serde::Serialize;
use std::io::Write;

/// Sends the messages of the `log` crate to standard output, warnings and errors only.
pub(crate) fn init() {
    if log::set_logger(&Lines).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

/// Writes a line in one piece. A log that cannot be written is not a reason to fail.
pub(crate) fn line(line: &impl Serialize) {
    if let Ok(mut bytes) = serde_json::to_vec(line) {
        bytes.push(b'\n');
        let _ = std::io::stdout().lock().write_all(&bytes);
    }
}

struct Lines;

impl Log for Lines {
    /// The crate's macros check the level that `init` sets.
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = record.level().as_str().to_lowercase();
        line(&serde_json::json!({ "level": level, "message": record.args().to_string() }));
    }

    fn flush(&self) {}
}
