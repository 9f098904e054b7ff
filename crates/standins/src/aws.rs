//! AWS: a DynamoDB emulator with faults in front of it, and the two services that keep secrets.
//!
//! The protocol of all three: a POST whose `X-Amz-Target` names the operation, with JSON both ways.

use super::serve::{Body, Server, cut, header, response};
use super::servers;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::watch;

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

/// DynamoDB, SSM Parameter Store and Secrets Manager on one port.
pub struct Aws {
    server: Server<State>,
}

struct State {
    dynamodb: Uri,
    client: Client<HttpConnector, Full<Bytes>>,
    rules: Mutex<Vec<Rule>>,
    /// The versions of each secret, with the time of each.
    secrets: Mutex<HashMap<String, Vec<(String, SystemTime)>>>,
    seen: watch::Sender<Vec<(String, String)>>,
}

impl Aws {
    /// Starts it in front of the emulator that the tests share; fails if no port is free.
    pub async fn start() -> io::Result<Self> {
        let state = State {
            dynamodb: servers::dynamodb_uri().parse().map_err(io::Error::other)?,
            client: Client::builder(TokioExecutor::new()).build_http(),
            rules: Mutex::default(),
            secrets: Mutex::default(),
            seen: watch::Sender::default(),
        };
        Ok(Self { server: Server::start(state, answer).await? })
    }

    /// For the variables `AWS_ENDPOINT_URL_...`.
    pub fn uri(&self) -> String {
        self.server.uri()
    }

    /// After `after` more requests of this operation, the next `times` fail. An empty operation means any.
    pub fn fail(&self, operation: &'static str, after: usize, times: usize, fault: DynamoDbFault) {
        self.server.state.rules.lock().push(Rule { operation, region: None, after, times, fault });
    }

    /// From now on, requests to a Region fail.
    pub fn fail_region(&self, region: &'static str, fault: DynamoDbFault) {
        let rule = Rule { operation: "", region: Some(region), after: 0, times: usize::MAX, fault };
        self.server.state.rules.lock().push(rule);
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.server.state.rules.lock().clear();
    }

    /// Adds a version of a secret.
    pub fn set_secret(&self, name: &str, value: &str) {
        self.set_secret_at(name, value, SystemTime::now());
    }

    /// Adds a version that was written at this time.
    pub fn set_secret_at(&self, name: &str, value: &str, at: SystemTime) {
        self.server.state.secrets.lock().entry(name.to_owned()).or_default().push((value.to_owned(), at));
    }

    /// The operations so far, with the Region each was meant for.
    pub fn seen(&self) -> Vec<(String, String)> {
        self.server.state.seen.borrow().clone()
    }

    /// How many requests of an operation there were.
    pub fn count(&self, operation: &str) -> usize {
        count(&self.server.state.seen.borrow(), operation)
    }

    /// Waits until there were `times` requests of an operation.
    pub async fn asked(&self, operation: &str, times: usize) {
        // The sender lives as long as this.
        let _ = self.server.state.seen.subscribe().wait_for(|seen| count(seen, operation) >= times).await;
    }
}

fn count(seen: &[(String, String)], operation: &str) -> usize {
    seen.iter().filter(|(seen, _)| seen == operation).count()
}

impl State {
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

async fn answer(state: Arc<State>, request: Request<Bytes>) -> Response<Body> {
    let operation = header(request.headers(), "x-amz-target").rsplit('.').next().unwrap_or_default().to_owned();
    // `AWS4-HMAC-SHA256 Credential=<key>/<date>/<region>/..`
    let region = header(request.headers(), "authorization").split('/').nth(2).unwrap_or_default().to_owned();
    let fault = state.fault(&operation, &region);
    state.seen.send_modify(|seen| seen.push((operation.clone(), region)));
    let unprocessed = if operation == "BatchGetItem" { "UnprocessedKeys" } else { "UnprocessedItems" };
    let mut asked: Value = serde_json::from_slice(request.body()).unwrap_or_default();
    let left_over = match fault {
        None if operation == "GetParameter" || operation == "GetSecretValue" => {
            return secret(&state.secrets.lock(), &operation, &asked);
        }
        None => None,
        Some(DynamoDbFault::Throttle) => return aws_error("ProvisionedThroughputExceededException", "slow down"),
        Some(DynamoDbFault::Refuse) => return aws_error("AccessDeniedException", "no policy allows it"),
        Some(DynamoDbFault::Hang) => return std::future::pending().await,
        Some(DynamoDbFault::Cut) => return cut(response(200, ""), &Bytes::from("{}"), Some(io::ErrorKind::Other)),
        Some(DynamoDbFault::Empty) => return response(200, r#"{"Responses": {}, "UnprocessedKeys": {}}"#),
        Some(DynamoDbFault::LeaveAll) => {
            return response(200, json!({unprocessed: asked.get("RequestItems")}).to_string());
        }
        Some(DynamoDbFault::LeaveOver) => Some(second_half(&mut asked)),
    };
    let body = if left_over.is_some() { asked.to_string().into() } else { request.body().clone() };
    let mut request = request.map(|_| Full::new(body));
    *request.uri_mut() = state.dynamodb.clone();
    request.headers_mut().remove(HOST);
    request.headers_mut().remove(CONTENT_LENGTH);
    let Ok(answer) = state.client.request(request).await else { return response(502, "{}") };
    let status = answer.status().as_u16();
    let Ok(body) = answer.into_body().collect().await else { return response(502, "{}") };
    let mut body = body.to_bytes();
    if let Some(left_over) = left_over
        && let Ok(mut answer) = serde_json::from_slice::<Map<_, _>>(&body)
    {
        answer.insert(unprocessed.to_owned(), left_over);
        body = Value::Object(answer).to_string().into();
    }
    response(status, body)
}

/// Removes the second half of a batch's requests from it.
fn second_half(batch: &mut Value) -> Value {
    let mut halves = Map::new();
    for (table, requests) in batch.get_mut("RequestItems").and_then(Value::as_object_mut).into_iter().flatten() {
        let half = |list: &mut Vec<Value>| list.split_off(list.len().div_ceil(2));
        if let Some(keys) = requests.get_mut("Keys").and_then(Value::as_array_mut) {
            halves.insert(table.clone(), json!({"Keys": half(keys), "ConsistentRead": true}));
        } else if let Some(requests) = requests.as_array_mut() {
            halves.insert(table.clone(), half(requests).into());
        }
    }
    Value::Object(halves)
}

fn secret(all: &HashMap<String, Vec<(String, SystemTime)>>, operation: &str, asked: &Value) -> Response<Body> {
    let text = |field: &str| asked.get(field).and_then(Value::as_str).unwrap_or_default();
    let is_parameter = operation == "GetParameter";
    if is_parameter && asked.get("WithDecryption") != Some(&Value::Bool(true)) {
        return aws_error("ValidationException", "a SecureString was requested without decryption");
    }
    // `NAME` or `NAME:VERSION`. A secret's name is an ARN, which has colons of its own.
    let (parameter, number) = text("Name").split_once(':').unwrap_or((text("Name"), ""));
    let versions = all.get(if is_parameter { parameter } else { text("SecretId") }).map_or(&[][..], Vec::as_slice);
    // How many versions there were up to this one.
    let count = match text("VersionStage") {
        "AWSPREVIOUS" => versions.len().saturating_sub(1),
        _ => number.parse().unwrap_or(versions.len()),
    };
    let Some((value, at)) = versions.get(..count).and_then(<[_]>::last) else {
        let code = if is_parameter { "ParameterVersionNotFound" } else { "ResourceNotFoundException" };
        return aws_error(code, "no such secret, or version of it");
    };
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let found = if is_parameter {
        json!({"Parameter": {"Type": "SecureString", "Value": value, "Version": count, "LastModifiedDate": seconds}})
    } else {
        json!({"SecretString": value, "CreatedDate": seconds})
    };
    response(200, found.to_string())
}

fn aws_error(code: &str, message: &str) -> Response<Body> {
    response(400, json!({"__type": format!("com.amazonaws#{code}"), "message": message}).to_string())
}
