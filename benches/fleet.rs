//! `just fleet`: how a flip of the flag reaches many environments while LaunchDarkly fails at random.
//!
//! The simulation and its short run are tests/it/fleet.rs. Arguments: seed, visits a second, seconds, and
//! `max_staleness_seconds`, whose 60 s are scaled down to it.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

#[path = "../tests/it/fleet.rs"]
mod fleet;
#[path = "../tests/it/setup.rs"]
mod setup;

use chrono::{DateTime, SecondsFormat, Utc};
use fleet::{Decision, Plan, Report, Slice};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime};
use std::{env, fs};

/// The curve's slices up to the bound; as many as a quarter of them follow it.
const SLICES: u32 = 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // Cargo adds an option of its own.
    let given: Vec<_> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number = |index: usize, name: &str, default: u64| {
        let text = given.get(index).map_or(Ok(default), |text| text.parse());
        text.ok().filter(|number| *number > 0 || index == 0).unwrap_or_else(|| {
            eprintln!(
                "{name} is {:?}; expected a whole number from {} up. Run: just fleet [SEED] [RATE] [SECONDS] [STALENESS]",
                given[index],
                u8::from(index > 0)
            );
            std::process::exit(2)
        })
    };
    let plan = Plan {
        seed: number(0, "SEED", 1),
        rate: number(1, "RATE", 50),
        seconds: number(2, "SECONDS", 100),
        max_staleness_seconds: number(3, "STALENESS", 4),
        viewer_budget_ms: 300,
        between_budget_ms: 1_500,
        init_budget_ms: 1_000,
    };
    let report = fleet::run(&plan, |line| eprintln!("{line}")).await;

    let curve = |wanted: fn(&Decision) -> bool| report.curve(plan.bound() / SLICES, SLICES * 5 / 4, wanted);
    let (promised, failing) = (curve(|decision| decision.is_promised), curve(|decision| !decision.is_promised));
    let results = results(&plan, &report, &promised, &failing);
    print(&results, &promised, &failing);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fleet");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("results.json"), format!("{results:#}\n")).unwrap();
    fs::write(folder.join("curve.svg"), picture(&plan, &promised, &failing)).unwrap();
    println!("\nWritten: target/fleet/results.json, target/fleet/curve.svg");
    for (what, list) in [("answers lost", &report.lost), ("decisions on older data than promised", &report.broken)] {
        println!("{}{what}: {}", if list.is_empty() { "" } else { "FAILED: " }, list.len());
        list.iter().take(5).for_each(|text| println!("  {text}"));
    }
    ExitCode::from(u8::from(!(report.lost.is_empty() && report.broken.is_empty())))
}

fn results(plan: &Plan, report: &Report, promised: &[Slice], failing: &[Slice]) -> Value {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let commit = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let per_second =
        |count: usize| f64::from(u32::try_from(count).unwrap()) / Duration::from_secs(plan.seconds).as_secs_f64();
    let alive = f64::from(report.alive.iter().sum::<u32>()) / f64::from(u32::try_from(report.alive.len()).unwrap());
    json!({
        "commit": commit,
        "date": DateTime::<Utc>::from(SystemTime::now()).to_rfc3339_opts(SecondsFormat::Secs, true),
        "cpu": cpu.map(|(_, name)| name),
        "cpus": std::thread::available_parallelism().map_or(1, usize::from),
        "plan": plan,
        "bound_seconds": plan.bound().as_secs_f64(),
        "flips": report.flips,
        "faults": report.faults,
        "decisions": report.decisions.len(),
        "decisions_promised": report.decisions.iter().filter(|decision| decision.is_promised).count(),
        "decisions_without_data": report.without_data,
        "answers_lost": report.lost.len(),
        "promises_broken": report.broken.len(),
        "environments": {
            "started": report.started, "killed": report.killed,
            "alive_mean": alive, "alive_max": report.alive.iter().max(),
        },
        "launchdarkly_requests_per_second": {
            "flag_data": per_second(report.flag_requests), "events": per_second(report.event_requests),
        },
        "curve_while_launchdarkly_answers": promised,
        "curve_while_it_fails_and_after": failing,
    })
}

fn share(slice: &Slice) -> Option<f64> {
    (slice.decisions > 0).then(|| f64::from(slice.old) / f64::from(slice.decisions))
}

fn print(results: &Value, promised: &[Slice], failing: &[Slice]) {
    let (plan, environments) = (&results["plan"], &results["environments"]);
    let requests = &results["launchdarkly_requests_per_second"];
    let text = |field: &str| results[field].as_str().unwrap_or("unknown");
    println!("{}, {} CPUs, {}, commit {}", text("cpu"), results["cpus"], text("date"), text("commit"));
    println!(
        "seed {}: {} visits a second for {} s, max_staleness_seconds {}; {} flips, {} faults",
        plan["seed"], plan["rate"], plan["seconds"], plan["max_staleness_seconds"], results["flips"], results["faults"]
    );
    println!(
        "environments: {} started, {} killed, {:.0} alive on average, {} at most",
        environments["started"],
        environments["killed"],
        environments["alive_mean"].as_f64().unwrap(),
        environments["alive_max"]
    );
    println!(
        "requests a second to LaunchDarkly: {:.1} for flag data, {:.1} with events\n",
        requests["flag_data"].as_f64().unwrap(),
        requests["events"].as_f64().unwrap()
    );
    println!("{:>9}   {:<36}LaunchDarkly fails, or did", "s since", "LaunchDarkly answers");
    println!("{:>9}{:>12}{:>10}{:>17}{:>12}{:>10}", "the flip", "decisions", "old", "", "decisions", "old");
    for (one, other) in promised.iter().zip(failing) {
        let percent = |slice| share(slice).map_or(String::new(), |share| format!("{:.1} %", share * 100.0));
        let bar =
            "#".repeat(share(one).map_or(0, |share| (0..15).filter(|step| share * 15.0 > f64::from(*step)).count()));
        print!("{:>9.2}{:>12}{:>10}  {bar:<15}", one.from_seconds, one.decisions, percent(one));
        println!("{:>12}{:>10}", other.decisions, percent(other));
    }
}

/// Both curves, as an SVG that fits light and dark pages.
fn picture(plan: &Plan, promised: &[Slice], failing: &[Slice]) -> String {
    const LEFT: f64 = 60.0;
    const BOTTOM: f64 = 290.0;
    const WIDTH: f64 = 580.0;
    const HEIGHT: f64 = 220.0;
    let bound = plan.bound().as_secs_f64();
    let x = |seconds: f64| LEFT + WIDTH * seconds / (bound * 1.25);
    let y = |share: f64| BOTTOM - HEIGHT * share;
    let middle = bound / f64::from(SLICES) / 2.0;
    let line = |slices: &[Slice]| {
        let points = slices.iter().filter_map(|slice| Some((slice.from_seconds + middle, share(slice)?)));
        points.map(|(seconds, share)| format!("{:.1},{:.1}", x(seconds), y(share))).collect::<Vec<_>>().join(" ")
    };
    let mut axes = String::new();
    for percent in [0, 25, 50, 75, 100] {
        let y = y(f64::from(percent) / 100.0);
        let (end, text_y) = (LEFT + WIDTH, y + 4.0);
        let _ = writeln!(
            axes,
            r#"<path d="M{LEFT} {y}H{end}" class="grid"/><text x="52" y="{text_y}" class="end">{percent} %</text>"#
        );
    }
    for quarter in 0..=5 {
        let seconds = bound * f64::from(quarter) / 4.0;
        let _ = writeln!(axes, r#"<text x="{:.1}" y="308" class="middle">{seconds:.1}</text>"#, x(seconds));
    }
    let (at_bound, top, promised, failing) = (x(bound), BOTTOM - HEIGHT, line(promised), line(failing));
    let Plan { max_staleness_seconds, viewer_budget_ms, rate, .. } = plan;
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 350" role="img" aria-label="Decisions that are still old after a flip">
<style>
svg {{ background: #fff; font: 13px system-ui, sans-serif; }}
text {{ fill: #1f2933; }}
.title {{ font-size: 16px; font-weight: 600; }}
.end {{ text-anchor: end; }}
.middle {{ text-anchor: middle; }}
.grid {{ stroke: #e4e7eb; }}
polyline {{ fill: none; stroke-width: 2.5; stroke-linejoin: round; }}
.answers {{ stroke: #0b7285; }}
.fails {{ stroke: #adb5bd; }}
.bound {{ stroke: #c92a2a; stroke-dasharray: 5 4; }}
</style>
<rect width="680" height="350" fill="#fff"/>
<text x="10" y="24" class="title">Decisions that are still old, over the seconds since the flip</text>
<text x="10" y="46">{rate} requests a second, max_staleness_seconds = {max_staleness_seconds}, viewer_budget_ms = {viewer_budget_ms}</text>
{axes}<path d="M{at_bound:.1} {top}V{BOTTOM}" class="bound"/><text x="{at_bound:.1}" y="64" class="middle">the promise</text>
<polyline points="{failing}" class="fails"/>
<polyline points="{promised}" class="answers"/>
<path d="M60 332h24" class="answers" stroke-width="2.5"/><text x="92" y="336">LaunchDarkly answers</text>
<path d="M260 332h24" class="fails" stroke-width="2.5"/><text x="292" y="336">it fails, or has just recovered</text>
</svg>
"##
    )
}
