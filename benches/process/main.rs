//! `just bench`: latency, cost and memory of the function, compared with the floor and the guide's handler.
//!
//! Every subject is a process under its real runtime client, started and fed by the stand-ins of this crate. Subjects
//! that are compared take turns within one run, so that the noise of the machine affects all of them.

mod cold;
mod freeze;
#[path = "../machine.rs"]
mod machine;
mod memory;
mod network;
mod report;
mod size;
mod spread;
mod subjects;
mod targets;
mod throttle;
mod tls;
mod warm;

use network::Network;
use report::Report;
use std::error::Error;
use std::path::Path;
use std::{env, fs};
use subjects::{BEFORE, Subject, World};
use throttle::Throttle;
use tls::Tls;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const SETS: [&str; 4] = ["start", "warm", "memory", "size"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // Cargo adds its own option.
    let given: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let sets: Vec<&str> = given.iter().map(String::as_str).filter(|argument| *argument != "--smoke").collect();
    if let Some(unknown) = sets.iter().find(|set| !SETS.contains(set)) {
        return Err(format!("unknown set {unknown:?}; expected one of {}", SETS.join(", ")).into());
    }
    // First, because it moves the process to another namespace, before there are other threads.
    let network = Network::start(freeze::ROUND_TRIP);
    let bench = Bench::new(given.len() > sets.len(), network).await?;
    for set in if sets.is_empty() { &SETS[..] } else { &sets } {
        let mut report = Report::new(bench.root)?;
        let subjects = match *set {
            "start" => bench.start(&mut report).await?,
            "warm" => bench.warm(&mut report).await?,
            "memory" => bench.memory(&mut report).await?,
            _ => bench.size(&mut report).await?,
        };
        report.end(&subjects);
        println!("{report}");
        let file = bench.root.join("target/bench").join(set).with_extension("json");
        fs::write(file, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    Ok(())
}

struct Bench {
    root: &'static Path,
    /// Runs everything only a few times, to check that it works.
    is_smoke: bool,
    network: Result<Network>,
    subjects: Vec<Subject>,
    one: World,
}

impl Bench {
    async fn new(is_smoke: bool, network: Result<Network>) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        Ok(Self { root, is_smoke, network, subjects: Subject::all(root)?, one: World::start(1).await? })
    }

    fn rounds(&self, rounds: usize) -> usize {
        if self.is_smoke { 2 } else { rounds }
    }

    /// From the start of a process to its first answer.
    async fn start(&self, report: &mut Report) -> Result<Vec<Subject>> {
        let all: Vec<&Subject> = self.subjects.iter().collect();
        let thousand = World::start(1_000).await?;
        eprintln!("Cold starts with 1 and 1,000 flags ...");
        report.cold.extend(cold::in_turns(&all, &[&self.one, &thousand], &[None], self.rounds(40)).await?);
        drop(thousand);
        eprintln!("Cold starts with 10,000 flags ...");
        let many = World::start(10_000).await?;
        let all_but_node: Vec<&Subject> = all.iter().copied().filter(|subject| subject.name != "noop-node").collect();
        report.cold.extend(cold::in_turns(&all_but_node, &[&many], &[None], self.rounds(20)).await?);
        drop(many);
        eprintln!("Cold starts over TLS ...");
        let tls = Tls::new(self.root, &self.subjects)?;
        let end = tls.in_front_of(&self.one, true).await?;
        let behind_tls = World::at(format!("https://localhost:{}", end.port), format!("{}, TLS", self.one.name));
        let trusting: Vec<&Subject> = tls.subjects.iter().collect();
        report.cold.extend(cold::in_turns(&trusting, &[&behind_tls], &[None], self.rounds(20)).await?);
        if let Some(throttle) = throttles(&[128], report).first() {
            eprintln!("Cold starts at the share of 128 MB ...");
            report.cold.extend(cold::in_turns(&all, &[&self.one], &[Some(throttle)], self.rounds(7)).await?);
        }
        Ok(self.subjects.clone())
    }

    /// Warm invocations.
    async fn warm(&self, report: &mut Report) -> Result<Vec<Subject>> {
        let mut subjects = self.subjects.clone();
        if let Some(native) = self.subjects.iter().find(|subject| subject.name == "redirect-native") {
            let off = [("REDIRECT_EVENTS", "off")];
            subjects.push(native.with("redirect-native-no-events", "redirect, native, events off", &off));
            let visitors = [
                ("REDIRECT_VISITOR_COOKIE", "id"),
                ("REDIRECT_CONTEXT_HEADERS", "user-agent,accept"),
                ("REDIRECT_PREVIEW_TOKEN", "0123456789abcdef0123456789abcdef"),
            ];
            subjects.push(native.with("redirect-native-visitors", "the same, cookie, headers, preview", &visitors));
        }
        eprintln!("Warm invocations ...");
        report.warm = warm::in_turns(&subjects, &self.one, self.rounds(60).max(6)).await?;
        Ok(subjects)
    }

    /// The effect of more memory: starts, waits after a freeze and warm invocations with more of a CPU.
    async fn memory(&self, report: &mut Report) -> Result<Vec<Subject>> {
        let network = match &self.network {
            Ok(network) => network,
            Err(why) => {
                report.skipped.push(format!("memory, which needs a network namespace: {why}"));
                return Ok(Vec::new());
            }
        };
        let throttles = throttles(&memory::SIZES_MB, report);
        let shares: Vec<Option<&Throttle>> = throttles.iter().map(Some).chain([None]).collect();
        let patient: Vec<_> =
            self.subjects.iter().map(|subject| subject.with(subject.name, subject.label, &memory::PATIENT)).collect();
        let tls = Tls::new(self.root, &patient)?;
        let far = memory::far(&tls, &self.one).await?;
        let (edge, native) = (tls.subject("redirect-edge")?, tls.subject("redirect-native")?);
        eprintln!("Cold starts with more memory ...");
        report.cold.extend(cold::in_turns(&[edge], &[&far], &shares, self.rounds(15)).await?);
        eprintln!("After a freeze ...");
        let frozen: Vec<&Subject> = [native].into_iter().chain(tls.subject(BEFORE).ok()).collect();
        report.freeze = freeze::in_turns(&tls, network, &frozen, &self.one, &shares, self.rounds(40)).await?;
        eprintln!("Ten invocations a second ...");
        report.steady = memory::steady(native, &far, &shares, self.rounds(600)).await?;
        Ok(self.subjects.clone())
    }

    /// The effect of a larger package on a start.
    async fn size(&self, report: &mut Report) -> Result<Vec<Subject>> {
        let edge = self.subjects.iter().find(|subject| subject.name == "redirect-edge").ok_or("no edge package")?;
        let subjects = size::padded(edge, self.root)?;
        let padded: Vec<&Subject> = subjects.iter().collect();
        eprintln!("Cold starts by size ...");
        let throttles = throttles(&[128], report);
        report.cold.extend(cold::in_turns(&padded, &[&self.one], &[None], self.rounds(30)).await?);
        let shares: Vec<Option<&Throttle>> = throttles.iter().map(Some).collect();
        report.cold.extend(cold::in_turns(&padded, &[&self.one], &shares, self.rounds(10)).await?);
        Ok(subjects)
    }
}

/// The shares of a CPU that this machine can give; the others are skipped.
fn throttles(sizes_mb: &[u32], report: &mut Report) -> Vec<Throttle> {
    let mut throttles = Vec::new();
    for size in sizes_mb {
        match Throttle::new(*size) {
            Ok(throttle) => throttles.push(throttle),
            Err(why) => report.skipped.push(format!("the share of a CPU for {size} MB: {why}")),
        }
    }
    throttles
}
