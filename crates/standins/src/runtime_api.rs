//! Lambda's [Runtime API](https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html), for one function at a time.

use super::serve::{Body, Server, header, response, with_header};
use bytes::Bytes;
use http::{Method, Request, Response};
use parking_lot::Mutex;
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
    server: Server<State>,
    events: mpsc::UnboundedSender<Event>,
}

struct Event {
    body: Bytes,
    deadline_ms: u128,
    sender: oneshot::Sender<Outcome>,
}

struct State {
    queue: tokio::sync::Mutex<mpsc::UnboundedReceiver<Event>>,
    /// The event that the function has, with its id, and since when.
    handed_out: Mutex<Option<(String, Event, Instant)>>,
    /// The user agent of each request for an event.
    polls: watch::Sender<Vec<String>>,
    invocations: AtomicU64,
    init_error: watch::Sender<Option<String>>,
    extensions: AtomicU64,
}

impl RuntimeApi {
    /// Starts it; fails if no port is free.
    pub async fn start() -> io::Result<Self> {
        let (events, queue) = mpsc::unbounded_channel();
        let state = State {
            queue: queue.into(),
            handed_out: Mutex::default(),
            polls: watch::Sender::default(),
            invocations: AtomicU64::default(),
            init_error: watch::Sender::default(),
            extensions: AtomicU64::default(),
        };
        Ok(Self { server: Server::start(state, answer).await?, events })
    }

    /// For `AWS_LAMBDA_RUNTIME_API`.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Hands an event to the function and waits for its answer; `None` if the function polls again without one.
    pub async fn invoke(&self, event: impl Into<Bytes>) -> Option<Outcome> {
        self.invoke_with_deadline(event, SystemTime::now() + Duration::from_secs(5)).await
    }

    /// The same with a deadline of its own.
    pub async fn invoke_with_deadline(&self, event: impl Into<Bytes>, deadline: SystemTime) -> Option<Outcome> {
        let (sender, receiver) = oneshot::channel();
        let deadline_ms = deadline.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        self.events.send(Event { body: event.into(), deadline_ms, sender }).ok()?;
        receiver.await.ok()
    }

    /// Waits until the function has asked for that many events.
    pub async fn polled(&self, times: u64) {
        // The sender lives as long as this.
        let _ = self.server.state.polls.subscribe().wait_for(|polls| polls.len() as u64 >= times).await;
    }

    /// Waits until the function asks for the next event.
    pub async fn idle(&self) {
        self.polled(self.server.state.invocations.load(Ordering::Relaxed) + 1).await;
    }

    /// The user agent of each request for an event.
    pub fn user_agents(&self) -> Vec<String> {
        self.server.state.polls.borrow().clone()
    }

    /// How many extensions were registered.
    pub fn extensions(&self) -> u64 {
        self.server.state.extensions.load(Ordering::Relaxed)
    }

    /// Waits for an init error; returns its JSON.
    pub async fn init_error(&self) -> String {
        let mut errors = self.server.state.init_error.subscribe();
        let error = errors.wait_for(Option::is_some).await;
        error.ok().and_then(|error| error.clone()).unwrap_or_default()
    }
}

async fn answer(state: Arc<State>, request: Request<Bytes>) -> Response<Body> {
    let parts: Vec<&str> = request.uri().path().trim_start_matches('/').split('/').collect();
    match (request.method(), parts.as_slice()) {
        (&Method::GET, [_, "runtime", "invocation", "next"]) => {
            let agent = header(request.headers(), "user-agent").to_owned();
            state.polls.send_modify(|polls| polls.push(agent));
            next(&state).await
        }
        (&Method::POST, [_, "runtime", "invocation", id, kind @ ("response" | "error")]) => {
            if let Some((_, event, since)) = state.handed_out.lock().take_if(|(known, ..)| known == id) {
                let body = request.body().clone();
                let _ = event.sender.send(Outcome { body, is_error: *kind == "error", took: since.elapsed() });
            }
            response(202, r#"{"status":"OK"}"#)
        }
        (&Method::POST, [_, "runtime", "init", "error"]) => {
            state.init_error.send_replace(Some(String::from_utf8_lossy(request.body()).into_owned()));
            response(202, r#"{"status":"OK"}"#)
        }
        (&Method::POST, [_, "extension", "register"]) => {
            state.extensions.fetch_add(1, Ordering::Relaxed);
            let body = r#"{"functionName":"redirect","functionVersion":"1","handler":"bootstrap"}"#;
            with_header(response(200, body), "lambda-extension-identifier", "1")
        }
        // No event ever comes for an extension that asked for none.
        (&Method::GET, [_, "extension", "event", "next"]) => std::future::pending().await,
        _ => response(404, "{}"),
    }
}

async fn next(state: &State) -> Response<Body> {
    let Some(event) = state.queue.lock().await.recv().await else { return response(500, "{}") };
    let id = state.invocations.fetch_add(1, Ordering::Relaxed).to_string();
    let mut answer = response(200, event.body.clone());
    for (name, value) in [
        ("lambda-runtime-aws-request-id", id.as_str()),
        ("lambda-runtime-deadline-ms", &event.deadline_ms.to_string()),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:000000000000:function:redirect:1"),
        ("lambda-runtime-trace-id", "Root=1-00000000-000000000000000000000000;Sampled=0"),
    ] {
        answer = with_header(answer, name, value);
    }
    *state.handed_out.lock() = Some((id, event, Instant::now()));
    answer
}
