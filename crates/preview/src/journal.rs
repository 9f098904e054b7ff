//! The log of a preview: the requests, the function's decisions and messages, and that something else changed.

use super::viewer::request_id;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::broadcast;

/// How many entries are kept for a page that is opened later.
const MAX_ENTRIES: usize = 600;

/// How many changes a slow page may be behind before it must start over.
const MAX_BEHIND: usize = 1_024;

/// What a control page shows.
#[derive(Clone, Debug)]
pub(super) enum News {
    /// An entry of the log. A request and its decision share an id; either may come first.
    Entry(Arc<Value>),
    /// The flag, the environment or a fault changed.
    State,
}

/// The log. Clones share it.
#[derive(Clone)]
pub(super) struct Journal {
    entries: Arc<Mutex<VecDeque<Arc<Value>>>>,
    news: broadcast::Sender<News>,
}

impl Journal {
    pub(super) fn new() -> Self {
        Self { entries: Arc::default(), news: broadcast::Sender::new(MAX_BEHIND) }
    }

    /// Records a line that the function wrote: a decision, which belongs to a request, or a message. A line in another
    /// format, such as the operating system's, is a message as it is.
    pub(super) fn line(&self, line: &str) {
        let json: Value = serde_json::from_str(line).unwrap_or_default();
        let text = |field: &str| json.get(field).and_then(Value::as_str);
        match text("request_id") {
            Some(id) => self.add(id, "decision", &json),
            None => self.message(text("message").unwrap_or(line)),
        }
    }

    /// Records something else.
    pub(super) fn message(&self, message: &str) {
        self.add(&request_id(), "message", &json!(message));
    }

    /// What the control page shows beside the log has changed.
    pub(super) fn state_changed(&self) {
        // Without a page nobody listens.
        let _ = self.news.send(News::State);
    }

    /// The entries so far, and the changes from now on.
    pub(super) fn subscribe(&self) -> (Vec<Arc<Value>>, broadcast::Receiver<News>) {
        let entries = self.entries.lock();
        (entries.iter().cloned().collect(), self.news.subscribe())
    }

    /// Records what belongs to the request with this id.
    pub(super) fn add(&self, id: &str, kind: &str, what: &Value) {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let entry = Arc::new(json!({ "id": id, "at_ms": at.as_millis(), kind: what }));
        let mut entries = self.entries.lock();
        if entries.len() == MAX_ENTRIES {
            entries.pop_front();
        }
        entries.push_back(entry.clone());
        let _ = self.news.send(News::Entry(entry));
    }
}
