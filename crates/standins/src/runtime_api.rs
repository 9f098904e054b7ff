//! Lambda's [Runtime API](https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html), for one function at a time.

use super::serve::{Body, Server, full, response};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};

/// How a function answered an event.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The answer's JSON, or that of the error.
    pub body: Bytes,
    /// Whether the function reported an error.
    pub is_error: bool,
    /// From the event's delivery to the answer.
    pub took: Duration,
}

/// A running Runtime API.
pub struct RuntimeApi {
    server: Server,
    state: Arc<State>,
    events: mpsc::UnboundedSender<Event>,
}

struct Event {
    id: String,
    body: Bytes,
    deadline_ms: u64,
}

/// Who waits for an invocation's answer, and since when the function has the event.
struct Waiting {
    sender: oneshot::Sender<Outcome>,
    handed_out: Option<Instant>,
}

struct State {
    queue: tokio::sync::Mutex<mpsc::UnboundedReceiver<Event>>,
    waiting: Mutex<HashMap<String, Waiting>>,
    polls: watch::Sender<u64>,
    invocations: AtomicU64,
    user_agents: Mutex<Vec<String>>,
    init_error: watch::Sender<Option<String>>,
    extensions: watch::Sender<u64>,
}

impl RuntimeApi {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// No port could be bound.
    pub async fn start() -> io::Result<Self> {
        let (events, queue) = mpsc::unbounded_channel();
        let state = Arc::new(State {
            queue: tokio::sync::Mutex::new(queue),
            waiting: Mutex::default(),
            polls: watch::Sender::new(0),
            invocations: AtomicU64::new(0),
            user_agents: Mutex::default(),
            init_error: watch::Sender::new(None),
            extensions: watch::Sender::new(0),
        });
        let shared = state.clone();
        let server = Server::start(move |request| answer(shared.clone(), request)).await?;
        Ok(Self { server, state, events })
    }

    /// For `AWS_LAMBDA_RUNTIME_API`.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Hands an event to the function and waits for its answer; `None` when the function ends without one.
    pub async fn invoke(&self, event: impl Into<Bytes>) -> Option<Outcome> {
        self.invoke_with_deadline(event, SystemTime::now() + Duration::from_secs(5)).await
    }

    /// The same with a deadline of its own.
    pub async fn invoke_with_deadline(&self, event: impl Into<Bytes>, deadline: SystemTime) -> Option<Outcome> {
        let id = format!("{:032x}", unique());
        let (sender, receiver) = oneshot::channel();
        self.state.waiting.lock().insert(id.clone(), Waiting { sender, handed_out: None });
        let deadline_ms = deadline.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let deadline_ms = u64::try_from(deadline_ms).unwrap_or(u64::MAX);
        self.events.send(Event { id, body: event.into(), deadline_ms }).ok()?;
        receiver.await.ok()
    }

    /// How often the function has asked for an event.
    pub fn polls(&self) -> u64 {
        *self.state.polls.borrow()
    }

    /// How many events it received.
    pub fn invocations(&self) -> u64 {
        self.state.invocations.load(Ordering::Relaxed)
    }

    /// Waits until the function has asked for that many events.
    pub async fn polled(&self, times: u64) {
        // The sender lives as long as this.
        let _ = self.state.polls.subscribe().wait_for(|polls| *polls >= times).await;
    }

    /// The user agents that asked for events.
    pub fn user_agents(&self) -> Vec<String> {
        self.state.user_agents.lock().clone()
    }

    /// How many extensions were registered.
    pub fn extensions(&self) -> u64 {
        *self.state.extensions.borrow()
    }

    /// Waits for an init error; returns its JSON.
    pub async fn init_error(&self) -> String {
        let mut errors = self.state.init_error.subscribe();
        let error = errors.wait_for(Option::is_some).await;
        error.ok().and_then(|error| error.clone()).unwrap_or_default()
    }
}

fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let parts: Vec<&str> = path.split('/').collect();
    match (request.method(), parts.as_slice()) {
        (&Method::GET, [_, "runtime", "invocation", "next"]) => {
            let agent = request.headers().get("user-agent").and_then(|agent| agent.to_str().ok()).unwrap_or_default();
            state.user_agents.lock().push(agent.to_owned());
            next(&state).await
        }
        (&Method::POST, [_, "runtime", "invocation", id, kind @ ("response" | "error")]) => {
            let is_error = *kind == "error";
            let id = (*id).to_owned();
            let Ok(body) = request.into_body().collect().await else { return response(400, "{}") };
            if let Some(waiting) = state.waiting.lock().remove(&id) {
                let took = waiting.handed_out.map(|moment| moment.elapsed()).unwrap_or_default();
                let _ = waiting.sender.send(Outcome { body: body.to_bytes(), is_error, took });
            }
            response(202, r#"{"status":"OK"}"#)
        }
        (&Method::POST, [_, "runtime", "init", "error"]) => {
            let Ok(body) = request.into_body().collect().await else { return response(400, "{}") };
            let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            state.init_error.send_replace(Some(text));
            response(202, r#"{"status":"OK"}"#)
        }
        (&Method::POST, [_, "extension", "register"]) => {
            state.extensions.send_modify(|count| *count += 1);
            let mut answer =
                response(200, r#"{"functionName":"redirect","functionVersion":"1","handler":"bootstrap"}"#);
            answer.headers_mut().insert("lambda-extension-identifier", HeaderValue::from_static("1"));
            answer
        }
        // No event ever comes for an extension that asked for none.
        (&Method::GET, [_, "extension", "event", "next"]) => std::future::pending().await,
        _ => response(404, "{}"),
    }
}

async fn next(state: &State) -> Response<Body> {
    state.polls.send_modify(|polls| *polls += 1);
    let Some(event) = state.queue.lock().await.recv().await else { return response(500, "{}") };
    state.invocations.fetch_add(1, Ordering::Relaxed);
    if let Some(waiting) = state.waiting.lock().get_mut(&event.id) {
        waiting.handed_out = Some(Instant::now());
    }
    Response::builder()
        .header("content-type", "application/json")
        .header("lambda-runtime-aws-request-id", &event.id)
        .header("lambda-runtime-deadline-ms", event.deadline_ms)
        .header("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:000000000000:function:redirect:1")
        .header("lambda-runtime-trace-id", "Root=1-00000000-000000000000000000000000;Sampled=0")
        .body(full(event.body))
        .unwrap_or_else(|_| response(500, "{}"))
}
