//! The results, as tables and as JSON.

use crate::Result;
use crate::cold::Cold;
use crate::freeze::Freeze;
use crate::machine::{Machine, output};
use crate::memory::Steady;
use crate::subjects::{BEFORE, Subject, node, python};
use crate::targets::{self, Target};
use crate::warm::Warm;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

/// The results of one set of figures, with machine and load.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    node: String,
    python: String,
    /// The commit of the earlier function, if there is one to compare with.
    before: Option<String>,
    /// The load average of a minute at the start and at the end: 1 is one busy CPU; includes the bench itself.
    load: (String, String),
    labels: BTreeMap<&'static str, &'static str>,
    packages: BTreeMap<String, Package>,
    pub(crate) cold: Vec<Cold>,
    pub(crate) warm: Vec<Warm>,
    pub(crate) freeze: Vec<Freeze>,
    pub(crate) steady: Vec<Steady>,
    targets: Vec<Target>,
    pub(crate) skipped: Vec<String>,
}

/// A package, zipped as in `just package`.
#[derive(Debug, Deserialize, Serialize)]
struct Package {
    bytes: u64,
    unpacked_bytes: u64,
    /// The time to unpack it with a whole CPU.
    unpack_ms: f64,
}

impl Report {
    pub(crate) fn new(root: &Path) -> Result<Self> {
        Ok(Self {
            machine: Machine::of_this_run(),
            node: output(&node(root), &["--version"]),
            python: output(&python(root), &["--version"]),
            before: fs::read_to_string(root.join("target/bench").join(BEFORE).join("commit")).ok(),
            load: (load(), String::new()),
            labels: BTreeMap::new(),
            packages: serde_json::from_str(&fs::read_to_string(root.join("target/bench/packages.json"))?)?,
            cold: Vec::new(),
            warm: Vec::new(),
            freeze: Vec::new(),
            steady: Vec::new(),
            targets: Vec::new(),
            skipped: Vec::new(),
        })
    }

    /// Completes the report; these subjects were measured.
    pub(crate) fn end(&mut self, subjects: &[Subject]) {
        self.load.1 = load();
        self.labels = subjects.iter().map(|subject| (subject.name, subject.label)).collect();
        self.targets = targets::of(self);
    }

    pub(crate) fn cold(&self, subject: &str, world: &str, memory_mb: Option<u32>) -> Option<&Cold> {
        self.cold.iter().find(|row| row.subject == subject && row.world == world && row.memory_mb == memory_mb)
    }

    pub(crate) fn label<'a>(&self, subject: &'a str) -> &'a str {
        self.labels.get(subject).copied().unwrap_or(subject)
    }
}

fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().next().unwrap_or_default().to_owned()
}

fn share(memory_mb: Option<u32>) -> String {
    memory_mb.map_or("whole".to_owned(), |memory| format!("{memory} MB"))
}

fn dollars(price: Option<f64>) -> String {
    price.map(|price| format!("{price:.3}")).unwrap_or_default()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, Node {}, {}", self.machine, self.node, self.python)?;
        writeln!(f, "load average {} before, {} after", self.load.0, self.load.1)?;
        if let Some(commit) = &self.before {
            writeln!(f, "the earlier function: {commit}")?;
        }
        if !self.cold.is_empty() {
            writeln!(f, "\n{:<32}{:<24}{:<9}{:<26}CPU time, ms", "Start to first answer", "", "CPU", "time, ms")?;
            for row in &self.cold {
                write!(f, "{:<32}{:<24}{:<9}", self.label(row.subject), row.world, share(row.memory_mb))?;
                writeln!(f, "{:<26}{}", row.wall_ms, row.cpu_ms)?;
            }
        }
        if !self.warm.is_empty() {
            writeln!(f, "\n{:<40}{:<22}{:<22}resident, MB (peak)", "Warm", "p50, us", "p99, us")?;
            for row in &self.warm {
                write!(f, "{:<40}{:<22}{:<22}", self.label(row.subject), row.p50_us, row.p99_us)?;
                writeln!(f, "{:.1} -> {:.1} ({:.1})", row.early_mb, row.late_mb, row.peak_mb)?;
            }
        }
        if !self.freeze.is_empty() {
            write!(f, "\n{:<27}{:<9}{:<12}{:<15}", "After a freeze", "CPU", "round trip", "resumed")?;
            writeln!(f, "{:<20}{:<20}{:<20}$ per million", "wait, ms", "CPU time, ms", "billed, ms")?;
            for row in &self.freeze {
                let (resumed, trip) =
                    (format!("{} of {}", row.resumed, row.freezes), format!("{} ms", row.round_trip_ms));
                write!(f, "{:<27}{:<9}{trip:<12}{resumed:<15}", self.label(row.subject), share(row.memory_mb))?;
                writeln!(
                    f,
                    "{:<20}{:<20}{:<20}{}",
                    row.wait_ms,
                    row.cpu_ms,
                    row.billed_ms,
                    dollars(row.dollars_per_million)
                )?;
            }
        }
        if !self.steady.is_empty() {
            writeln!(f, "\n{:<27}{:<12}{:<12}{:<14}$ per million", "Ten a second", "p50, us", "p99, us", "billed, ms")?;
            for row in &self.steady {
                let (p50, p99, billed) = (row.p50_us, row.p99_us, row.billed_ms);
                let price = dollars(row.dollars_per_million);
                writeln!(f, "{:<27}{p50:<12.0}{p99:<12.0}{billed:<14.2}{price}", share(row.memory_mb))?;
            }
        }
        if !self.targets.is_empty() {
            writeln!(f, "\n{:<86}{:>8}{:>8}{:>8}{:>9}", "Target", "", "CPU", "floor", "at most")?;
            for target in &self.targets {
                let Target { what, is, cpu, floor, most } = target;
                let [cpu, floor] = [cpu, floor].map(|it| it.map(|it| format!("{it:.3}")).unwrap_or_default());
                let most = most.map(|most| format!("{most:.2}")).unwrap_or_default();
                writeln!(f, "{what:<86}{is:>8.3}{cpu:>8}{floor:>8}{most:>9} {}", target.verdict())?;
            }
        }
        for skipped in &self.skipped {
            writeln!(f, "SKIPPED {skipped}")?;
        }
        Ok(())
    }
}
