//! The results, as a table and as JSON.

use crate::Result;
use crate::cold::Cold;
use crate::spread::Spread;
use crate::subjects::{Subject, node, python};
use crate::warm::Warm;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

/// A run's results, and the circumstances.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    commit: String,
    unix_time: u64,
    cpu: String,
    cpus: usize,
    node: String,
    python: String,
    /// The load average of a minute at the start and at the end: 1 is one busy CPU, the bench's own part included.
    load: (String, String),
    pub(crate) labels: BTreeMap<&'static str, &'static str>,
    /// The size of the package in bytes, zipped as `just package` does.
    pub(crate) package_bytes: BTreeMap<String, u64>,
    pub(crate) cold: Vec<Cold>,
    pub(crate) warm: Vec<Warm>,
    ratios: Vec<Ratio>,
    pub(crate) skipped: Vec<String>,
}

impl Report {
    pub(crate) fn new(subjects: &[Subject]) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let output = |program: &Path, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
        };
        let cpus = fs::read_to_string("/proc/cpuinfo")?;
        let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Self {
            commit: output(Path::new("git"), &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]),
            unix_time: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs(),
            cpu: cpu.map(|(_, name)| name.to_owned()).unwrap_or_default(),
            cpus: std::thread::available_parallelism()?.get(),
            node: output(&node(root), &["--version"]),
            python: output(&python(root), &["--version"]),
            load: (load(), String::new()),
            labels: subjects.iter().map(|subject| (subject.name, subject.label)).collect(),
            package_bytes: serde_json::from_str(&fs::read_to_string(root.join("target/bench/packages.json"))?)?,
            cold: Vec::new(),
            warm: Vec::new(),
            ratios: Vec::new(),
            skipped: Vec::new(),
        })
    }

    /// When everything was measured.
    pub(crate) fn end(&mut self) {
        self.load.1 = load();
        self.ratios = self.compare();
        if let Some(warm) = self.warm.iter().find(|row| row.subject == "redirect-native-no-events") {
            self.labels.insert(warm.subject, "redirect, native, events off");
        }
    }

    pub(crate) fn cold(&self, subject: &str, world: &str) -> Option<&Cold> {
        self.cold.iter().find(|row| row.subject == subject && row.world == world)
    }

    fn label<'a>(&self, subject: &'a str) -> &'a str {
        self.labels.get(subject).copied().unwrap_or(subject)
    }

    /// What the project promises itself, and what became of it.
    fn compare(&self) -> Vec<Ratio> {
        let mut ratios = Vec::new();
        let mut start = |subject, world: &str, to, to_world: &str, floor: Option<&str>, most| {
            if let (Some(one), Some(other)) = (self.cold(subject, world), self.cold(to, to_world)) {
                let what = format!("start of {} / {}, {world}", self.label(subject), self.label(to));
                let of = one.wall_ms.median / other.wall_ms.median;
                let cpu = Some(one.cpu_ms.median / other.cpu_ms.median);
                let floor = floor.and_then(|world| self.cold("noop-edge", world));
                let floor = floor.map(|floor| floor.wall_ms.median / other.wall_ms.median);
                ratios.push(Ratio { what, of, cpu, floor, most });
            }
        };
        for (world, guide, bundled) in [("1 flag", 0.30, 0.43), ("1000 flags", 0.19, 0.27), ("10000 flags", 0.08, 0.09)]
        {
            // Who asks nothing took its turns once for both of the first two.
            let once = if world == "1000 flags" { "1 flag" } else { world };
            start("redirect-edge", world, "noop-edge", once, None, 1.03);
            start("redirect-native", world, "noop-native", once, None, 1.5);
            start("redirect-edge", world, "guide-bundled", world, Some(once), bundled);
            start("redirect-edge", world, "guide", world, Some(once), guide);
        }
        let warm = |subject| self.warm.iter().find(|row| row.subject == subject);
        if let (Some(floor), Some(on), Some(off)) =
            (warm("noop-native"), warm("redirect-native"), warm("redirect-native-no-events"))
        {
            let mut ratio = |what: &str, one: Spread, other: Spread, most| {
                let of = one.median / other.median;
                ratios.push(Ratio { what: what.to_owned(), of, cpu: None, floor: None, most });
            };
            ratio("warm p50 of redirect / no-op Rust, events off", off.p50_us, floor.p50_us, 1.15);
            ratio("warm p50 of redirect / no-op Rust, events on", on.p50_us, floor.p50_us, 1.4);
            ratio("warm p99 of redirect / no-op Rust, events off", off.p99_us, floor.p99_us, 1.5);
            ratio("warm p99 of redirect / no-op Rust, events on", on.p99_us, floor.p99_us, 1.5);
        }
        ratios
    }
}

/// A ratio of medians, and the most it is to be.
#[derive(Debug, Serialize)]
struct Ratio {
    what: String,
    of: f64,
    /// The same of the CPU time, which a busy machine changes less.
    cpu: Option<f64>,
    /// What a function that does nothing behind the same carrier has: ours cannot have less.
    floor: Option<f64>,
    most: f64,
}

fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().next().unwrap_or_default().to_owned()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {} CPUs, Node {}, {}, commit {}", self.cpu, self.cpus, self.node, self.python, self.commit)?;
        writeln!(f, "Load average at the start {}, at the end {}", self.load.0, self.load.1)?;
        writeln!(f, "Medians, with the quartiles in parentheses\n")?;
        writeln!(f, "{:<58}{:<24}CPU ms", "Start to first answer", "ms")?;
        for row in &self.cold {
            let Cold { subject, world, wall_ms, cpu_ms } = row;
            writeln!(f, "{:<32}{world:<26}{wall_ms:<24}{cpu_ms}", self.label(subject))?;
        }
        writeln!(f, "\n{:<32}{:<24}{:<24}MB after 1,000 and 5,000, peak", "Warm", "p50 us", "p99 us")?;
        for row in &self.warm {
            let Warm { subject, p50_us, p99_us, early_mb, late_mb, peak_mb } = row;
            let memory = format!("{early_mb:.1}, {late_mb:.1}, {peak_mb:.1}");
            writeln!(f, "{:<32}{p50_us:<24}{p99_us:<24}{memory}", self.label(subject))?;
        }
        writeln!(f, "\n{:<32}bytes, zipped", "Package")?;
        for (subject, bytes) in &self.package_bytes {
            writeln!(f, "{:<32}{bytes:>10}", self.label(subject))?;
        }
        writeln!(f, "\n{:<76}{:>6}{:>7}{:>7}  at most", "Ratio of medians", "time", "CPU", "floor")?;
        for Ratio { what, of, cpu, floor, most } in &self.ratios {
            let [cpu, floor] = [cpu, floor].map(|ratio| ratio.map(|ratio| format!("{ratio:.3}")).unwrap_or_default());
            writeln!(f, "{what:<76}{of:>6.3}{cpu:>7}{floor:>7}  {most:.2}{}", if of > most { "  MISSED" } else { "" })?;
        }
        for skipped in &self.skipped {
            writeln!(f, "SKIPPED {skipped}")?;
        }
        Ok(())
    }
}
