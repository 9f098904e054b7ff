//! The log of a preview: the requests, the function's decisions and messages, and that something else changed.

use super::distribution::Handler;
use super::viewer::request_id;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
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
    Entry(Arc<Entry>),
    /// The flag, the environment or a fault changed.
    State,
}

/// An entry of the log. A request and its decision share an id; either may come first.
#[derive(Debug, Serialize)]
pub(super) struct Entry {
    id: String,
    at_ms: u128,
    #[serde(flatten)]
    what: What,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Served(Box<Served>),
    /// The function's own log line.
    Decision(Value),
    Message(String),
}

/// A request, and how it was answered.
#[derive(Debug, Serialize)]
pub(super) struct Served {
    /// The viewer's address.
    pub viewer: String,
    /// The value of the visitor cookie that they sent.
    pub visitor: Option<String>,
    pub method: String,
    /// Path and query string.
    pub url: String,
    /// The path pattern of the cache behavior.
    pub behavior: String,
    pub handler: Handler,
    pub status: u16,
    pub location: Option<String>,
    /// The names of the cookies that the answer sets.
    pub sets_cookies: Vec<String>,
    /// The rule that was broken, or what failed.
    pub problem: Option<String>,
    /// From the request to the answer, a cold start included.
    pub took_us: u128,
    /// The part of a cold start, up to the request for the first event.
    pub start_us: Option<u128>,
}

/// The log. Clones share it.
#[derive(Clone)]
pub(super) struct Journal {
    entries: Arc<Mutex<VecDeque<Arc<Entry>>>>,
    news: broadcast::Sender<News>,
}

impl Journal {
    pub(super) fn new() -> Self {
        Self { entries: Arc::default(), news: broadcast::Sender::new(MAX_BEHIND) }
    }

    /// Records a request that was answered.
    pub(super) fn served(&self, id: String, served: Served) {
        self.add(id, What::Served(served.into()));
    }

    /// Records a line that the function wrote: a decision, which belongs to a request, or a message. A line in another
    /// format, such as the operating system's, is a message as it is.
    pub(super) fn line(&self, line: &str) {
        let json: Value = serde_json::from_str(line).unwrap_or_default();
        let text = |field: &str| json.get(field).and_then(Value::as_str).map(str::to_owned);
        match text("request_id") {
            Some(id) => self.add(id, What::Decision(json)),
            None => self.message(text("message").unwrap_or_else(|| line.to_owned())),
        }
    }

    /// Records something else.
    pub(super) fn message(&self, message: String) {
        self.add(request_id(), What::Message(message));
    }

    /// What the control page shows beside the log has changed.
    pub(super) fn state_changed(&self) {
        // Without a page nobody listens.
        let _ = self.news.send(News::State);
    }

    /// The entries so far, and the changes from now on.
    pub(super) fn subscribe(&self) -> (Vec<Arc<Entry>>, broadcast::Receiver<News>) {
        let entries = self.entries.lock();
        (entries.iter().cloned().collect(), self.news.subscribe())
    }

    fn add(&self, id: String, what: What) {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let entry = Arc::new(Entry { id, at_ms: at.as_millis(), what });
        let mut entries = self.entries.lock();
        if entries.len() == MAX_ENTRIES {
            entries.pop_front();
        }
        entries.push_back(entry.clone());
        let _ = self.news.send(News::Entry(entry));
    }
}
