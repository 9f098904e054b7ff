//! flag-sync as Lambda runs it: the real binary, behind a webhook and on a schedule; and as an operator runs it.

use crate::databases::one;
use data_encoding::{BASE64, HEXLOWER};
use flag_data::items::ItemKind::Flag;
use flag_data::items::State;
use flag_data::stores::{DynamoDb, DynamoDbDataStore, Store};
use ring::hmac;
use serde_json::{Value, json};
use standins::Wire;
use standins::samples::{data, flag};
use standins::{Aws, DynamoDbFault, Fault, Function, LaunchDarkly, Outcome, RuntimeApi};
use standins::{samples, servers};
use std::process::{Output, Stdio};
use std::time::{Duration, SystemTime};
use tokio::process::Command;

const BINARY: &str = env!("CARGO_BIN_EXE_flag-sync");
const SECRET: &str = "the webhook's secret";
const BODY: &str = r#"{"_id":"1","kind":"flag","date":1700000000000,"accesses":[]}"#;

struct Lambda {
    api: RuntimeApi,
    function: Function,
    launchdarkly: LaunchDarkly,
    aws: Aws,
    store: DynamoDb,
}

fn environment(aws: &Aws) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ("AWS_REGION", "eu-central-1".to_owned()),
        ("AWS_ENDPOINT_URL_DYNAMODB", aws.uri()),
        ("AWS_ENDPOINT_URL_SSM", aws.uri()),
        ("AWS_ENDPOINT_URL_SECRETS_MANAGER", aws.uri()),
    ]
}

const WEBHOOK_SECRET: &str = "arn:aws:secretsmanager:eu-central-1:000000000000:secret:webhook-AbCdEf";

impl Lambda {
    async fn start() -> Self {
        Self::start_with(Vec::new()).await
    }

    /// With other settings.
    async fn start_with(settings: Vec<(&'static str, String)>) -> Self {
        let launchdarkly = LaunchDarkly::start("sdk-test", data(&[flag("a", 1)], &[])).await.unwrap();
        let aws = Aws::start().await.unwrap();
        aws.set_secret("/redirect/sdk-key", "sdk-test");
        aws.set_secret_at(WEBHOOK_SECRET, SECRET, SystemTime::now() - Duration::from_secs(30 * 24 * 3_600));
        let table = servers::new_table().await;
        let api = RuntimeApi::start().await.unwrap();
        let mut environment = environment(&aws);
        environment.extend([
            ("FLAG_SYNC_TABLE", table.clone()),
            ("FLAG_SYNC_SDK_KEY_PARAMETER", "/redirect/sdk-key".to_owned()),
            ("FLAG_SYNC_WEBHOOK_SECRET_PARAMETER", WEBHOOK_SECRET.to_owned()),
            ("FLAG_SYNC_CACHE_WAIT_MS", "1".to_owned()),
            ("LAUNCHDARKLY_BASE_URI", launchdarkly.uri()),
        ]);
        if settings.iter().any(|(name, _)| *name == "FLAG_SYNC_REDIS") {
            environment.retain(|(name, _)| *name != "FLAG_SYNC_TABLE");
        }
        environment.extend(settings);
        let function = Function::start(BINARY, &api, environment).unwrap();
        let store = DynamoDbDataStore::builder(table).config(crate::databases::config(&servers::dynamodb_uri()));
        Self { api, function, launchdarkly, aws, store: store.build().unwrap() }
    }

    async fn post(&self, body: &str, is_base64: bool, headers: Value) -> u64 {
        let event = json!({
            "version": "2.0", "routeKey": "POST /", "rawPath": "/", "rawQueryString": "", "headers": headers,
            "requestContext": {"http": {"method": "POST", "path": "/", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"},
                               "requestId": "1", "stage": "$default", "timeEpoch": 1},
            "body": body, "isBase64Encoded": is_base64,
        });
        let outcome = self.invoke(&event).await;
        assert!(!outcome.is_error, "{:?}", outcome.body);
        let answer: Value = serde_json::from_slice(&outcome.body).unwrap();
        answer["statusCode"].as_u64().unwrap()
    }

    async fn invoke(&self, event: &Value) -> Outcome {
        self.api.invoke(event.to_string()).await.unwrap()
    }

    async fn version(&self) -> Option<u64> {
        one(&self.store, Flag, "a").await.map(|item| item.version)
    }

    /// How often a secret was read, and how many other requests AWS had.
    fn requests(&self) -> (usize, usize) {
        let secrets = self.aws.count("GetParameter") + self.aws.count("GetSecretValue");
        (secrets, self.aws.seen().len() - secrets)
    }

    /// Nothing secret, ever.
    fn check_log(&self) {
        for line in self.function.log() {
            for secret in [SECRET, "sdk-test", &signature(BODY)] {
                assert!(!line.contains(secret), "{line}");
            }
        }
    }
}

fn signature(body: &str) -> String {
    signature_with(SECRET, body)
}

fn signature_with(secret: &str, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    HEXLOWER.encode(hmac::sign(&key, body.as_bytes()).as_ref())
}

fn schedule() -> Value {
    json!({
        "version": "0", "id": "1", "detail-type": "Scheduled Event", "source": "aws.events", "account": "000000000000",
        "time": "2026-01-01T00:00:00Z", "region": "eu-central-1", "resources": [], "detail": {},
    })
}

#[tokio::test]
async fn a_signed_webhook_brings_the_store_up_to_date() {
    let lambda = Lambda::start().await;
    let signed = json!({"x-ld-signature": signature(BODY)});
    assert_eq!(lambda.post(BODY, false, signed.clone()).await, 200);
    assert_eq!(lambda.version().await, Some(1));
    let line = servers::line(&lambda.function, |line| line["outcome"] == "synced").await;
    assert_eq!((line["written"].as_u64(), line["trigger"].as_str()), (Some(1), Some("webhook")));

    lambda.launchdarkly.set_flag(&flag("a", 2));
    assert_eq!(lambda.post(BODY, false, json!({"X-LD-SIGNATURE": signature(BODY)})).await, 200, "any header case");
    assert_eq!(lambda.version().await, Some(2));
    assert_eq!(
        lambda.post(BODY, false, json!({"x-ld-signature": signature(BODY).to_uppercase()})).await,
        200,
        "any case"
    );
    let packed = BASE64.encode(BODY.as_bytes());
    assert_eq!(lambda.post(&packed, true, signed.clone()).await, 200, "base64");
    assert_eq!(lambda.post(BODY, false, signed).await, 200, "replayed");
    let large = "x".repeat(1 << 20);
    assert_eq!(lambda.post(&large, false, json!({"x-ld-signature": signature(&large)})).await, 200, "1 MB, not JSON");
    assert_eq!(lambda.version().await, Some(2));
    assert_eq!(lambda.requests().0, 2, "each secret is read once and kept");
    lambda.check_log();
}

#[tokio::test]
async fn an_unsigned_webhook_does_nothing() {
    let lambda = Lambda::start().await;
    let wrong = signature("another body");
    let checks = [
        (BODY, json!({})),
        (BODY, json!({"x-ld-signature": ""})),
        (BODY, json!({"x-ld-signature": "not hexadecimal"})),
        (BODY, json!({"x-ld-signature": "0".repeat(64)})),
        (BODY, json!({"x-ld-signature": signature(BODY)[..32]})),
        (BODY, json!({"x-ld-signature": wrong})),
        ("", json!({"x-ld-signature": signature(BODY)})),
    ];
    for (body, headers) in checks {
        assert_eq!(lambda.post(body, false, headers.clone()).await, 401, "{headers}");
    }
    assert_eq!(lambda.post("%", true, json!({"x-ld-signature": signature(BODY)})).await, 400);
    assert_eq!(lambda.launchdarkly.seen().len(), 0);
    assert_eq!(lambda.requests().1, 0);
    servers::line(&lambda.function, |line| line["message"].as_str().unwrap_or_default().contains("X-LD-Signature"))
        .await;
    lambda.check_log();
}

#[tokio::test]
async fn without_a_secret_every_webhook_is_rejected_and_the_schedule_works() {
    let lambda = Lambda::start().await;
    lambda.aws.set_secret(WEBHOOK_SECRET, " ");
    assert_eq!(lambda.post(BODY, false, json!({"x-ld-signature": signature(BODY)})).await, 503);
    servers::line(&lambda.function, |line| line["message"].as_str().unwrap_or_default().contains("is empty")).await;
    assert_eq!(lambda.requests().1, 0);
    assert!(!lambda.invoke(&schedule()).await.is_error);
    assert_eq!(lambda.version().await, Some(1));
}

/// A rotation: the new secret is stored first, LaunchDarkly signs with it later.
#[tokio::test]
async fn for_a_day_after_a_rotation_both_secrets_are_accepted() {
    let parameter = "/redirect/rotated";
    let secret = "arn:aws:secretsmanager:eu-central-1:000000000000:secret:rotated-AbCdEf";
    for (place, hours, old, reads) in
        [(parameter, 23, 200, 2), (secret, 23, 200, 2), (parameter, 25, 401, 1), (secret, 25, 401, 1)]
    {
        let lambda = Lambda::start_with(vec![("FLAG_SYNC_WEBHOOK_SECRET_PARAMETER", place.to_owned())]).await;
        let hours_ago = |hours: u64| SystemTime::now() - Duration::from_secs(hours * 3_600);
        lambda.aws.set_secret_at(place, "the oldest secret", hours_ago(2_000));
        lambda.aws.set_secret_at(place, "the old secret", hours_ago(1_000));
        lambda.aws.set_secret_at(place, "the new secret", hours_ago(hours));
        for (signed_with, expected) in
            [("the new secret", 200), ("the old secret", old), ("the oldest secret", 401), (SECRET, 401)]
        {
            let signed = json!({"x-ld-signature": signature_with(signed_with, BODY)});
            let status = lambda.post(BODY, false, signed).await;
            assert_eq!(status, expected, "{place}, changed {hours} h ago, signed with {signed_with}");
        }
        let (operation, sdk_key) = if place == parameter { ("GetParameter", 1) } else { ("GetSecretValue", 0) };
        assert_eq!(lambda.aws.count(operation), reads + sdk_key, "{place}: {:?}", lambda.aws.seen());
        let log = lambda.function.log();
        assert!(!log.iter().any(|line| line.contains("the new secret") || line.contains("the old secret")), "{log:?}");
    }
}

#[tokio::test]
async fn webhooks_out_of_order_and_at_once_end_in_the_newest_data() {
    let lambda = Lambda::start().await;
    for version in [3, 2, 5, 4] {
        lambda.launchdarkly.set_flag(&flag("a", version.max(lambda.version().await.unwrap_or(0))));
        let body = format!(r#"{{"date":{version}}}"#);
        assert_eq!(lambda.post(&body, false, json!({"x-ld-signature": signature(&body)})).await, 200);
    }
    assert_eq!(lambda.version().await, Some(5));
}

#[tokio::test]
async fn a_failed_run_is_reported_so_that_it_is_retried() {
    let lambda = Lambda::start().await;
    let signed = json!({"x-ld-signature": signature(BODY)});
    lambda.launchdarkly.fail(Fault::Status(500, None));
    assert_eq!(lambda.post(BODY, false, signed.clone()).await, 502);
    let scheduled = lambda.invoke(&schedule()).await;
    assert!(scheduled.is_error && String::from_utf8_lossy(&scheduled.body).contains("HTTP 500"));
    lambda.launchdarkly.fail(Fault::None);
    lambda.aws.fail("PutItem", 0, usize::MAX, DynamoDbFault::Refuse);
    assert_eq!(lambda.post(BODY, false, signed.clone()).await, 502);
    lambda.aws.heal();
    assert_eq!(lambda.post(BODY, false, signed).await, 200);
    servers::line(&lambda.function, |line| line["outcome"] == "failed").await;
    lambda.check_log();
}

#[tokio::test]
async fn an_sdk_key_that_was_rejected_is_read_again() {
    let lambda = Lambda::start().await;
    lambda.aws.set_secret("/redirect/sdk-key", "sdk-old");
    assert!(lambda.invoke(&schedule()).await.is_error);
    lambda.aws.set_secret("/redirect/sdk-key", "sdk-test");
    assert!(!lambda.invoke(&schedule()).await.is_error);
}

/// The clocks of a frozen environment may stop; the deadline of the next event shows how long it was frozen.
#[tokio::test]
async fn after_a_freeze_no_connection_and_no_secret_is_used_again() {
    let wire = Wire::to(servers::REDIS.port).await;
    let prefix = ("FLAG_SYNC_PREFIX", servers::unique("frozen"));
    let lambda = Lambda::start_with(vec![("FLAG_SYNC_REDIS", wire.url()), prefix]).await;
    let counts = || (lambda.launchdarkly.connections(), wire.connections(), lambda.requests().0);
    let first = SystemTime::now() + Duration::from_secs(60);
    for (after, expected) in [(0, (1, 1, 1)), (1, (1, 1, 1)), (600, (2, 2, 2)), (601, (2, 2, 2))] {
        let deadline = first + Duration::from_secs(after);
        let outcome = lambda.api.invoke_with_deadline(schedule().to_string(), deadline).await.unwrap();
        assert!(!outcome.is_error, "{:?}", outcome.body);
        assert_eq!(counts(), expected, "{after} s after the first deadline");
    }
}

/// A run that Lambda kills could neither log its failure nor close its connections.
#[tokio::test]
async fn a_run_ends_before_its_invocation_does() {
    let lambda = Lambda::start().await;
    lambda.launchdarkly.fail(Fault::BlackHole);
    let deadline = SystemTime::now() + Duration::from_secs(3);
    let outcome = lambda.api.invoke_with_deadline(schedule().to_string(), deadline).await.unwrap();
    assert!(SystemTime::now() < deadline, "it ended too late");
    assert!(outcome.is_error);
    let line = servers::line(&lambda.function, |line| line["outcome"] == "failed").await;
    assert!(line["message"].as_str().unwrap().contains("the invocation's time was over"), "{line}");
}

#[tokio::test]
async fn other_events_and_methods_are_rejected() {
    let lambda = Lambda::start().await;
    for (event, expected) in [
        (json!({}), "neither an HTTP request nor an EventBridge event"),
        (json!({"Records": []}), "neither an HTTP request nor an EventBridge event"),
        (json!({"httpMethod": "POST", "requestContext": {"stage": "prod"}}), "payload format 2.0"),
    ] {
        let outcome = lambda.invoke(&event).await;
        assert!(outcome.is_error && String::from_utf8_lossy(&outcome.body).contains(expected), "{:?}", outcome.body);
    }
    let get = json!({"version": "2.0", "headers": {}, "requestContext": {"http": {"method": "GET"}}});
    let answer: Value = serde_json::from_slice(&lambda.invoke(&get).await.body).unwrap();
    assert_eq!(answer["statusCode"], 405);
}

/// flag-sync as an operator runs it.
pub(crate) async fn command(arguments: &[&str], environment: &[(&str, String)]) -> (i32, String, String) {
    let mut command = Command::new(BINARY);
    command.args(arguments).env_clear().envs(environment.iter().map(|(name, value)| (*name, value)));
    let Output { status, stdout, stderr } = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(stdout), text(stderr));
    assert!(!stdout.contains("sdk-test") && !stderr.contains("sdk-test"), "{stdout}{stderr}");
    (status.code().unwrap(), stdout, stderr)
}

#[tokio::test]
async fn an_operator_can_check_and_write() {
    let Lambda { launchdarkly, aws, .. } = Lambda::start().await;
    let table = servers::new_table().await;
    let mut environment = environment(&aws);
    environment.push(("LAUNCHDARKLY_BASE_URI", launchdarkly.uri()));
    environment.push(("LAUNCHDARKLY_SDK_KEY", "sdk-test".to_owned()));
    let run = async |arguments: &[&str]| command(&[arguments, &["--table", &table]].concat(), &environment).await;

    let (code, text, _) = run(&["check"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("missing") && text.contains("not marked as initialized"), "{text}");
    let (code, text, _) = run(&["once"]).await;
    assert_eq!((code, text.trim()), (0, "1 flags and 0 segments in LaunchDarkly: 1 written, 0 deleted"));
    launchdarkly.set_flag(&flag("a", 3));
    launchdarkly.set_flag(&flag("b", 1));
    let (code, text, _) = run(&["check"]).await;
    assert_eq!(code, 1);
    let rows: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(rows.contains(&vec!["flag", "a", "3", "1", "older"]), "{text}");
    assert!(rows.contains(&vec!["flag", "b", "1", "-", "missing"]), "{text}");
    let (_, text, _) = run(&["once", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["written"], 2);
    let (code, text, _) = run(&["check", "--json"]).await;
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &found["in_sync"], &found["differences"]), (0, &json!(true), &json!([])));
    assert!(found["synced_at"].as_str().unwrap().ends_with('Z'));
}

/// `flag-sync check | head`: the reader closes the pipe before everything is written.
#[tokio::test]
async fn a_closed_pipe_is_not_an_error() {
    let Lambda { launchdarkly, aws, .. } = Lambda::start().await;
    let mut environment = environment(&aws);
    environment.push(("LAUNCHDARKLY_BASE_URI", launchdarkly.uri()));
    environment.push(("LAUNCHDARKLY_SDK_KEY", "sdk-test".to_owned()));
    environment.push(("FLAG_SYNC_TABLE", servers::new_table().await));
    for (arguments, expected) in [(["check"].as_slice(), 1), (&["check", "--json"], 1), (&["once"], 0), (&["check"], 0)]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(BINARY);
        command.args(arguments).env_clear().envs(environment.iter().map(|(name, value)| (*name, value)));
        let running = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let Output { status, stderr, .. } = running.wait_with_output().await.unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!((status.code(), stderr.as_str()), (Some(expected), ""), "{arguments:?}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = Command::new(BINARY).arg("once").env_clear().stdout(Stdio::null()).stderr(writer).status().await;
    assert_eq!(status.unwrap().code(), Some(2), "standard error is closed too");
}

/// The SDK key of another environment looks like this: many items are missing or older there.
#[tokio::test]
async fn an_operator_can_confirm_a_mass_change() {
    let launchdarkly = LaunchDarkly::start("sdk-test", data(&flags(0..20, 5), &[])).await.unwrap();
    let environment = [
        ("FLAG_SYNC_REDIS", servers::redis_url()),
        ("FLAG_SYNC_PREFIX", servers::unique("mass")),
        ("FLAG_SYNC_CACHE_WAIT_MS", "1".to_owned()),
        ("LAUNCHDARKLY_BASE_URI", launchdarkly.uri()),
        ("LAUNCHDARKLY_SDK_KEY", "sdk-test".to_owned()),
    ];
    let (code, ..) = command(&["once"], &environment).await;
    assert_eq!(code, 0);
    launchdarkly.change(|other| *other = data(&[flags(0..5, 4), flags(18..20, 6)].concat(), &[]));
    let (code, text, _) = command(&["check"], &environment).await;
    assert_eq!(code, 1);
    assert!(text.contains("18 of 20 items") && text.contains("--confirm-mass-change"), "{text}");
    let (_, text, _) = command(&["check", "--json"], &environment).await;
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&found["needs_confirmation"], found["differences"].as_array().unwrap().len()), (&json!(true), 20));

    let (code, text, error) = command(&["once"], &environment).await;
    assert_eq!((code, text.as_str()), (2, ""));
    for expected in ["2 items that have risen in version were written", "18 of 20", "SDK key", "--confirm-mass-change"]
    {
        assert!(error.contains(expected), "{expected:?} is not in: {error}");
    }
    let (_, text, _) = command(&["check", "--json"], &environment).await;
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["differences"].as_array().unwrap().len(), 18);
    let (code, text, error) = command(&["once", "--confirm-mass-change", "--json"], &environment).await;
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{error}"));
    assert_eq!((code, &report["written"], &report["deleted"]), (0, &json!(5), &json!(13)));
    let (code, ..) = command(&["check"], &environment).await;
    assert_eq!(code, 0);
}

fn flags(numbers: std::ops::Range<u32>, version: u64) -> Vec<Value> {
    numbers.map(|number| flag(&format!("flag-{number}"), version)).collect()
}

#[tokio::test]
async fn a_setting_of_the_function_confirms_a_mass_change() {
    for (setting, is_confirmed) in [(None, false), (Some("false"), false), (Some("true"), true)] {
        let setting = setting.map(|value| ("FLAG_SYNC_CONFIRM_MASS_CHANGE", value.to_owned()));
        let lambda = Lambda::start_with(setting.into_iter().collect()).await;
        lambda.launchdarkly.change(|data| *data = samples::data(&flags(0..11, 5), &[]));
        assert!(!lambda.invoke(&schedule()).await.is_error);
        lambda.launchdarkly.change(|data| *data = samples::data(&flags(0..5, 6), &[]));
        let outcome = lambda.invoke(&schedule()).await;
        assert_eq!(!outcome.is_error, is_confirmed, "{:?}", outcome.body);
        assert!(is_confirmed || String::from_utf8_lossy(&outcome.body).contains("ConfirmMassChange"));
        let found = lambda.store.all(Flag).await.unwrap();
        let count = |wanted: State| found.values().filter(|item| item.state == wanted).count();
        assert_eq!(count(State::Deleted), if is_confirmed { 6 } else { 0 });
        assert!(
            (0..5).all(|number| found[&format!("flag-{number}")].version == 6),
            "a higher version is written at once"
        );
    }
}

/// The output of a command whose standard streams are a terminal.
async fn on_a_terminal(arguments: &[&str], environment: &[(&str, String)]) -> String {
    let spawn = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)";
    let mut command = Command::new("python3");
    command.args(["-c", spawn, BINARY]).args(arguments).stdin(Stdio::null());
    command.envs(environment.iter().map(|(name, value)| (*name, value))).env("TERM", "xterm");
    String::from_utf8(command.output().await.unwrap().stdout).unwrap()
}

#[tokio::test]
async fn progress_is_shown_on_a_terminal_only() {
    // So many that writing them lasts for several of the bar's ticks, 0.1 s each.
    let flags: Vec<_> = (0..5_000).map(|n| flag(&format!("flag-{n}"), 1)).collect();
    let launchdarkly = LaunchDarkly::start("sdk-test", data(&flags, &[])).await.unwrap();
    let environment = [
        ("FLAG_SYNC_REDIS", servers::redis_url()),
        ("FLAG_SYNC_PREFIX", servers::unique("terminal")),
        ("LAUNCHDARKLY_BASE_URI", launchdarkly.uri()),
        ("LAUNCHDARKLY_SDK_KEY", "sdk-test".to_owned()),
    ];
    let reads = "reading LaunchDarkly and the store";
    let (_, text, errors) = command(&["check"], &environment).await;
    assert!(text.contains("... and 4950 more; --json lists them all") && errors.is_empty(), "{text}{errors}");
    assert_eq!(text.lines().filter(|line| line.trim_end().ends_with("missing")).count(), 50);
    assert!(on_a_terminal(&["check"], &environment).await.contains(reads));

    let text = on_a_terminal(&["once"], &environment).await;
    assert!(text.contains(reads) && text.contains(" of 5,000 items "), "{text:?}");
    assert!(
        text.ends_with("\u{1b}[2K5000 flags and 0 segments in LaunchDarkly: 5000 written, 0 deleted\r\n"),
        "{text:?}"
    );
    for number in 0..120 {
        launchdarkly.set_flag(&flag(&format!("flag-{number}"), 2));
    }
    let (code, text, errors) = command(&["once"], &environment).await;
    assert!(code == 0 && text.lines().count() == 1 && errors.is_empty(), "{text}{errors}");
}

#[tokio::test]
async fn an_operator_learns_which_setting_is_missing() {
    let region = ("AWS_REGION", "eu-central-1".to_owned());
    let table = ("FLAG_SYNC_TABLE", "flags".to_owned());
    for (environment, expected) in [
        (vec![region.clone()], "no store is set. Set FLAG_SYNC_TABLE or FLAG_SYNC_REDIS"),
        (vec![table.clone()], "no Region is set"),
        (vec![table.clone(), region.clone()], "no SDK key is set. Set LAUNCHDARKLY_SDK_KEY"),
        (
            vec![region.clone(), ("FLAG_SYNC_REDIS", "redis://:hunter2@x".to_owned())],
            "FLAG_SYNC_REDIS holds a password",
        ),
    ] {
        let (code, _, text) = command(&["once"], &environment).await;
        assert_eq!(code, 2);
        assert!(text.contains(expected) && !text.contains("hunter2"), "{text}");
    }
    let (code, _, text) = command(&[], &[region, table]).await;
    assert!(code == 2 && text.contains("no command is given"), "{text}");
}
