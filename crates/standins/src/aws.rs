//! Faults in front of a DynamoDB emulator, and the two services that keep secrets.
//!
//! The protocol of all three: a POST whose `X-Amz-Target` names the operation, with JSON both ways.

use super::serve::{Body, Server, full, response};
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::{Notify, watch};

/// How DynamoDB fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum DynamoDbFault {
    /// More than the table's throughput.
    Throttle,
    /// A batch of which only the first half is done.
    LeaveOver,
    /// A batch of which nothing is done.
    LeaveAll,
    /// No permission.
    Refuse,
    /// An incomplete response.
    Cut,
    /// No answer.
    Hang,
    /// A table that holds nothing yet.
    Empty,
    /// No answer until [`DynamoDbProxy::release`] is called; then a good one.
    Hold,
}

/// Which requests fail.
#[derive(Clone, Debug)]
struct Rule {
    operation: &'static str,
    /// By the Region that a request is signed for.
    region: Option<&'static str>,
    after: usize,
    times: usize,
    fault: DynamoDbFault,
}

/// A DynamoDB with faults: a proxy in front of an emulator.
pub struct DynamoDbProxy {
    server: Server,
    state: Arc<ProxyState>,
}

struct ProxyState {
    target: String,
    client: Client<HttpConnector, Full<Bytes>>,
    rules: Mutex<Vec<Rule>>,
    seen: watch::Sender<Vec<(String, String)>>,
    release: Notify,
}

impl DynamoDbProxy {
    /// Starts it on a free port, in front of the emulator at `target`.
    ///
    /// # Errors
    /// No port could be bound.
    pub async fn start(target: &str) -> io::Result<Self> {
        let state = Arc::new(ProxyState {
            target: target.to_owned(),
            client: Client::builder(TokioExecutor::new()).build_http(),
            rules: Mutex::default(),
            seen: watch::Sender::new(Vec::new()),
            release: Notify::new(),
        });
        let shared = state.clone();
        let server = Server::start(move |request| pass_on(shared.clone(), request)).await?;
        Ok(Self { server, state })
    }

    /// For `AWS_ENDPOINT_URL_DYNAMODB`.
    pub fn uri(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// After `after` more requests of this operation, the next `times` fail. An empty operation means any.
    pub fn fail(&self, operation: &'static str, after: usize, times: usize, fault: DynamoDbFault) {
        self.state.rules.lock().push(Rule { operation, region: None, after, times, fault });
    }

    /// From now on, requests to a Region fail.
    pub fn fail_region(&self, region: &'static str, fault: DynamoDbFault) {
        let rule = Rule { operation: "", region: Some(region), after: 0, times: usize::MAX, fault };
        self.state.rules.lock().push(rule);
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.state.rules.lock().clear();
    }

    /// Answers the requests that are held.
    pub fn release(&self) {
        self.heal();
        self.state.release.notify_waiters();
    }

    /// The operations so far, with the Region each was meant for.
    pub fn seen(&self) -> Vec<(String, String)> {
        self.state.seen.borrow().clone()
    }

    /// Waits until there were `times` requests of an operation.
    pub async fn asked(&self, operation: &str, times: usize) {
        let count = |seen: &Vec<(String, String)>| seen.iter().filter(|(seen, _)| seen == operation).count();
        // The sender lives as long as this.
        let _ = self.state.seen.subscribe().wait_for(|seen| count(seen) >= times).await;
    }
}

impl ProxyState {
    fn fault(&self, operation: &str, region: &str) -> Option<DynamoDbFault> {
        let mut rules = self.rules.lock();
        let rule = rules.iter_mut().find(|rule| {
            rule.times > 0
                && (rule.operation.is_empty() || rule.operation == operation)
                && rule.region.is_none_or(|wanted| wanted == region)
        })?;
        if rule.after > 0 {
            rule.after -= 1;
            return None;
        }
        rule.times -= 1;
        Some(rule.fault)
    }
}

async fn pass_on(state: Arc<ProxyState>, request: Request<Incoming>) -> Response<Body> {
    let operation = operation(request.headers());
    let region = region(request.headers());
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return response(400, "{}") };
    let mut body = body.to_bytes();
    let fault = state.fault(&operation, &region);
    state.seen.send_modify(|seen| seen.push((operation.clone(), region)));
    let mut left_over = None;
    match fault {
        None => {}
        Some(DynamoDbFault::Throttle) => {
            return aws_error("ProvisionedThroughputExceededException", "too many requests");
        }
        Some(DynamoDbFault::Refuse) => return aws_error("AccessDeniedException", "no policy allows it"),
        Some(DynamoDbFault::Hang) => return std::future::pending().await,
        Some(DynamoDbFault::Hold) => state.release.notified().await,
        Some(DynamoDbFault::Cut) => {
            let chunks = [Ok(Frame::data(Bytes::from("{"))), Err(io::Error::other("cut on purpose"))];
            let mut answer = response(200, "");
            *answer.body_mut() = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(chunks)));
            return answer;
        }
        Some(DynamoDbFault::Empty) => return json_answer(&json!({"Responses": {}, "UnprocessedKeys": {}})),
        Some(DynamoDbFault::LeaveAll) => {
            let Ok(asked) = serde_json::from_slice::<Value>(&body) else { return response(400, "{}") };
            return json_answer(&json!({unprocessed(&operation): asked.get("RequestItems")}));
        }
        Some(DynamoDbFault::LeaveOver) => {
            let Ok(mut asked) = serde_json::from_slice(&body) else { return response(400, "{}") };
            left_over = Some(second_half(&mut asked));
            body = asked.to_string().into();
        }
    }
    let mut request = Request::post(&state.target);
    for (name, value) in &head.headers {
        if name != "host" && name != "content-length" {
            request = request.header(name, value);
        }
    }
    let Ok(request) = request.body(Full::new(body)) else { return response(400, "{}") };
    let Ok(answer) = state.client.request(request).await else { return response(502, "{}") };
    let status = answer.status().as_u16();
    let Ok(body) = answer.into_body().collect().await else { return response(502, "{}") };
    let mut text = body.to_bytes().to_vec();
    if let Some(left_over) = left_over
        && let Ok(mut answer) = serde_json::from_slice::<Value>(&text)
        && let Some(fields) = answer.as_object_mut()
    {
        fields.insert(unprocessed(&operation).to_owned(), left_over);
        text = answer.to_string().into_bytes();
    }
    response(status, text)
}

fn unprocessed(operation: &str) -> &'static str {
    if operation == "BatchGetItem" { "UnprocessedKeys" } else { "UnprocessedItems" }
}

/// Removes the second half of a batch's requests from it.
fn second_half(batch: &mut Value) -> Value {
    let tables = batch.get_mut("RequestItems").and_then(Value::as_object_mut);
    let mut halves = serde_json::Map::new();
    for (table, requests) in tables.into_iter().flatten() {
        if let Some(keys) = requests.get_mut("Keys").and_then(Value::as_array_mut) {
            let half = keys.split_off(keys.len().div_ceil(2));
            halves.insert(table.clone(), json!({"Keys": half, "ConsistentRead": true}));
        } else if let Some(requests) = requests.as_array_mut() {
            let half = requests.split_off(requests.len().div_ceil(2));
            halves.insert(table.clone(), Value::Array(half));
        }
    }
    Value::Object(halves)
}

/// The secrets of SSM Parameter Store and of Secrets Manager.
pub struct Secrets {
    server: Server,
    state: Arc<SecretsState>,
}

#[derive(Default)]
struct SecretsState {
    /// The versions of each secret, with the time of each.
    versions: Mutex<HashMap<String, Vec<(String, SystemTime)>>>,
    seen: Mutex<Vec<String>>,
}

impl Secrets {
    /// Starts both on one free port.
    ///
    /// # Errors
    /// No port could be bound.
    pub async fn start() -> io::Result<Self> {
        let state = Arc::new(SecretsState::default());
        let shared = state.clone();
        let server = Server::start(move |request| give(shared.clone(), request)).await?;
        Ok(Self { server, state })
    }

    /// For `AWS_ENDPOINT_URL_SSM` and `AWS_ENDPOINT_URL_SECRETS_MANAGER`.
    pub fn uri(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Adds a version of a secret.
    pub fn set(&self, name: &str, value: &str) {
        self.set_at(name, value, SystemTime::now());
    }

    /// Adds a version that was written at this time.
    pub fn set_at(&self, name: &str, value: &str, at: SystemTime) {
        self.state.versions.lock().entry(name.to_owned()).or_default().push((value.to_owned(), at));
    }

    /// The operations so far.
    pub fn seen(&self) -> Vec<String> {
        self.state.seen.lock().clone()
    }
}

async fn give(state: Arc<SecretsState>, request: Request<Incoming>) -> Response<Body> {
    let operation = operation(request.headers());
    state.seen.lock().push(operation.clone());
    let Ok(body) = request.into_body().collect().await else { return response(400, "{}") };
    let asked: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
    let text = |field: &str| asked.get(field).and_then(Value::as_str).unwrap_or_default();
    let all = state.versions.lock();
    // Its number counts from 1.
    let version = |name: &str, number: Option<usize>| {
        let versions = all.get(name)?;
        let number = number.unwrap_or(versions.len());
        let (value, at) = versions.get(number.checked_sub(1)?)?;
        let seconds = at.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64();
        Some((number, value.clone(), seconds))
    };
    match operation.as_str() {
        "GetParameter" if asked.get("WithDecryption") != Some(&Value::Bool(true)) => {
            aws_error("ValidationException", "a SecureString was requested without decryption")
        }
        "GetParameter" => {
            let (name, number) = match text("Name").rsplit_once(':') {
                Some((name, number)) => (name, number.parse().ok()),
                None => (text("Name"), None),
            };
            match version(name, number) {
                Some((number, value, seconds)) => json_answer(&json!({"Parameter": {
                    "Type": "SecureString", "Value": value, "Version": number, "LastModifiedDate": seconds,
                }})),
                None if number.is_some() => aws_error("ParameterVersionNotFound", "no such version"),
                None => aws_error("ParameterNotFound", "no such parameter"),
            }
        }
        "GetSecretValue" => {
            let name = text("SecretId");
            let count = all.get(name).map_or(0, Vec::len);
            let number = if text("VersionStage") == "AWSPREVIOUS" { count.saturating_sub(1) } else { count };
            match version(name, Some(number)) {
                Some((_, value, seconds)) => json_answer(&json!({"SecretString": value, "CreatedDate": seconds})),
                None => aws_error("ResourceNotFoundException", "no such secret or version"),
            }
        }
        _ => aws_error("UnknownOperationException", "not in this stand-in"),
    }
}

fn operation(headers: &HeaderMap) -> String {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    target.rsplit('.').next().unwrap_or_default().to_owned()
}

/// `AWS4-HMAC-SHA256 Credential=<key>/<date>/<region>/..`
fn region(headers: &HeaderMap) -> String {
    let authorization = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    authorization.split('/').nth(2).unwrap_or_default().to_owned()
}

fn json_answer(body: &Value) -> Response<Body> {
    let mut answer = response(200, "");
    *answer.body_mut() = full(body.to_string());
    answer
}

fn aws_error(code: &str, message: &str) -> Response<Body> {
    response(400, json!({"__type": format!("com.amazonaws#{code}"), "message": message}).to_string())
}
