//! `just fleet`: how a flip of the flag reaches many environments while LaunchDarkly fails at random.
//! The simulation and its short run are in tests/it/fleet.rs. Arguments: seed, visits a second, seconds, and
//! `max_staleness_seconds`, which replaces the 60 s and scales all times. Or `curve`: the runs of docs/scale.md.

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
mod machine;
#[path = "../tests/it/setup.rs"]
mod setup;

use fleet::{Decision, Plan, Report, Slice};
use machine::Machine;
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs};

/// The curve's slices up to the bound; a quarter as many follow it.
const SLICES: u32 = 20;

/// The default of `max_staleness_seconds`. A run's own value scales all its times.
const REAL_STALENESS: u64 = 60;

/// Visits a second in real time, `max_staleness_seconds`, and the length of the run in multiples of it. A machine with
/// two cores cannot start more environments than a hundred visits a second with bursts need, so that run is not scaled.
const CURVE: [(u64, u64, u64); 3] = [(1, 4, 40), (10, 4, 20), (100, 60, 6)];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // Cargo adds its own option.
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
    let (name, plans) = if given == ["curve"] {
        let scaled =
            |(rate, staleness, times)| plan(1, rate * REAL_STALENESS / staleness, staleness * times, staleness);
        ("curve", CURVE.map(scaled).to_vec())
    } else {
        let (seed, rate) = (number(0, "SEED", 1), number(1, "RATE", 50));
        ("results", vec![plan(seed, rate, number(2, "SECONDS", 100), number(3, "STALENESS", 4))])
    };
    let machine = Machine::of_this_run();
    println!("{machine}");
    let (mut runs, mut is_good) = (Vec::new(), true);
    for plan in &plans {
        let report = fleet::run(plan, |line| eprintln!("{line}")).await;
        let curve = |wanted: fn(&Decision) -> bool| report.curve(plan.bound() / SLICES, SLICES * 5 / 4, wanted);
        let (promised, failing) = (curve(|decision| decision.is_promised), curve(|decision| !decision.is_promised));
        let results = results(plan, &report, &promised, &failing);
        print(&results, &promised, &failing);
        runs.push(results);
        for (what, list) in [("answers lost", &report.lost), ("decisions on older data than promised", &report.broken)]
        {
            println!("{}{what}: {}", if list.is_empty() { "" } else { "FAILED: " }, list.len());
            list.iter().take(5).for_each(|text| println!("  {text}"));
            is_good &= list.is_empty();
        }
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fleet").join(name).with_extension("json");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, format!("{:#}\n", json!({"machine": machine, "runs": runs}))).unwrap();
    println!("\nWritten: target/fleet/{name}.json");
    ExitCode::from(u8::from(!is_good))
}

fn plan(seed: u64, rate: u64, seconds: u64, max_staleness_seconds: u64) -> Plan {
    Plan {
        seed,
        rate,
        seconds,
        max_staleness_seconds,
        viewer_budget_ms: 300,
        between_budget_ms: 1_500,
        init_budget_ms: 1_000,
    }
}

fn results(plan: &Plan, report: &Report, promised: &[Slice], failing: &[Slice]) -> Value {
    let per_second =
        |count: usize| f64::from(u32::try_from(count).unwrap()) / Duration::from_secs(plan.seconds).as_secs_f64();
    let alive = f64::from(report.alive.iter().sum::<u32>()) / f64::from(u32::try_from(report.alive.len()).unwrap());
    // In real time, everything takes longer and happens more rarely by this factor.
    let scale = Duration::from_secs(REAL_STALENESS).div_duration_f64(Duration::from_secs(plan.max_staleness_seconds));
    json!({
        "plan": plan,
        "scale": scale,
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
        "in_real_time": {
            "visits_per_second": per_second(report.decisions.len() + report.without_data as usize) / scale,
            "flag_data_requests_per_second": per_second(report.flag_requests) / scale,
            "event_requests_per_second": per_second(report.event_requests) / scale,
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
    println!(
        "\nseed {}: {} visits a second for {} s, max_staleness_seconds {}; {} flips, {} faults",
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
        "requests a second to LaunchDarkly: {:.1} for flag data, {:.1} with events",
        requests["flag_data"].as_f64().unwrap(),
        requests["events"].as_f64().unwrap()
    );
    let real = &results["in_real_time"];
    println!(
        "in real time, {:.1} times as slow: {:.1} visits, {:.2} and {:.2} requests a second\n",
        results["scale"].as_f64().unwrap(),
        real["visits_per_second"].as_f64().unwrap(),
        real["flag_data_requests_per_second"].as_f64().unwrap(),
        real["event_requests_per_second"].as_f64().unwrap()
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
