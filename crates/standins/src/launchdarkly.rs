//! LaunchDarkly's service: flag data by item, as a whole and as a stream, and the events it accepts.
//!
//! Formats: <https://launchdarkly.com/docs/sdk/relay-proxy/endpoints> and the SDKs' own requests.

use super::serve::{Body, Server, cut, header, response, with_header};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream::{self, StreamExt};
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// Where events are sent.
const EVENTS: &str = "/bulk";

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
    /// Half the body, and nothing more.
    StalledBody,
    /// Half the body, announced as a whole one, then the end of the connection.
    CutBody,
    /// The same, but the connection is reset.
    ResetBody,
    /// Half the body, well framed.
    TruncatedJson,
    /// A body of another service, with its content type.
    Text(&'static str, &'static str),
    /// A body of this many bytes, whose length is not announced.
    Huge(usize),
    /// To another address.
    Redirect(&'static str),
}

/// An environment's flags and segments, by key.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Data {
    pub flags: Map<String, Value>,
    pub segments: Map<String, Value>,
}

/// A running LaunchDarkly.
pub struct LaunchDarkly {
    server: Server<State>,
}

struct State {
    key: String,
    data: Mutex<Data>,
    /// `data` as a whole, as it is sent. Kept, because writing 10,000 flags takes longer than most functions start.
    whole: Mutex<Option<Arc<str>>>,
    /// By path. The fault of the empty path is that of all flag data which has none of its own.
    faults: Mutex<HashMap<String, Fault>>,
    max_age: Mutex<Option<u64>>,
    seen: watch::Sender<Vec<Request<Bytes>>>,
    events: watch::Sender<Vec<Value>>,
    changes: broadcast::Sender<String>,
}

impl LaunchDarkly {
    /// Starts it on a free port, with an environment whose SDK key is `key`; fails if no port is free.
    pub async fn start(key: &str, data: Data) -> io::Result<Self> {
        let state = State {
            key: key.to_owned(),
            data: Mutex::new(data),
            whole: Mutex::default(),
            faults: Mutex::default(),
            max_age: Mutex::default(),
            seen: watch::Sender::default(),
            events: watch::Sender::default(),
            changes: broadcast::Sender::new(64),
        };
        Ok(Self { server: Server::start(state, answer).await? })
    }

    /// For the three `LAUNCHDARKLY_..._URI` variables.
    pub fn uri(&self) -> String {
        self.server.uri()
    }

    /// Replaces a flag and sends it to the streams.
    pub fn set_flag(&self, flag: &Value) {
        let key = flag.get("key").and_then(Value::as_str).unwrap_or_default().to_owned();
        self.change(|data| drop(data.flags.insert(key.clone(), flag.clone())));
        let patch = json!({"path": format!("/flags/{key}"), "data": flag});
        let _ = self.server.state.changes.send(format!("event: patch\ndata: {patch}\n\n"));
    }

    /// Deletes a flag and notifies the streams, with the version that its tombstone is to have.
    pub fn delete_flag(&self, key: &str, version: u64) {
        self.change(|data| drop(data.flags.remove(key)));
        let delete = json!({"path": format!("/flags/{key}"), "version": version});
        let _ = self.server.state.changes.send(format!("event: delete\ndata: {delete}\n\n"));
    }

    /// Changes the data without notifying the streams.
    pub fn change(&self, change: impl FnOnce(&mut Data)) {
        change(&mut self.server.state.data.lock());
        *self.server.state.whole.lock() = None;
    }

    /// From now on, requests for flag data fail like this.
    pub fn fail(&self, fault: Fault) {
        self.fail_at("", fault);
    }

    /// From now on, requests for one path, such as `/sdk/segments/testers`, fail like this; `Fault::None` ends it.
    pub fn fail_at(&self, path: &str, fault: Fault) {
        let mut faults = self.server.state.faults.lock();
        match fault {
            Fault::None => drop(faults.remove(path)),
            fault => drop(faults.insert(path.to_owned(), fault)),
        }
    }

    /// From now on, events fail like this.
    pub fn fail_events(&self, fault: Fault) {
        self.fail_at(EVENTS, fault);
    }

    /// The environment's TTL setting, in seconds.
    pub fn set_max_age(&self, seconds: Option<u64>) {
        *self.server.state.max_age.lock() = seconds;
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
    pub fn seen(&self) -> Vec<Request<Bytes>> {
        self.server.state.seen.borrow().clone()
    }

    /// How many requests there were whose method and path begin like this: `GET /sdk/flags/`.
    pub fn count(&self, what: &str) -> usize {
        count(&self.server.state.seen.borrow(), what)
    }

    /// Waits until there were `times` requests like this.
    pub async fn asked(&self, what: &str, times: usize) {
        // The sender lives as long as this.
        let _ = self.server.state.seen.subscribe().wait_for(|seen| count(seen, what) >= times).await;
    }

    /// The events that arrived so far.
    pub fn events(&self) -> Vec<Value> {
        self.server.state.events.borrow().clone()
    }

    /// Waits until the events that arrived are as wanted.
    pub async fn received(&self, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let mut events = self.server.state.events.subscribe();
        events.wait_for(|events| wanted(events)).await.map(|events| events.clone()).unwrap_or_default()
    }
}

fn count(seen: &[Request<Bytes>], what: &str) -> usize {
    let is_like = |seen: &&Request<Bytes>| format!("{} {}", seen.method(), seen.uri().path()).starts_with(what);
    seen.iter().filter(is_like).count()
}

impl State {
    fn whole(&self) -> Arc<str> {
        let write = || {
            let Data { flags, segments } = &*self.data.lock();
            json!({"flags": flags, "segments": segments}).to_string().into()
        };
        self.whole.lock().get_or_insert_with(write).clone()
    }

    fn fault(&self, path: &str) -> Fault {
        let faults = self.faults.lock();
        let of_flag_data = || faults.get("").filter(|_| path != EVENTS);
        faults.get(path).or_else(of_flag_data).cloned().unwrap_or_default()
    }
}

async fn answer(state: Arc<State>, request: Request<Bytes>) -> Response<Body> {
    let (path, headers) = (request.uri().path(), request.headers());
    state.seen.send_modify(|all| all.push(request.clone()));
    if header(headers, "authorization") != state.key {
        return response(401, r#"{"message":"invalid SDK key"}"#);
    }
    let fault = state.fault(path);
    let body = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["", "bulk"] => {
            if matches!(fault, Fault::None | Fault::SlowHeaders(_)) {
                let Ok(events) = serde_json::from_slice::<Vec<_>>(request.body()) else { return response(400, "") };
                state.events.send_modify(|all| all.extend(events));
            }
            return failing(fault, Bytes::new(), response(202, "")).await;
        }
        ["", "all"] if fault == Fault::None => return put_and_patches(&state),
        ["", "diagnostic"] => return response(202, ""),
        ["", "sdk", "latest-all"] => Some(state.whole().to_string()),
        ["", "sdk", "flags", key] => state.data.lock().flags.get(*key).map(Value::to_string),
        ["", "sdk", "segments", key] => state.data.lock().segments.get(*key).map(Value::to_string),
        _ => None,
    };
    let Some(body) = body else { return failing(fault, Bytes::new(), response(404, "{}")).await };

    let etag = format!("\"{:016x}\"", BuildHasherDefault::<DefaultHasher>::default().hash_one(&body));
    let unchanged = fault == Fault::None && header(headers, "if-none-match") == etag;
    let is_packed = header(headers, "accept-encoding").contains("gzip") && !unchanged;
    let body: Bytes = if is_packed { gzip(&body) } else { body.into_bytes() }.into();
    let mut answer = if unchanged { response(304, "") } else { response(200, body.clone()) };
    answer = with_header(answer, "etag", &etag);
    if let Some(age) = *state.max_age.lock() {
        answer = with_header(answer, "cache-control", &format!("max-age={age}"));
    }
    if is_packed {
        answer = with_header(answer, "content-encoding", "gzip");
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
async fn failing(fault: Fault, body: Bytes, mut answer: Response<Body>) -> Response<Body> {
    match fault {
        Fault::None => {}
        Fault::Status(status, retry_after) => {
            answer = response(status, "{}");
            if let Some(seconds) = retry_after {
                answer = with_header(answer, "retry-after", &seconds.to_string());
            }
        }
        Fault::BlackHole => std::future::pending().await,
        Fault::SlowHeaders(time) => tokio::time::sleep(time).await,
        Fault::StalledBody => answer = cut(answer, &body, None),
        Fault::CutBody => answer = cut(answer, &body, Some(io::ErrorKind::Other)),
        Fault::ResetBody => answer = cut(answer, &body, Some(io::ErrorKind::ConnectionReset)),
        Fault::TruncatedJson => *answer.body_mut() = response(200, body.slice(..body.len() / 2)).into_body(),
        Fault::Text(content_type, text) => answer = with_header(response(200, text), "content-type", content_type),
        Fault::Huge(size) => {
            let spaces = stream::iter([Ok(Frame::data(Bytes::from(vec![b' '; size])))]);
            answer = response(200, "").map(|_| Body::new(StreamBody::new(spaces)));
        }
        Fault::Redirect(location) => answer = with_header(response(302, ""), "location", location),
    }
    answer
}

/// The stream: everything first, then each change.
fn put_and_patches(state: &State) -> Response<Body> {
    let changes = state.changes.subscribe();
    let first = stream::iter([format!("event: put\ndata: {{\"path\":\"/\",\"data\":{}}}\n\n", state.whole())]);
    let rest = stream::unfold(changes, |mut changes| async move { Some((changes.recv().await.ok()?, changes)) });
    let frames = first.chain(rest).map(|text| Ok(Frame::data(Bytes::from(text))));
    with_header(Response::new(Body::new(StreamBody::new(frames))), "content-type", "text/event-stream")
}
