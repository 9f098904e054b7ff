//! Shared by the tests: a function with its Lambda and its LaunchDarkly, flags, and events.

use serde_json::{Value, json};
use standins::{Data, Function, LaunchDarkly, RuntimeApi};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub const KEY: &str = "sdk-00000000-1111-4222-8333-444444444444";

/// A function with its Lambda and its LaunchDarkly.
pub struct World {
    pub lambda: RuntimeApi,
    pub launchdarkly: LaunchDarkly,
    pub function: Function,
}

/// An answer, in the form that tests check.
#[derive(Debug)]
pub struct Answered {
    pub json: Value,
    pub is_error: bool,
    pub took: Duration,
    /// The decision's log line.
    pub line: Value,
}

impl Answered {
    /// `302 /site/a`, `pass-through`, or `error: ..`.
    pub fn summary(&self) -> String {
        if self.is_error {
            format!("error: {}", self.json["errorMessage"].as_str().unwrap())
        } else if self.json.get("uri").is_some() {
            "pass-through".to_owned()
        } else {
            let location = self.json["headers"]["location"][0]["value"].as_str().unwrap();
            format!("{} {location}", self.json["status"].as_str().unwrap())
        }
    }
}

impl World {
    /// A function that uses this LaunchDarkly; `settings` are its environment variables.
    pub async fn new(launchdarkly: LaunchDarkly, settings: &[(&str, &str)]) -> Self {
        let lambda = RuntimeApi::start().await.unwrap();
        let function = start(&lambda, &launchdarkly.uri(), settings);
        Self { lambda, launchdarkly, function }
    }

    /// A viewer's visit, with Lambda's timeout of five seconds.
    pub async fn visit(&mut self, address: &str, ip: &str) -> Answered {
        self.send(&event(address, ip)).await
    }

    pub async fn send(&mut self, event: &str) -> Answered {
        self.send_at(event, SystemTime::now()).await
    }

    /// An event that arrives at that time, by Lambda's deadline.
    pub async fn send_at(&mut self, event: &str, arrival: SystemTime) -> Answered {
        let deadline = arrival + Duration::from_secs(5);
        let before = decisions(&self.function.log());
        let outcome = tokio::select! {
            biased;
            outcome = self.lambda.invoke_with_deadline(event.to_owned(), deadline) => outcome.unwrap(),
            status = self.function.process.wait() => panic!("the function ended with {status:?}: {:?}", self.function.log()),
        };
        // The line is written before the next event is requested.
        self.lambda.idle().await;
        let count = |log: &[String]| decisions(log) > before;
        let log = self.function.log_when(count).await;
        let line = log.iter().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let line = line.into_iter().find(|line| line.get("outcome").is_some()).unwrap();
        Answered {
            json: serde_json::from_slice(&outcome.body).unwrap(),
            is_error: outcome.is_error,
            took: outcome.took,
            line,
        }
    }

    /// The log lines that are not decisions.
    pub fn messages(&self) -> Vec<String> {
        let log = self.function.log();
        log.into_iter().filter(|line| !line.contains("\"outcome\"")).collect()
    }
}

fn decisions(log: &[String]) -> usize {
    log.iter().filter(|line| line.contains("\"outcome\"")).count()
}

/// A field of the repository's `redirect.toml`.
pub fn field(name: &str) -> Option<String> {
    let line = include_str!("../../redirect.toml").lines().find_map(|line| {
        let rest = line.strip_prefix(name)?.trim_start();
        rest.strip_prefix('=')
    })?;
    Some(line.trim().trim_matches('"').to_owned())
}

/// Starts the edge function of this build.
pub fn start(lambda: &RuntimeApi, launchdarkly: &str, settings: &[(&str, &str)]) -> Function {
    start_program(env!("CARGO_BIN_EXE_redirect"), lambda, launchdarkly, settings)
}

pub fn start_program(program: &str, lambda: &RuntimeApi, launchdarkly: &str, settings: &[(&str, &str)]) -> Function {
    let mut environment = vec![
        // Long enough for a busy machine. A test of a budget sets its own.
        ("REDIRECT_FUNCTION_TIMEOUT_SECONDS", "30"),
        ("REDIRECT_INIT_BUDGET_MS", "9000"),
        ("REDIRECT_VIEWER_BUDGET_MS", "5000"),
        ("REDIRECT_BETWEEN_BUDGET_MS", "10000"),
        ("LAUNCHDARKLY_SDK_KEY", KEY),
        ("LAUNCHDARKLY_BASE_URI", launchdarkly),
        ("LAUNCHDARKLY_STREAM_URI", launchdarkly),
        ("LAUNCHDARKLY_EVENTS_URI", launchdarkly),
    ];
    environment.extend_from_slice(settings);
    Function::start(program, lambda, environment).unwrap()
}

/// An environment that has only the flag `rebrand`.
pub async fn launchdarkly(flag: Value) -> LaunchDarkly {
    let mut data = Data::default();
    data.flags.insert("rebrand".to_owned(), flag);
    LaunchDarkly::start(KEY, data).await.unwrap()
}

/// `rebrand`, with the same variation for everyone.
pub fn flag(version: u64, value: bool) -> Value {
    json!({
        "key": "rebrand", "version": version, "on": true, "prerequisites": [], "targets": [], "rules": [],
        "fallthrough": {"variation": i32::from(!value)}, "offVariation": 1, "variations": [true, false],
        "salt": "0123456789abcdef", "trackEvents": false, "debugEventsUntilDate": null,
    })
}

/// The files of `events/`.
pub fn events() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("events");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut events: Vec<_> = files.filter(|path| path.extension().is_some_and(|ending| ending == "json")).collect();
    assert!(events.len() >= 15);
    events.sort();
    events
}

/// A viewer request as CloudFront sends it.
pub fn event(address: &str, ip: &str) -> String {
    let (uri, query) = address.split_once('?').unwrap_or((address, ""));
    json!({"Records": [{"cf": {
        "config": {
            "distributionDomainName": "d111111abcdef8.cloudfront.net", "distributionId": "EDFDVBD6EXAMPLE",
            "eventType": "viewer-request", "requestId": "4TyzHTaYWb1GX1qTfsHhEqV6HUDd_BzoBZnwfnvQc_1oF26ClkoUSEQ==",
        },
        "request": {
            "clientIp": ip, "method": "GET", "uri": uri, "querystring": query,
            "headers": {"host": [{"key": "Host", "value": "www.example.com"}]},
        },
    }}]})
    .to_string()
}
