//! What the control page is told: the requests with their decisions, the function's own messages, and that something
//! changed.

use super::viewer::Viewer;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::broadcast;

/// How many entries are kept for a page that is opened later.
const KEPT: usize = 300;

/// How many news a slow page may be behind before it is told to start over.
const BEHIND: usize = 1_024;

/// Something that a control page shows.
#[derive(Clone, Debug)]
pub(super) enum News {
    /// An entry of the log, new or changed.
    Entry(Arc<Entry>),
    /// The flag, the environment or a fault changed.
    State,
}

/// A line of the log.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Entry {
    id: String,
    at_ms: u64,
    #[serde(flatten)]
    what: What,
}

#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum What {
    Request {
        viewer: String,
        method: String,
        address: String,
        served: Option<Served>,
        /// The function's own log line.
        decision: Option<Value>,
    },
    Message {
        level: String,
        message: String,
    },
}

/// How a request was answered.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Served {
    /// The path pattern of the cache behavior.
    pub behavior: String,
    /// What ran on the viewer request: `function`, `script` or `nothing`.
    pub by: &'static str,
    pub status: u16,
    pub location: Option<String>,
    /// The rule that was broken, or what failed.
    pub problem: Option<String>,
    /// From the request to the answer, a cold start included.
    pub took_us: u64,
    pub cold: bool,
}

/// The log of a preview. Clones share it.
#[derive(Clone)]
pub(super) struct Journal {
    entries: Arc<Mutex<VecDeque<Entry>>>,
    /// How many messages there were, which makes their ids.
    messages: Arc<AtomicU64>,
    news: broadcast::Sender<News>,
}

impl Journal {
    pub(super) fn new() -> Self {
        Self { entries: Arc::default(), messages: Arc::default(), news: broadcast::Sender::new(BEHIND) }
    }

    /// A request came in. It is shown when it is answered.
    pub(super) fn arrived(&self, viewer: &Viewer) {
        let mark = if viewer.query.is_empty() { "" } else { "?" };
        let what = What::Request {
            viewer: viewer.address.clone(),
            method: viewer.method.clone(),
            address: [&viewer.uri, mark, &viewer.query].concat(),
            served: None,
            decision: None,
        };
        self.add(viewer.id.clone(), what);
    }

    /// A request was answered.
    pub(super) fn served(&self, id: &str, how: Served) {
        self.update(id, |what| {
            if let What::Request { served, .. } = what {
                *served = Some(how);
            }
        });
    }

    /// The function wrote a line: a decision, which belongs to a request, or a message.
    pub(super) fn line(&self, line: &str) {
        let json: Value = serde_json::from_str(line).unwrap_or_default();
        let text = |field: &str| json.get(field).and_then(Value::as_str);
        match (text("request_id"), text("message")) {
            (Some(id), _) => self.update(id, |what| {
                if let What::Request { decision, .. } = what {
                    *decision = Some(json.clone());
                }
            }),
            (None, Some(message)) => self.message(text("level").unwrap_or("info"), message),
            // What is no line of the function's own log, such as a message of the system's, is told as it is.
            (None, None) => self.message("error", line),
        }
    }

    /// Something else that the log should tell.
    pub(super) fn message(&self, level: &str, message: &str) {
        let what = What::Message { level: level.to_owned(), message: message.to_owned() };
        let id = format!("message-{}", self.messages.fetch_add(1, Ordering::Relaxed));
        let entry = self.add(id, what);
        // Nobody may be listening.
        let _ = self.news.send(News::Entry(Arc::new(entry)));
    }

    /// What the control page shows has changed.
    pub(super) fn state_changed(&self) {
        let _ = self.news.send(News::State);
    }

    /// The entries so far, and what comes.
    pub(super) fn subscribe(&self) -> (Vec<Entry>, broadcast::Receiver<News>) {
        let news = self.news.subscribe();
        let entries = self.entries.lock().iter().filter(|entry| entry.is_shown()).cloned().collect();
        (entries, news)
    }

    fn add(&self, id: String, what: What) -> Entry {
        let entry = Entry { id, at_ms: now_ms(), what };
        let mut entries = self.entries.lock();
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back(entry.clone());
        entry
    }

    fn update(&self, id: &str, change: impl FnOnce(&mut What)) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.iter_mut().rev().find(|entry| entry.id == id) {
            change(&mut entry.what);
            if entry.is_shown() {
                let _ = self.news.send(News::Entry(Arc::new(entry.clone())));
            }
        }
    }
}

impl Entry {
    fn is_shown(&self) -> bool {
        !matches!(self.what, What::Request { served: None, .. })
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
