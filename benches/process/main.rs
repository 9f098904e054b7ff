//! `just bench`: what a viewer, a bill and a memory limit see of the function, beside the floor and the guide's handler.
//!
//! Every subject is a process under its real runtime client, started and fed by the stand-ins of this crate. Whatever is
//! compared is taken in turns within one run, so that the noise of the machine is everyone's.

mod cold;
mod picture;
mod report;
mod spread;
mod subjects;
mod throttle;
mod tls;
mod warm;

use report::Report;
use std::error::Error;
use std::path::Path;
use std::{env, fs};
use subjects::{Subject, World};
use throttle::Throttle;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How often everything is taken.
struct Rounds {
    cold: usize,
    cold_large: usize,
    cold_throttled: usize,
    warm_blocks: usize,
}

const USUAL: Rounds = Rounds { cold: 40, cold_large: 20, cold_throttled: 7, warm_blocks: 20 };

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let subjects = Subject::all(root)?;
    let all: Vec<&Subject> = subjects.iter().collect();
    let all_but_node: Vec<&Subject> = all.iter().copied().filter(|subject| subject.name != "noop-node").collect();
    let mut report = Report::new(&subjects)?;

    let one = World::start(1).await?;
    let thousand = World::start(1_000).await?;
    let many = World::start(10_000).await?;

    eprintln!("Cold starts with 1 and 1,000 flags, {} of each ...", USUAL.cold);
    report.cold.extend(cold::in_turns(&all, &[&one, &thousand], USUAL.cold, None).await?);
    eprintln!("Cold starts with 10,000 flags, {} of each ...", USUAL.cold_large);
    report.cold.extend(cold::in_turns(&all_but_node, &[&many], USUAL.cold_large, None).await?);
    eprintln!("Cold starts over TLS, {} of each ...", USUAL.cold_large);
    let tls = tls::in_front_of(&one, root, &subjects).await?;
    let trusting: Vec<&Subject> = tls.subjects.iter().collect();
    report.cold.extend(cold::in_turns(&trusting, &[&tls.world], USUAL.cold_large, None).await?);
    match Throttle::new() {
        Ok(throttle) => {
            eprintln!("Cold starts at 7 % of a CPU, {} of each ...", USUAL.cold_throttled);
            report.cold.extend(cold::in_turns(&all, &[&one], USUAL.cold_throttled, Some(&throttle)).await?);
        }
        Err(why) => report.skipped.push(format!("cold starts at 7 % of a CPU: {why}")),
    }
    eprintln!("Warm invocations, {} of each ...", USUAL.warm_blocks * warm::BLOCK);
    report.warm = warm::in_turns(&subjects, &one, USUAL.warm_blocks).await?;

    report.end();
    println!("{report}");
    let folder = root.join("target/bench");
    fs::write(folder.join("results.json"), serde_json::to_string_pretty(&report)? + "\n")?;
    fs::write(root.join("docs/bench.svg"), picture::of(&report))?;
    Ok(())
}
