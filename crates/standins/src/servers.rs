//! Real servers that tests start and stop: redis-server, and dynalite for DynamoDB, each on a free port of its own.
//!
//! dynalite, not moto: like the real DynamoDB it looks at a condition and writes in one step.

#![allow(clippy::missing_panics_doc, clippy::panic, clippy::unwrap_used)] // A test fails by panicking.

use crate::Function;
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where `just` puts what the tests need.
pub const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.tools");

/// The same for what comes from npm.
pub const NODE_MODULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/stores/node/node_modules");

/// A process that ends with this.
pub struct Server {
    process: Child,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
}

impl Server {
    /// Starts a program that prints a line with `ready` when it can be used.
    fn start(mut command: Command, ready: &str, port: u16, hint: &str) -> Self {
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} did not start: {error}; {hint}"));
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let found = lines.by_ref().map_while(Result::ok).find(|line| line.contains(ready));
        let line = found.unwrap_or_else(|| panic!("{command:?} ended before it was ready; {hint}"));
        // dynalite chooses its port and prints it.
        let port = if port == 0 { line.rsplit(':').next().unwrap().trim().parse().unwrap() } else { port };
        // Nobody reads on, but the pipe must stay open.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, port }
    }

    /// Ends the process at once.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Redis binds no free port by itself, so one is found for it.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A Redis on this port, or a free one.
pub fn start_redis(port: Option<u16>) -> Server {
    let port = port.unwrap_or_else(free_port);
    redis_server(port, &["--port", &port.to_string()])
}

/// One that speaks TLS and nothing else.
pub fn start_redis_with_tls(certificate: &str, key: &str) -> Server {
    let port = free_port();
    let tls = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no"];
    redis_server(port, &[&["--port", "0", "--tls-port", &port.to_string()], &tls[..]].concat())
}

fn redis_server(port: u16, arguments: &[&str]) -> Server {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]).args(arguments);
    Server::start(command, "Ready to accept connections", port, "install Debian's package redis-server")
}

fn start_dynamodb() -> Server {
    let script = "const server = require('dynalite')({createTableMs: 0, deleteTableMs: 0, updateTableMs: 0}); \
                  server.listen(0, '127.0.0.1', () => console.log('ready on port:' + server.address().port))";
    let mut command = Command::new("node");
    command.args(["--no-warnings", "-e", script]).env("NODE_PATH", NODE_MODULES);
    let hint = "run these tests by `just test`, which installs dynalite in tests/stores/node";
    Server::start(command, "ready on port:", 0, hint)
}

/// The Redis for all tests, each of which has a prefix of its own.
pub static REDIS: LazyLock<Server> = LazyLock::new(|| kept(start_redis(None)));

/// The DynamoDB for all tests, each of which has a table of its own.
static DYNAMODB: LazyLock<Server> = LazyLock::new(|| kept(start_dynamodb()));

/// A static is never dropped: so its process is stopped when the test process ends.
fn kept(server: Server) -> Server {
    extern "C" fn stop() {
        for server in [&REDIS, &DYNAMODB].into_iter().filter_map(LazyLock::get) {
            // SAFETY: kill touches no memory; the child was not waited for, so the id is its own.
            unsafe { libc::kill(server.process.id().try_into().unwrap(), libc::SIGKILL) };
        }
    }
    // SAFETY: the function is plain and touches only statics that live as long as the process.
    unsafe { libc::atexit(stop) };
    server
}

/// A name that no other test has.
pub fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The address of the Redis that all tests share.
pub fn redis_url() -> String {
    format!("redis://127.0.0.1:{}", REDIS.port)
}

/// The address of the DynamoDB that all tests share.
pub fn dynamodb_uri() -> String {
    format!("http://127.0.0.1:{}", DYNAMODB.port)
}

/// A new table in the shared DynamoDB, in the form that every LaunchDarkly SDK expects; its name.
pub async fn new_table() -> String {
    let table = unique("flags");
    let attributes = ["namespace", "key"].map(|name| json!({"AttributeName": name, "AttributeType": "S"}));
    let definition = json!({
        "TableName": table,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": attributes,
        "KeySchema": [
            {"AttributeName": "namespace", "KeyType": "HASH"},
            {"AttributeName": "key", "KeyType": "RANGE"},
        ],
    });
    let request = http::Request::post(dynamodb_uri())
        .header("content-type", "application/x-amz-json-1.0")
        .header("x-amz-target", "DynamoDB_20120810.CreateTable")
        .header("x-amz-date", "20260101T000000Z")
        .header(
            "authorization",
            "AWS4-HMAC-SHA256 Credential=a/20260101/x/dynamodb/aws4_request, SignedHeaders=host, Signature=b",
        )
        .body(Full::new(Bytes::from(definition.to_string())))
        .unwrap();
    let answer = Client::builder(TokioExecutor::new()).build_http().request(request).await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    table
}

/// Waits for a line of a function's log that fits.
pub async fn line(function: &Function, fits: impl Fn(&Value) -> bool) -> Value {
    let found = |log: &[String]| log.iter().find_map(|line| serde_json::from_str(line).ok().filter(|line| fits(line)));
    let log = function.log_when(|log| found(log).is_some()).await;
    found(&log).unwrap_or_else(|| panic!("no such line before the function ended: {log:?}"))
}
