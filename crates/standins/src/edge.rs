//! The edge function with a flag store, for tests.

#![allow(clippy::missing_panics_doc, clippy::panic, clippy::unwrap_used, clippy::indexing_slicing)] // A test fails by panicking.

use crate::{Function, RuntimeApi, servers};
use serde_json::{Value, json};
use std::path::Path;

/// The edge function with a store as its source, as Lambda runs it in eu-central-1.
pub struct Edge {
    /// Its Lambda.
    pub api: RuntimeApi,
    /// Its process.
    pub function: Function,
}

impl Edge {
    /// Starts the function with settings of its own.
    pub async fn start(program: impl AsRef<Path>, settings: &[(&'static str, &str)]) -> Self {
        let api = RuntimeApi::start().await.unwrap();
        let environment = [
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            // A store needs no key, and nothing may ask LaunchDarkly.
            ("LAUNCHDARKLY_SDK_KEY", ""),
            ("LAUNCHDARKLY_BASE_URI", "http://127.0.0.1:9"),
        ];
        let function = Function::start(program, &api, environment.iter().chain(settings).copied()).unwrap();
        Self { api, function }
    }

    /// The answer to a viewer's request.
    pub async fn visit(&self, uri: &str, client_ip: &str) -> Value {
        self.send(uri, client_ip, "visit").await
    }

    /// The log line of a decision.
    pub async fn decide(&self, client_ip: &str) -> Value {
        let id = servers::unique("request");
        let answer = self.send("/", client_ip, &id).await;
        assert_eq!(answer["status"], "302", "{answer}");
        servers::line(&self.function, |line| line["request_id"] == id.as_str()).await
    }

    async fn send(&self, uri: &str, client_ip: &str, id: &str) -> Value {
        let event = json!({"Records": [{"cf": {
            "config": {"eventType": "viewer-request", "requestId": id},
            "request": {"clientIp": client_ip, "method": "GET", "uri": uri, "querystring": "", "headers": {}},
        }}]});
        let outcome = self.api.invoke(event.to_string()).await.unwrap();
        self.api.idle().await;
        serde_json::from_slice(&outcome.body).unwrap()
    }
}
