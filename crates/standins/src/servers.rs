//! The servers that the tests start and stop: redis-server and dynalite, each on a free port of its own.

use redirect::flags::Clock;
use redirect::settings::{Fetch, SdkKey};
use redirect::sources::LaunchDarkly;
use redirect::standins;
use redirect::stores::{DynamoDb, DynamoDbDataStore, Redis, RedisDataStore, Store};
use redirect::sync::writer::{MassChange, Report, SyncError};
use redirect::transport::Transport;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Where `just` puts what the tests need.
pub(crate) fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools")
}

/// The same for what comes from npm.
pub(crate) fn node_modules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores/node/node_modules")
}

/// A process that ends with this.
pub(crate) struct Server {
    process: Child,
    pub(crate) port: u16,
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
        // dynalite chooses its port and tells it.
        let port = if port == 0 { line.rsplit(':').next().unwrap().trim().parse().unwrap() } else { port };
        // Nobody reads on, but the pipe must stay open.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, port }
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Redis binds no free port by itself, so one is found for it.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn start_redis(port: Option<u16>) -> Server {
    let port = port.unwrap_or_else(free_port);
    redis_server(port, &["--port", &port.to_string()])
}

/// One that speaks TLS and nothing else.
pub(crate) fn start_redis_with_tls(certificate: &str, key: &str) -> Server {
    let port = free_port();
    let tls = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no"];
    redis_server(port, &[&["--port", "0", "--tls-port", &port.to_string()], &tls[..]].concat())
}

fn redis_server(port: u16, arguments: &[&str]) -> Server {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]).args(arguments);
    Server::start(command, "Ready to accept connections", port, "install Debian's package redis-server")
}

pub(crate) fn start_dynamodb() -> Server {
    let script = "const server = require('dynalite')({createTableMs: 0, deleteTableMs: 0, updateTableMs: 0}); \
                  server.listen(0, '127.0.0.1', () => console.log('ready on port:' + server.address().port))";
    let mut command = Command::new("node");
    command.args(["--no-warnings", "-e", script]).env("NODE_PATH", node_modules());
    Server::start(
        command,
        "ready on port:",
        0,
        "run these tests by `just test`, which installs dynalite in tests/stores/node",
    )
}

/// One Redis and one DynamoDB for all tests, each of which has a prefix or table of its own. They are stopped by the
/// operating system with the test process; see [`end_with_parent`].
static REDIS: LazyLock<u16> = LazyLock::new(|| end_with_parent(start_redis(None)));
static DYNAMODB: LazyLock<u16> = LazyLock::new(|| end_with_parent(start_dynamodb()));

/// A static is never dropped: so its process is stopped when the test process ends.
fn end_with_parent(server: Server) -> u16 {
    static LEFT: parking_lot::Mutex<Vec<u32>> = parking_lot::Mutex::new(Vec::new());
    extern "C" fn stop() {
        for id in LEFT.lock().drain(..) {
            // SAFETY: kill touches no memory; the child was not waited for, so the id is its own.
            unsafe { libc::kill(id.try_into().unwrap(), libc::SIGKILL) };
        }
    }
    let mut left = LEFT.lock();
    if left.is_empty() {
        // SAFETY: the function is plain and touches only a static that lives as long as the process.
        unsafe { libc::atexit(stop) };
    }
    left.push(server.process.id());
    let port = server.port;
    std::mem::forget(server);
    port
}

/// A name that no other test has.
pub(crate) fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn redis_port() -> u16 {
    *REDIS
}

pub(crate) fn redis_url() -> String {
    format!("redis://127.0.0.1:{}", redis_port())
}

pub(crate) fn dynamodb_uri() -> String {
    format!("http://127.0.0.1:{}", *DYNAMODB)
}

/// The SDK's configuration for the emulator, or for what stands before it.
pub(crate) fn config(uri: &str) -> aws_sdk_dynamodb::Config {
    use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
    aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(uri)
        .build()
}

/// A new table, in the form that every LaunchDarkly SDK expects.
pub(crate) async fn new_table() -> String {
    use aws_sdk_dynamodb::types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType};
    let table = unique("flags");
    let transport = Transport::new(Clock::default(), Duration::from_secs(20));
    let config = config(&dynamodb_uri()).to_builder().http_client(redirect::stores::AwsTransport(transport)).build();
    let mut create = aws_sdk_dynamodb::Client::from_conf(config)
        .create_table()
        .table_name(&table)
        .billing_mode(BillingMode::PayPerRequest);
    for (name, kind) in [("namespace", KeyType::Hash), ("key", KeyType::Range)] {
        let attribute = AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S);
        create = create.attribute_definitions(attribute.build().unwrap());
        create = create.key_schema(KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap());
    }
    create.send().await.unwrap();
    table
}

pub(crate) async fn dynamodb() -> DynamoDb {
    let table = new_table().await;
    DynamoDbDataStore::builder(table).config(config(&dynamodb_uri())).build_async().unwrap()
}

pub(crate) fn redis() -> Redis {
    RedisDataStore::builder(redis_url()).prefix(unique("prefix")).build_async().unwrap()
}

/// A LaunchDarkly as flag-sync reads it.
pub(crate) fn source(standin: &standins::LaunchDarkly) -> LaunchDarkly {
    let key = SdkKey::parse("sdk-test").unwrap().unwrap();
    let transport = Transport::new(Clock::default(), Duration::from_secs(10));
    LaunchDarkly::new(transport, &standin.uri(), &key, Fetch::Environment)
}

pub(crate) async fn sync(store: &impl Store, launchdarkly: &LaunchDarkly) -> Result<Report, SyncError> {
    let pause = Duration::from_millis(1);
    redirect::sync::writer::sync(store, launchdarkly, pause, MassChange::Unconfirmed, |_, _| ()).await
}

/// Waits for a line of a function's log that fits.
pub(crate) async fn line(
    function: &standins::Function,
    fits: impl Fn(&serde_json::Value) -> bool,
) -> serde_json::Value {
    let found = |log: &[String]| log.iter().find_map(|line| serde_json::from_str(line).ok().filter(|line| fits(line)));
    let log = function.log_when(|log| found(log).is_some()).await;
    found(&log).unwrap_or_else(|| panic!("no such line before the function ended: {log:?}"))
}
