//! LaunchDarkly's Relay Proxy, the real one, with the variables that cloudformation/relay.yaml gives it: between the
//! stand-in of LaunchDarkly and everything here that reads what it writes or serves.
//!
//! `just test-relay` builds it, for which Go is needed, and runs these tests. `just test` leaves them out.

use crate::function::command;
use crate::setup::source;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use flag_data::clock::Clock;
use flag_data::items::ItemKind::{Flag, Segment};
use flag_data::items::State;
use flag_data::stores::{DynamoDb, DynamoDbDataStore, RedisDataStore, Store};
use flag_data::transport::{Response, Transport};
use flag_sync::comparison::Comparison;
use http::{Method, Request};
use saphyr::{LoadableYamlNode, Yaml};
use serde_json::{Value, json};
use standins::samples::{flag, rebrand};
use standins::servers;
use standins::{Aws, Edge, Fault, Function, LaunchDarkly};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const KEY: &str = "sdk-test";
const REGION: &str = "eu-central-1";
/// The limit of each wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// cloudformation/relay.yaml, as far as the container and its permissions go.
struct Template(Yaml<'static>);

impl Template {
    fn load() -> Self {
        let documents = Yaml::load_from_str(include_str!("../../../cloudformation/relay.yaml")).unwrap();
        Self(documents.into_iter().next().unwrap())
    }

    fn at(&self, path: &[&str]) -> &Yaml<'static> {
        path.iter().fold(&self.0, |node, key| {
            let item = || node.as_sequence().and_then(|items| items.get(key.parse::<usize>().ok()?));
            node.as_mapping_get(key).or_else(item).unwrap_or_else(|| panic!("{} is missing", path.join(".")))
        })
    }

    fn list(&self, path: &[&str]) -> &[Yaml<'static>] {
        self.at(path).as_sequence().unwrap()
    }

    fn parameter(&self, name: &str, given: &[(&str, &str)]) -> String {
        if let Some((_, value)) = given.iter().find(|(parameter, _)| *parameter == name) {
            return (*value).to_owned();
        }
        let default = self.at(&["Parameters", name, "Default"]);
        default.as_str().map_or_else(|| default.as_integer().unwrap().to_string(), str::to_owned)
    }

    /// A string, `!Ref` of a parameter, or `!Sub` with one.
    fn text(&self, node: &Yaml<'_>, given: &[(&str, &str)]) -> String {
        let Yaml::Tagged(tag, inner) = node else { return node.as_str().expect("a string").to_owned() };
        let text = inner.as_str().unwrap();
        match tag.suffix.as_str() {
            "Ref" => self.parameter(text, given),
            "Sub" => {
                let (before, rest) = text.split_once("${").unwrap();
                let (name, after) = rest.split_once('}').unwrap();
                format!("{before}{}{after}", self.parameter(name, given))
            }
            other => panic!("!{other} is not known here"),
        }
    }

    /// The variables of the container.
    fn environment(&self, given: &[(&str, &str)]) -> BTreeMap<String, String> {
        let container = ["Resources", "TaskDefinition", "Properties", "ContainerDefinitions", "0"];
        let of = |part| self.list(&[container.as_slice(), &[part]].concat());
        let name = |variable: &Yaml<'_>| variable.as_mapping_get("Name").unwrap().as_str().unwrap().to_owned();
        let plain = of("Environment").iter();
        let plain = plain.map(|entry| (name(entry), self.text(entry.as_mapping_get("Value").unwrap(), given)));
        plain.chain(of("Secrets").iter().map(|entry| (name(entry), KEY.to_owned()))).collect()
    }

    /// What the task may do with the table.
    fn permissions(&self) -> BTreeSet<String> {
        let statement = ["Resources", "TaskRole", "Properties", "Policies", "0", "PolicyDocument", "Statement"];
        let actions = self.list(&[statement.as_slice(), &["0", "Action"]].concat()).iter();
        actions.map(|action| action.as_str().unwrap().strip_prefix("dynamodb:").unwrap().to_owned()).collect()
    }

    fn idle_timeout(&self) -> u64 {
        let attributes = self.list(&["Resources", "LoadBalancer", "Properties", "LoadBalancerAttributes"]);
        let of = |attribute: &Yaml<'_>, key| Some(attribute.as_mapping_get(key)?.as_str()?.to_owned());
        let found = attributes.iter().find(|one| of(one, "Key").unwrap() == "idle_timeout.timeout_seconds");
        of(found.unwrap(), "Value").unwrap().parse().unwrap()
    }
}

/// The release that tests/relay/go.mod names.
fn version() -> &'static str {
    let line = include_str!("../../../tests/relay/go.mod").lines().find_map(|line| line.split_once("ld-relay/v8 v"));
    line.unwrap().1.split(' ').next().unwrap()
}

/// A running Relay Proxy. It is killed when this is dropped.
struct Relay {
    process: Function,
    uri: String,
}

impl Relay {
    /// Starts it as the container does. `given` are parameters of the template; `changed` are variables that must be
    /// among those of the template, and `more` are others.
    fn start(
        launchdarkly: &LaunchDarkly,
        given: &[(&str, &str)],
        changed: &[(&str, &str)],
        more: &[(&str, &str)],
    ) -> Self {
        let mut environment = Template::load().environment(&[&[("AWS::Region", REGION)], given].concat());
        let port = servers::free_port().to_string();
        for (name, value) in changed.iter().chain(&[("PORT", port.as_str())]) {
            let variable = environment.get_mut(*name).unwrap_or_else(|| panic!("the template has no {name}"));
            *variable = (*value).to_owned();
        }
        let launchdarkly = launchdarkly.uri();
        let here = [
            ("STREAM_URI", launchdarkly.as_str()),
            ("BASE_URI", &launchdarkly),
            ("EVENTS_HOST", &launchdarkly),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
        ];
        environment.extend(here.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let mut command = tokio::process::Command::new(format!("{}/bin/ld-relay", servers::TOOLS));
        // The image's entry point.
        command.args(["--config", "/ldr/ld-relay.conf", "--allow-missing-file", "--from-env"]);
        command.env_clear().envs(environment);
        let process = Function::run(command).expect("run these tests by `just test-relay`, which builds it");
        Self { process, uri: format!("http://127.0.0.1:{port}") }
    }

    /// Waits for a line of its log.
    async fn logged(&self, text: &str) {
        let wanted = |log: &[String]| log.iter().any(|line| line.contains(text));
        let log = tokio::time::timeout(PATIENCE, self.process.log_when(wanted)).await;
        let log = log.unwrap_or_else(|_| self.process.log());
        assert!(wanted(&log), "no {text:?} in {log:#?}");
    }

    /// Waits until it has LaunchDarkly's data, and has written it.
    async fn ready(self) -> Self {
        self.logged("Initialized LaunchDarkly client").await;
        self
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.ask(Method::GET, path, headers).await
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
        let transport = Transport::new(Clock::default(), PATIENCE);
        let asking = async {
            loop {
                let request = Request::builder().method(&method).uri(format!("{}{path}", self.uri));
                let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
                match transport.exchange(request.body(None::<Bytes>).unwrap(), 1 << 20).await {
                    Ok(response) => return response,
                    // It logs that it listens before it does.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{:#?}", self.process.log()))
    }

    /// As the load balancer's health check asks.
    async fn status(&self) -> Value {
        let template = Template::load();
        let path = template.at(&["Resources", "TargetGroup", "Properties", "HealthCheckPath"]).as_str().unwrap();
        let response = self.get(path, &[]).await;
        assert_eq!(response.head.status, 200);
        serde_json::from_slice(&response.body).unwrap()
    }

    /// The state of its stream from LaunchDarkly.
    async fn stream_is(&self, state: &str) {
        let asking = async {
            while self.status().await["environments"]["flags"]["connectionStatus"]["state"] != state {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{:#?}", self.process.log()));
    }
}

/// A table with DynamoDB before it, and who uses both.
struct Table {
    name: String,
    prefix: &'static str,
    proxy: Aws,
}

impl Table {
    async fn new(prefix: &'static str) -> Self {
        let proxy = Aws::start().await.unwrap();
        Self { name: servers::new_table().await, prefix, proxy }
    }

    async fn relay(&self, launchdarkly: &LaunchDarkly) -> Relay {
        self.start_relay(launchdarkly, &[]).ready().await
    }

    fn start_relay(&self, launchdarkly: &LaunchDarkly, more: &[(&str, &str)]) -> Relay {
        let uri = self.proxy.uri();
        let given = [("TableName", self.name.as_str()), ("Prefix", self.prefix)];
        Relay::start(launchdarkly, &given, &[], &[more, &[("DYNAMODB_URL", &uri)]].concat())
    }

    fn store(&self) -> DynamoDb {
        let builder = DynamoDbDataStore::builder(&self.name).prefix(self.prefix);
        builder.config(crate::databases::config(&servers::dynamodb_uri())).build().unwrap()
    }

    async fn edge(&self) -> Edge {
        edge_function(&[
            ("REDIRECT_SOURCE", "dynamodb"),
            ("REDIRECT_STORE_TABLE", &self.name),
            ("REDIRECT_STORE_PREFIX", self.prefix),
            ("REDIRECT_STORE_REGIONS", REGION),
            ("REDIRECT_REFRESH_AFTER_SECONDS", "0"),
            ("AWS_ENDPOINT_URL_DYNAMODB", &servers::dynamodb_uri()),
            IN_TIME,
        ])
        .await
    }

    /// Waits until a flag in the table is like this.
    async fn has(&self, key: &str, state: State, version: u64) {
        let store = self.store();
        let asking = async {
            loop {
                let flags = store.all(Flag).await.unwrap();
                if flags.get(key).is_some_and(|flag| (flag.state, flag.version) == (state, version)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, asking).await.is_ok();
        assert!(in_time, "{key} is not {state:?} in version {version}");
    }

    async fn flag_sync(&self, launchdarkly: &LaunchDarkly, action: &str) -> (i32, Value) {
        let environment = [
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ENDPOINT_URL_DYNAMODB", servers::dynamodb_uri()),
            ("LAUNCHDARKLY_BASE_URI", launchdarkly.uri()),
            ("LAUNCHDARKLY_SDK_KEY", KEY.to_owned()),
        ];
        let arguments = [action, "--json", "--table", &self.name, "--prefix", self.prefix];
        let (code, text, error) = command(&arguments, &environment).await;
        (code, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{error}")))
    }

    /// The operations so far, whose requests were all signed for the Region of the template.
    fn operations(&self) -> BTreeSet<String> {
        let seen = self.proxy.seen();
        assert!(seen.iter().all(|(_, region)| region == REGION), "{seen:?}");
        seen.into_iter().map(|(operation, _)| operation).collect()
    }
}

/// Visits until the decision is as wanted.
/// Long enough for a busy machine.
const IN_TIME: (&str, &str) = ("REDIRECT_INIT_BUDGET_MS", "2000");

/// The edge function, which cargo builds beside flag-sync.
async fn edge_function(settings: &[(&'static str, &str)]) -> Edge {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_flag-sync")).with_file_name("redirect");
    Edge::start(program, settings).await
}

async fn decides(edge: &Edge, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let visits = async {
        loop {
            last = edge.decide("192.0.2.1").await;
            if wanted(&last) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, visits).await.is_ok();
    assert!(in_time, "{last}; {:#?}", edge.function.log());
    last
}

async fn launchdarkly() -> LaunchDarkly {
    LaunchDarkly::start(KEY, rebrand()).await.unwrap()
}

/// 192.0.2.1 is in the segment: the decision needs the flag, its prerequisite and the segment.
#[track_caller]
fn check_rule_match(line: &Value, source: &str) {
    let expected = [&json!(false), &json!("RULE_MATCH"), &json!(11), &json!("fresh"), &json!(source)];
    let found = ["variation", "reason", "flag_version", "data", "source"].map(|field| &line[field]);
    assert_eq!(found, expected, "{line}");
}

fn says(line: &Value, text: &str) -> bool {
    line["message"].as_str().unwrap_or_default().contains(text)
}

async fn it_fills_the_table(prefix: &'static str) {
    let launchdarkly = launchdarkly().await;
    let table = Table::new(prefix).await;
    let relay = table.relay(&launchdarkly).await;
    let status = relay.status().await;
    assert_eq!((&status["status"], &status["version"]), (&json!("healthy"), &json!(version())));
    assert_eq!(status["environments"]["flags"]["dataStoreStatus"]["database"], "dynamodb");
    assert_eq!(launchdarkly.count("GET /all"), 1);

    let edge = table.edge().await;
    let line = edge.decide("192.0.2.1").await;
    check_rule_match(&line, "dynamodb");
    assert_eq!(line["synced_age_ms"], Value::Null, "only flag-sync records when");
    assert_eq!(table.store().all(Segment).await.unwrap().len(), 1);
    let (code, found) = table.flag_sync(&launchdarkly, "check").await;
    assert_eq!((code, &found["in_sync"], &found["synced_at"]), (0, &json!(true), &Value::Null), "{found}");
    let (code, report) = table.flag_sync(&launchdarkly, "once").await;
    assert_eq!((code, &report["written"], &report["deleted"]), (0, &json!(0), &json!(0)), "{report}");

    launchdarkly.set_flag(&flag("rebrand", 12));
    decides(&edge, |line| line["flag_version"] == 12 && line["reason"] == "FALLTHROUGH").await;
    launchdarkly.delete_flag("rebrand", 13);
    table.has("rebrand", State::Deleted, 13).await;
    decides(&edge, |line| line["variation"] == false && line["reason"] == "ERROR").await;
    assert!(Comparison::make(&table.store(), &source(&launchdarkly)).await.unwrap().differences.is_empty());

    relay.get("/sdk/flags/nowhere", &[("authorization", KEY)]).await;
    assert_eq!(table.operations(), Template::load().permissions(), "it needs what it may, and may what it needs");
    assert!(relay.process.log().iter().all(|line| !line.contains(KEY)));
}

#[tokio::test]
#[ignore = "needs the Relay Proxy: just test-relay"]
async fn it_fills_the_table_without_a_prefix() {
    it_fills_the_table("").await;
}

#[tokio::test]
#[ignore = "needs the Relay Proxy: just test-relay"]
async fn it_fills_the_table_with_a_prefix() {
    it_fills_the_table("production").await;
}

#[tokio::test]
#[ignore = "needs the Relay Proxy: just test-relay"]
async fn what_it_missed_it_gets_when_it_connects_again() {
    let launchdarkly = launchdarkly().await;
    let table = Table::new("").await;
    let _relay = table.relay(&launchdarkly).await;
    launchdarkly.change(|data| {
        data.flags.insert("rebrand".to_owned(), flag("rebrand", 12));
        data.flags.remove("unrelated");
    });
    launchdarkly.drop_connections();
    table.has("rebrand", State::Live, 12).await;
    assert!(Comparison::make(&table.store(), &source(&launchdarkly)).await.unwrap().differences.is_empty());
}

#[tokio::test]
#[ignore = "needs the Relay Proxy: just test-relay"]
async fn two_tasks_share_a_table() {
    let launchdarkly = launchdarkly().await;
    let table = Table::new("").await;
    let relays = [table.relay(&launchdarkly).await, table.relay(&launchdarkly).await];
    let edges = [edge_at(&relays[0], &[]).await, edge_at(&relays[1], &[]).await];
    launchdarkly.set_flag(&flag("rebrand", 12));
    for edge in &edges {
        decides(edge, |line| line["flag_version"] == 12 && line["reason"] == "FALLTHROUGH").await;
    }
    table.has("rebrand", State::Live, 12).await;
}

/// What flag-sync beside it is good for: LaunchDarkly counts a new flag's versions from 1 again.
#[tokio::test]
#[ignore = "needs the Relay Proxy: just test-relay"]
async fn a_flag_made_again_is_held_off_by_its_tombstone_until_flag_sync_runs() {
    let launchdarkly = launchdarkly().await;
    let table = Table::new("").await;
    let _relay = table.relay(&launchdarkly).await;
    launchdarkly.delete_flag("unrelated", 2);
    table.has("unrelated", State::Deleted, 2).await;
    launchdarkly.set_flag(&flag("unrelated", 1));
    table.proxy.asked("PutItem", 2).await;
    let (code, found) = table.flag_sync(&launchdarkly, "check").await;
    assert_eq!((code, &found["differences"][0]["difference"]), (1, &json!("deleted")), "{found}");
    assert_eq!(table.flag_sync(&launchdarkly, "once").await.1["written"], 1);
    table.has("unrelated", State::Live, 1).await;
}

/// An edge function that asks the Relay Proxy by its URL.
async fn edge_at(relay: &Relay, more: &[(&'static str, &str)]) -> Edge {
    let settings = [
        ("LAUNCHDARKLY_SDK_KEY", KEY),
        ("LAUNCHDARKLY_BASE_URI", relay.uri.as_str()),
        ("REDIRECT_EVENTS", "off"),
        ("REDIRECT_FETCH", "items"),
        ("REDIRECT_REFRESH_AFTER_SECONDS", "0"),
        IN_TIME,
    ];
    edge_function(&[settings.as_slice(), more].concat()).await
}

#[tokio::test]
#[ignore = "needs the Relay Proxy: just test-relay"]
async fn its_url_serves_single_items() {
    let launchdarkly = launchdarkly().await;
    let table = Table::new("").await;
    let relay = table.relay(&launchdarkly).await;
    let edge = edge_at(&relay, &[]).await;
    for _ in 0..3 {
        check_rule_match(&edge.decide("192.0.2.1").await, "launchdarkly");
    }
    launchdarkly.set_flag(&flag("rebrand", 12));
    decides(&edge, |line| line["flag_version"] == 12 && line["reason"] == "FALLTHROUGH").await;
    launchdarkly.delete_flag("rebrand", 13);
    decides(&edge, |line| line["variation"] == false && line["reason"] == "ERROR").await;

    let segment = relay.get("/sdk/segments/staff", &[("authorization", KEY)]).await;
    let etag = segment.head.headers["etag"].to_str().unwrap();
    let again = relay.get("/sdk/segments/staff", &[("authorization", KEY), ("if-none-match", etag)]).await;
    assert_eq!((segment.head.status.as_u16(), again.head.status.as_u16()), (200, 304));
}

#[tokio::test]
#[ignore = "needs the Relay Proxy: just test-relay"]
async fn what_its_url_does_not_serve_ends_in_the_default() {
    let launchdarkly = launchdarkly().await;
    let table = Table::new("").await;
    let relay = table.relay(&launchdarkly).await;
    for (setting, logged) in [
        (("LAUNCHDARKLY_SDK_KEY", "sdk-another"), "rejected the SDK key (HTTP 401)"),
        (("REDIRECT_FETCH", "environment"), "/sdk/latest-all answered HTTP 404"),
    ] {
        let edge = edge_at(&relay, &[setting]).await;
        let line = edge.decide("192.0.2.1").await;
        assert_eq!((&line["variation"], &line["data"]), (&json!(false), &json!("default")), "{line}");
        servers::line(&edge.function, |line| says(line, logged)).await;
    }
    let events = relay.ask(Method::POST, "/bulk", &[("authorization", KEY)]).await;
    assert_eq!(events.head.status, 503, "events go to LaunchDarkly itself");
}

#[tokio::test]
#[ignore = "needs the Relay Proxy: just test-relay"]
async fn its_time_to_live_is_an_expiry_date() {
    for (minutes, expected) in [("0", None), ("5", Some(300))] {
        let launchdarkly = launchdarkly().await;
        let table = Table::new("").await;
        let given = [("TableName", table.name.as_str()), ("TtlMinutes", minutes)];
        let relay = Relay::start(&launchdarkly, &given, &[], &[("DYNAMODB_URL", &table.proxy.uri())]).ready().await;
        let headers = relay.get("/sdk/flags/rebrand", &[("authorization", KEY)]).await.head.headers;
        assert!(!headers.contains_key("cache-control"), "{headers:?}");
        let date = |value: &http::HeaderValue| DateTime::parse_from_rfc2822(value.to_str().unwrap()).unwrap();
        let left = headers.get("expires").map(|value| (date(value).to_utc() - Utc::now()).num_seconds());
        assert!(left.is_none_or(|left| (270..=300).contains(&left)), "{left:?}");
        assert_eq!(left.is_some(), expected.is_some());
    }
}

#[tokio::test]
#[ignore = "needs the Relay Proxy: just test-relay"]
async fn launchdarkly_refuses_its_key() {
    let launchdarkly = LaunchDarkly::start("sdk-another", rebrand()).await.unwrap();
    let table = Table::new("").await;
    let relay = table.start_relay(&launchdarkly, &[]);
    relay.stream_is("OFF").await;
    assert_eq!(relay.status().await["status"], "degraded");
    assert_eq!(relay.get("/sdk/flags/rebrand", &[("authorization", KEY)]).await.head.status, 401);
}

/// The task starts while LaunchDarkly cannot be reached. The table is empty, or holds older data.
#[tokio::test]
#[ignore = "needs the Relay Proxy: just test-relay"]
async fn without_launchdarkly_it_serves_the_table() {
    let launchdarkly = launchdarkly().await;
    let (empty, filled) = (Table::new("").await, Table::new("").await);
    drop(filled.relay(&launchdarkly).await);
    launchdarkly.fail(Fault::Status(503, None));

    let relay = empty.start_relay(&launchdarkly, &[]);
    assert_eq!(relay.status().await["status"], "degraded", "and 200: the load balancer leaves it alone");
    let edge = edge_at(&relay, &[]).await;
    let line = edge.decide("192.0.2.1").await;
    assert_eq!((&line["variation"], &line["data"]), (&json!(false), &json!("default")), "{line}");
    servers::line(&edge.function, |line| says(line, "answered HTTP 503")).await;
    // It waits for LaunchDarkly for 10 s, unless configured otherwise; after that it knows no flag.
    let impatient = empty.start_relay(&launchdarkly, &[("INIT_TIMEOUT", "1s")]);
    impatient.logged("initializing LaunchDarkly client").await;
    assert_eq!(impatient.get("/sdk/flags/rebrand", &[("authorization", KEY)]).await.head.status, 404);
    let line = edge_at(&impatient, &[]).await.decide("192.0.2.1").await;
    assert_eq!((&line["variation"], &line["error_kind"]), (&json!(false), &json!("FLAG_NOT_FOUND")), "{line}");

    let from_table = filled.start_relay(&launchdarkly, &[("INIT_TIMEOUT", "1s")]);
    from_table.logged("initializing LaunchDarkly client").await;
    check_rule_match(&edge_at(&from_table, &[]).await.decide("192.0.2.1").await, "launchdarkly");

    launchdarkly.fail(Fault::None);
    relay.stream_is("VALID").await;
    check_rule_match(&decides(&edge, |line| line["data"] == "fresh").await, "launchdarkly");
    assert_eq!(relay.status().await["status"], "healthy");
}

#[tokio::test]
#[ignore = "needs the Relay Proxy: just test-relay"]
async fn its_stream_feeds_a_regional_function_and_stays_alive() {
    let launchdarkly = launchdarkly().await;
    let table = Table::new("").await;
    let (given, uri) = ([("TableName", table.name.as_str())], table.proxy.uri());
    let often = [("HEARTBEAT_INTERVAL", "1s")];
    let relay = Relay::start(&launchdarkly, &given, &often, &[("DYNAMODB_URL", &uri)]).ready().await;
    let streaming = [("REDIRECT_UPDATES", "streaming"), ("LAUNCHDARKLY_STREAM_URI", relay.uri.as_str())];
    let edge = edge_at(&relay, &streaming).await;
    let line = edge.decide("192.0.2.1").await;
    assert_eq!((&line["reason"], &line["data"]), (&json!("RULE_MATCH"), &json!("sdk")), "{line}");
    launchdarkly.set_flag(&flag("rebrand", 12));
    decides(&edge, |line| line["reason"] == "FALLTHROUGH").await;

    let stream = TcpStream::connect(relay.uri.trim_start_matches("http://")).await.unwrap();
    let mut stream = BufReader::new(stream);
    let request = format!("GET /all HTTP/1.1\r\nHost: relay\r\nAuthorization: {KEY}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut lines = stream.lines();
    let heartbeats = async {
        let mut left = 2;
        while left > 0 {
            let line = lines.next_line().await.unwrap().expect("the stream stays open");
            left -= usize::from(line.trim() == ":");
        }
    };
    tokio::time::timeout(PATIENCE, heartbeats).await.expect("two heartbeats");
}

#[tokio::test]
#[ignore = "needs the Relay Proxy: just test-relay"]
async fn redis_instead_of_dynamodb() {
    let launchdarkly = launchdarkly().await;
    let (redis, prefix) = (servers::redis_url(), servers::unique("relay"));
    let given = [("TableName", ""), ("Prefix", prefix.as_str())];
    let changed = [("USE_DYNAMODB", "false")];
    let more = [("USE_REDIS", "true"), ("REDIS_URL", &redis)];
    let _relay = Relay::start(&launchdarkly, &given, &changed, &more).ready().await;
    let edge = edge_function(&[
        ("REDIRECT_SOURCE", "redis"),
        ("REDIRECT_STORE_REDIS_URL", &redis),
        ("REDIRECT_STORE_PREFIX", &prefix),
        ("REDIRECT_REFRESH_AFTER_SECONDS", "0"),
        IN_TIME,
    ])
    .await;
    check_rule_match(&edge.decide("192.0.2.1").await, "redis");
    let store = RedisDataStore::builder(&redis).prefix(&prefix).build().unwrap();
    assert!(Comparison::make(&store, &source(&launchdarkly)).await.unwrap().differences.is_empty());
    launchdarkly.set_flag(&flag("rebrand", 12));
    decides(&edge, |line| line["flag_version"] == 12 && line["reason"] == "FALLTHROUGH").await;
    launchdarkly.delete_flag("rebrand", 13);
    decides(&edge, |line| line["variation"] == false && line["reason"] == "ERROR").await;
}

/// The load balancer's, and that of a function that streams (flags/mod.rs).
#[test]
fn heartbeats_come_within_every_timeout() {
    let template = Template::load();
    let interval = &template.environment(&[("TableName", "flags"), ("AWS::Region", REGION)])["HEARTBEAT_INTERVAL"];
    let minutes: u64 = interval.strip_suffix('m').unwrap().parse().unwrap();
    assert!(minutes * 60 < template.idle_timeout().min(300));
}

#[test]
fn the_template_runs_the_release_that_is_tested() {
    let image = Template::load().parameter("RelayImage", &[]);
    assert_eq!(image, format!("launchdarkly/ld-relay:{}-static-debian12-nonroot", version()));
}
