//! Keeps the function from becoming slower: counts the instructions of a cold start and of a warm invocation, compares
//! them with those of the no-op function, and fails if there are more than the limits.
//!
//! Valgrind counts them, so the result is the same on a busy machine as on an idle one. The limits are ratios to the
//! floor, so that another loader or C library affects both sides.

use serde_json::{Value, json};
use standins::{Data, Function, LaunchDarkly, RuntimeApi, lambda_environment};
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use tokio::process::Command;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The limits for the function, as multiples of the no-op function's instructions. Lower a limit when the function has
/// become faster; raise it only with the reason in the commit.
const MAX_START: f64 = 2.30;
const MAX_INVOCATION: f64 = 1.91;

const KEY: &str = "sdk-00000000-1111-4222-8333-444444444444";
/// Enough to spread the cost of one-time work, including the flush of events, over the invocations.
const WARM: u32 = 600;

/// Instructions.
struct Count {
    start: f64,
    invocation: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let floor = count("noop").await?;
    let ours = count("redirect").await?;
    println!("{:<16}{:>14}{:>14}{:>8}{:>9}", "instructions", "no-op", "redirect", "ratio", "at most");
    let mut is_good = true;
    for (what, floor, ours, most) in [
        ("cold start", floor.start, ours.start, MAX_START),
        ("invocation", floor.invocation, ours.invocation, MAX_INVOCATION),
    ] {
        println!("{what:<16}{floor:>14.0}{ours:>14.0}{:>8.3}{most:>9.2}", ours / floor);
        is_good &= ours / floor <= most;
    }
    if !is_good {
        println!("The function needs more instructions than the limits in benches/instructions.rs");
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn count(name: &str) -> Result<Count> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/lambda").join(name).join("bootstrap");
    let start = run(&program, 1).await?;
    let all = run(&program, 1 + WARM).await?;
    Ok(Count { start, invocation: (all - start) / f64::from(WARM) })
}

/// The instructions of a process that handles this many events.
async fn run(program: &Path, events: u32) -> Result<f64> {
    let lambda = RuntimeApi::start().await?;
    let mut data = Data::default();
    data.flags.insert("rebrand".to_owned(), flag());
    let launchdarkly = LaunchDarkly::start(KEY, data).await?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    command.env_clear().envs(lambda_environment(&lambda)).env("LAUNCHDARKLY_SDK_KEY", KEY);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    for variable in ["LAUNCHDARKLY_BASE_URI", "LAUNCHDARKLY_STREAM_URI", "LAUNCHDARKLY_EVENTS_URI"] {
        command.env(variable, launchdarkly.uri());
    }
    // Under valgrind everything takes about fifty times as long.
    command.env("REDIRECT_INIT_BUDGET_MS", "9000").env("REDIRECT_BETWEEN_BUDGET_MS", "9000");
    command.env("REDIRECT_FUNCTION_TIMEOUT_SECONDS", "30");
    let mut function = Function::run(command)?;
    // Without white space, like CloudFront's; with another viewer each time.
    let mut event: Value = serde_json::from_str(include_str!("../events/ipv4.json"))?;
    for number in 0..events {
        let ip = event.pointer_mut("/Records/0/cf/request/clientIp").ok_or("the sample event has no clientIp")?;
        *ip = json!(format!("10.0.{}.{}", number / 256, number % 256));
        let outcome = tokio::select! {
            outcome = lambda.invoke(event.to_string()) => outcome.filter(|outcome| !outcome.is_error),
            _ = function.process.wait() => None,
        };
        outcome.ok_or_else(|| format!("no answer: {}", function.log().join("\n")))?;
        lambda.polled(u64::from(number) + 2).await;
    }
    function.terminate();
    function.process.wait().await?;
    let log = function.log_when(|log| log.iter().any(|line| line.contains("Collected : "))).await;
    let collected = log.iter().find_map(|line| line.split_once("Collected : "));
    let (_, count) = collected.ok_or_else(|| format!("valgrind did not count: {}", log.join("\n")))?;
    Ok(count.trim().parse()?)
}

fn flag() -> Value {
    json!({
        "key": "rebrand", "version": 7, "on": true, "prerequisites": [], "targets": [], "rules": [],
        "fallthrough": {"rollout": {"variations": [{"variation": 0, "weight": 50_000}, {"variation": 1, "weight": 50_000}]}},
        "offVariation": 1, "variations": [true, false], "salt": "0123456789abcdef", "trackEvents": false,
    })
}
