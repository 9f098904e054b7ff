//! The machine of a run, for its JSON.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;
use std::time::SystemTime;

/// The circumstances of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    date: String,
    /// Ends in `-dirty` if there are uncommitted changes.
    commit: String,
    cpu: String,
    cpus: usize,
    kernel: String,
}

impl Machine {
    pub(crate) fn of_this_run() -> Self {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            date: DateTime::<Utc>::from(SystemTime::now()).to_rfc3339_opts(SecondsFormat::Secs, true),
            commit: output(Path::new("git"), &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]),
            cpu: cpu.map(|(_, name)| name.to_owned()).unwrap_or_default(),
            cpus: available_parallelism().map_or(1, usize::from),
            kernel: output(Path::new("uname"), &["-sr"]),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { date, commit, cpu, cpus, kernel } = self;
        write!(f, "{cpu}, {cpus} CPUs, {kernel}, {date}, commit {commit}")
    }
}

/// A program's output; empty if it cannot be run.
pub(crate) fn output(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
