//! The log of the Lambda function: JSON, one line each, to standard output, which Lambda sends to CloudWatch Logs.

use serde::Serialize;
use std::io::Write;

/// Writes what the libraries log as lines of the same form.
pub fn init() {
    if log::set_logger(&Lines).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
}

/// Writes a message.
pub fn message(level: &str, message: &str) {
    line(&serde_json::json!({ "level": level, "message": message }));
}

/// Writes a line in one piece. A log that cannot be written is not a reason to fail.
pub fn line(line: &impl Serialize) {
    if let Ok(mut bytes) = serde_json::to_vec(line) {
        bytes.push(b'\n');
        let _ = std::io::stdout().lock().write_all(&bytes);
    }
}

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            message(&record.level().as_str().to_lowercase(), &record.args().to_string());
        }
    }

    fn flush(&self) {}
}
