//! LaunchDarkly's service: flag data by item, as a whole and as a stream, and the events it accepts.
//!
//! Formats: <https://launchdarkly.com/docs/sdk/relay-proxy/endpoints> and the SDKs' own requests.

use super::serve::{Body, Server, full, response};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use futures_util::stream::{self, StreamExt};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// How the service fails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Fault {
    #[default]
    None,
    /// A status, with `Retry-After` in seconds if given.
    Status(u16, Option<u64>),
    /// Accepts the connection and never answers.
    BlackHole,
    SlowHeaders(Duration),
    /// The body arrives after this time, in two halves.
    SlowBody(Duration),
    /// Half the body, announced as a whole one, then the end of the connection.
    CutBody,
    /// The same, but the connection is reset.
    ResetBody,
    /// Half the body, well framed.
    TruncatedJson,
    /// A body of another service, with its content type.
    Text(&'static str, &'static str),
    /// A body of this many bytes.
    Huge(usize),
    /// To another address.
    Redirect(&'static str),
}

/// A request that was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `GET /sdk/flags/rebrand`
    pub what: String,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Seen {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

/// An environment's flags and segments, by key.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Data {
    pub flags: Map<String, Value>,
    pub segments: Map<String, Value>,
}

impl Data {
    fn all(&self) -> String {
        json!({"flags": self.flags, "segments": self.segments}).to_string()
    }
}

/// A running LaunchDarkly.
pub struct LaunchDarkly {
    server: Server,
    state: Arc<State>,
}

struct State {
    key: String,
    data: Mutex<Data>,
    /// `data` as a whole, as it is sent. Kept, because writing 10,000 flags takes longer than most functions start.
    whole: Mutex<Option<Arc<str>>>,
    fault: Mutex<Fault>,
    /// Faults of single paths, which win over `fault`.
    faults: Mutex<HashMap<String, Fault>>,
    events_fault: Mutex<Fault>,
    max_age: Mutex<Option<u64>>,
    seen: watch::Sender<Vec<Seen>>,
    events: watch::Sender<Vec<Value>>,
    changes: broadcast::Sender<String>,
}

impl LaunchDarkly {
    /// Starts it on a free port, with an environment whose SDK key is `key`.
    ///
    /// # Errors
    /// No port could be bound.
    pub async fn start(key: &str, data: Data) -> io::Result<Self> {
        let state = Arc::new(State {
            key: key.to_owned(),
            data: Mutex::new(data),
            whole: Mutex::default(),
            fault: Mutex::default(),
            faults: Mutex::default(),
            events_fault: Mutex::default(),
            max_age: Mutex::default(),
            seen: watch::Sender::new(Vec::new()),
            events: watch::Sender::new(Vec::new()),
            changes: broadcast::Sender::new(64),
        });
        let shared = state.clone();
        let server = Server::start(move |request| answer(shared.clone(), request)).await?;
        Ok(Self { server, state })
    }

    /// For the three `LAUNCHDARKLY_..._URI` variables.
    pub fn uri(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Replaces a flag and sends it to the streams.
    pub fn set_flag(&self, flag: &Value) {
        let key = flag.get("key").and_then(Value::as_str).unwrap_or_default().to_owned();
        self.change(|data| drop(data.flags.insert(key.clone(), flag.clone())));
        let patch = json!({"path": format!("/flags/{key}"), "data": flag});
        let _ = self.state.changes.send(format!("event: patch\ndata: {patch}\n\n"));
    }

    /// Deletes a flag and notifies the streams, with the version that its tombstone is to have.
    pub fn delete_flag(&self, key: &str, version: u64) {
        self.change(|data| drop(data.flags.remove(key)));
        let delete = json!({"path": format!("/flags/{key}"), "version": version});
        let _ = self.state.changes.send(format!("event: delete\ndata: {delete}\n\n"));
    }

    /// Changes the data without notifying the streams.
    pub fn change(&self, change: impl FnOnce(&mut Data)) {
        change(&mut self.state.data.lock());
        *self.state.whole.lock() = None;
    }

    /// From now on, requests for flag data fail like this.
    pub fn fail(&self, fault: Fault) {
        *self.state.fault.lock() = fault;
    }

    /// From now on, requests for one path, such as `/sdk/segments/testers`, fail like this; `Fault::None` ends it.
    pub fn fail_at(&self, path: &str, fault: Fault) {
        let mut faults = self.state.faults.lock();
        match fault {
            Fault::None => drop(faults.remove(path)),
            fault => drop(faults.insert(path.to_owned(), fault)),
        }
    }

    /// From now on, events fail like this.
    pub fn fail_events(&self, fault: Fault) {
        *self.state.events_fault.lock() = fault;
    }

    /// The environment's TTL setting, in seconds.
    pub fn set_max_age(&self, seconds: Option<u64>) {
        *self.state.max_age.lock() = seconds;
    }

    /// Closes every connection.
    pub fn drop_connections(&self) {
        self.server.drop_connections();
    }

    /// How many connections were made to it so far.
    pub fn connections(&self) -> usize {
        self.server.accepted()
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.borrow().clone()
    }

    /// How many requests there were whose `what` begins like this.
    pub fn count(&self, what: &str) -> usize {
        self.state.seen.borrow().iter().filter(|seen| seen.what.starts_with(what)).count()
    }

    /// Waits until there were `times` requests whose `what` begins like this.
    pub async fn asked(&self, what: &str, times: usize) {
        let count = |seen: &Vec<Seen>| seen.iter().filter(|seen| seen.what.starts_with(what)).count();
        // The sender lives as long as this.
        let _ = self.state.seen.subscribe().wait_for(|seen| count(seen) >= times).await;
    }

    /// The events that arrived so far.
    pub fn events(&self) -> Vec<Value> {
        self.state.events.borrow().clone()
    }

    /// Waits until the events that arrived are as wanted.
    pub async fn received(&self, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let mut events = self.state.events.subscribe();
        events.wait_for(|events| wanted(events)).await.map(|events| events.clone()).unwrap_or_default()
    }
}

impl State {
    fn whole(&self) -> Arc<str> {
        self.whole.lock().get_or_insert_with(|| self.data.lock().all().into()).clone()
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers: Vec<_> =
        request.headers().iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    let seen = Seen { what: format!("{} {path}", request.method()), headers };
    let header = |name: &str| seen.header(name).map(str::to_owned);
    let (authorization, if_none_match) = (header("authorization"), header("if-none-match"));
    let accepts_gzip = header("accept-encoding").is_some_and(|encodings| encodings.contains("gzip"));
    let is_gzipped = header("content-encoding").as_deref() == Some("gzip");
    state.seen.send_modify(|all| all.push(seen));

    if authorization.as_deref() != Some(&state.key) {
        return response(401, r#"{"message":"invalid SDK key"}"#);
    }
    if path == "/bulk" {
        return take_events(&state, request, is_gzipped).await;
    }
    let body = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["", "all"] if *state.fault.lock() == Fault::None => return put_and_patches(&state),
        ["", "diagnostic"] => return response(202, ""),
        ["", "sdk", "latest-all"] => Some(state.whole().to_string()),
        ["", "sdk", "flags", key] => state.data.lock().flags.get(*key).map(Value::to_string),
        ["", "sdk", "segments", key] => state.data.lock().segments.get(*key).map(Value::to_string),
        _ => None,
    };
    let fault = state.faults.lock().get(&path).cloned().unwrap_or_else(|| state.fault.lock().clone());
    let Some(body) = body else { return failing(fault, Vec::new(), response(404, "{}")).await };

    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    let etag = format!("\"{:016x}\"", hasher.finish());
    let unchanged = fault == Fault::None && if_none_match.as_ref() == Some(&etag);
    let is_packed = accepts_gzip && !unchanged;
    let body = if is_packed { gzip(&body) } else { body.into_bytes() };
    let mut answer = if unchanged { response(304, "") } else { response(200, body.clone()) };
    let headers = answer.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert("etag", etag);
    }
    if let Some(age) = *state.max_age.lock()
        && let Ok(value) = HeaderValue::from_str(&format!("max-age={age}"))
    {
        headers.insert("cache-control", value);
    }
    if is_packed {
        headers.insert("content-encoding", HeaderValue::from_static("gzip"));
    }
    failing(fault, body, answer).await
}

fn gzip(body: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to a Vec cannot fail.
    let _ = encoder.write_all(body.as_bytes());
    encoder.finish().unwrap_or_default()
}

/// The response as the fault makes it.
async fn failing(fault: Fault, body: Vec<u8>, good: Response<Body>) -> Response<Body> {
    let half = body.len() / 2;
    let mut answer = good;
    match fault {
        Fault::None => {}
        Fault::Status(status, retry_after) => {
            answer = response(status, "{}");
            if let Some(seconds) = retry_after {
                answer.headers_mut().insert("retry-after", HeaderValue::from(seconds));
            }
        }
        Fault::BlackHole => std::future::pending().await,
        Fault::SlowHeaders(time) => tokio::time::sleep(time).await,
        Fault::SlowBody(time) => {
            let (first, second) = body.split_at(half);
            let halves = [first.to_vec(), second.to_vec()];
            let chunks = stream::iter(halves).then(move |half| async move {
                tokio::time::sleep(time / 2).await;
                Ok(Frame::data(Bytes::from(half)))
            });
            *answer.body_mut() = BodyExt::boxed(StreamBody::new(chunks));
        }
        Fault::CutBody => cut(&mut answer, &body, io::ErrorKind::Other),
        Fault::ResetBody => cut(&mut answer, &body, io::ErrorKind::ConnectionReset),
        Fault::TruncatedJson => *answer.body_mut() = full(body.get(..half).unwrap_or_default().to_vec()),
        Fault::Text(content_type, text) => {
            answer = response(200, text);
            answer.headers_mut().insert("content-type", HeaderValue::from_static(content_type));
        }
        Fault::Huge(size) => {
            const CHUNK: usize = 1 << 14;
            static SPACES: [u8; CHUNK] = [b' '; CHUNK];
            let chunks = stream::iter(0..size.div_ceil(CHUNK)).map(|_| Ok(Frame::data(Bytes::from_static(&SPACES))));
            answer = response(200, "");
            *answer.body_mut() = BodyExt::boxed(StreamBody::new(chunks));
        }
        Fault::Redirect(location) => {
            answer = response(302, "");
            answer.headers_mut().insert("location", HeaderValue::from_static(location));
        }
    }
    answer
}

/// Half the body, announced as a whole one, then an error of that kind.
fn cut(answer: &mut Response<Body>, body: &[u8], kind: io::ErrorKind) {
    answer.headers_mut().insert("content-length", HeaderValue::from(body.len()));
    let first = Bytes::copy_from_slice(body.get(..body.len() / 2).unwrap_or_default());
    let end = stream::once(async move {
        // Only while the body waits is its first half sent.
        tokio::task::yield_now().await;
        Err(kind.into())
    });
    *answer.body_mut() = BodyExt::boxed(StreamBody::new(stream::iter([Ok(Frame::data(first))]).chain(end)));
}

async fn take_events(state: &State, request: Request<Incoming>, is_gzipped: bool) -> Response<Body> {
    let Ok(body) = request.into_body().collect().await.map(http_body_util::Collected::to_bytes) else {
        return response(400, "");
    };
    let fault = state.events_fault.lock().clone();
    if fault == Fault::None || matches!(fault, Fault::SlowHeaders(_)) {
        let mut json = Vec::new();
        let read = if is_gzipped {
            GzDecoder::new(body.as_ref()).read_to_end(&mut json)
        } else {
            (&*body).read_to_end(&mut json)
        };
        let events = read.ok().and_then(|_| serde_json::from_slice::<Vec<Value>>(&json).ok());
        let Some(events) = events else { return response(400, "") };
        state.events.send_modify(|all| all.extend(events));
    }
    failing(fault, Vec::new(), response(202, "")).await
}

/// The stream: everything first, then each change.
fn put_and_patches(state: &State) -> Response<Body> {
    let changes = state.changes.subscribe();
    let first = stream::iter([format!("event: put\ndata: {{\"path\":\"/\",\"data\":{}}}\n\n", state.whole())]);
    let rest = stream::unfold(changes, |mut changes| async move { Some((changes.recv().await.ok()?, changes)) });
    let frames = first.chain(rest).map(|text| Ok(Frame::data(Bytes::from(text))));
    let mut answer = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    answer.headers_mut().insert("content-type", HeaderValue::from_static("text/event-stream"));
    answer
}
