//! Warm invocations: how long each takes, and how much memory stays in use.

use crate::Result;
use crate::cold::in_turn;
use crate::spread::{Spread, quantile};
use crate::subjects::{Subject, World, event};
use serde::Serialize;
use standins::{Function, RuntimeApi};
use std::fs;
use std::thread::available_parallelism;
use tokio::process::Command;

/// Invocations of one subject before the next subject's turn.
pub(crate) const BLOCK: usize = 250;

/// The times of warm invocations: from sending the event to the answer, over the Runtime API.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Warm {
    pub(crate) subject: &'static str,
    pub(crate) p50_us: Spread,
    pub(crate) p99_us: Spread,
    /// Resident after 1,000 invocations and after all of them, and the peak.
    pub(crate) early_mb: f64,
    pub(crate) late_mb: f64,
    pub(crate) peak_mb: f64,
}

struct Run {
    name: &'static str,
    lambda: RuntimeApi,
    function: Function,
    p50: Vec<f64>,
    p99: Vec<f64>,
    early_mb: f64,
}

/// All subjects run at the same time, and get blocks of invocations in turn. Each is pinned to the second CPU and the
/// bench to the first, so that the scheduler's placement has no effect.
pub(crate) async fn in_turns(subjects: &[Subject], world: &World, blocks: usize) -> Result<Vec<Warm>> {
    let mut runs = Vec::new();
    for subject in subjects {
        let lambda = RuntimeApi::start().await?;
        let function = subject.start(&lambda, world, None)?;
        let mut run = Run { name: subject.name, lambda, function, p50: vec![], p99: vec![], early_mb: 0.0 };
        // The cold start is not measured here.
        subject.check(&run.block(0, 1).await?)?;
        pin(run.function.process.id(), "1").await?;
        runs.push(run);
    }
    let bench = Some(std::process::id());
    pin(bench, "0").await?;
    for block in 0..blocks {
        for run in in_turn(&mut runs, block) {
            run.block(block * BLOCK, BLOCK).await?;
            if (block + 1) * BLOCK == 1_000 {
                run.early_mb = run.memory_mb("VmRSS:")?;
            }
        }
    }
    pin(bench, &format!("0-{}", available_parallelism()?.get().max(2) - 1)).await?;
    let row = |run: Run| {
        Ok(Warm {
            subject: run.name,
            // The first block of each subject is its warm-up.
            p50_us: Spread::of(run.p50.get(2..).unwrap_or_default()),
            p99_us: Spread::of(run.p99.get(2..).unwrap_or_default()),
            early_mb: run.early_mb,
            late_mb: run.memory_mb("VmRSS:")?,
            peak_mb: run.memory_mb("VmHWM:")?,
        })
    };
    runs.into_iter().map(row).collect()
}

impl Run {
    /// Returns the last answer.
    async fn block(&mut self, first: usize, count: usize) -> Result<Vec<u8>> {
        let mut times = Vec::with_capacity(count);
        let mut answer = Vec::new();
        for number in first..first + count {
            // Its work between invocations has ended when it requests the next event.
            self.lambda.idle().await;
            let event = event(number)?;
            let outcome = self.lambda.invoke(event).await.filter(|outcome| !outcome.is_error);
            let outcome = outcome.ok_or_else(|| format!("{} gave no answer: {:?}", self.name, self.function.log()))?;
            times.push(outcome.took.as_secs_f64() * 1e6);
            answer = outcome.body.to_vec();
        }
        self.p50.push(quantile(&times, 0.5));
        self.p99.push(quantile(&times, 0.99));
        Ok(answer)
    }

    fn memory_mb(&self, field: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.function.process.id().unwrap_or_default()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kilobytes = line.and_then(|line| line.split_whitespace().next());
        Ok(kilobytes.ok_or("no memory in /proc")?.parse::<f64>()? / 1_024.0)
    }
}

/// Pins all threads of a process to these CPUs.
async fn pin(process: Option<u32>, cpus: &str) -> Result<()> {
    let process = process.unwrap_or_default().to_string();
    let output = Command::new("taskset").args(["-a", "-c", "-p", cpus, &process]).output().await?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into()) }
}
