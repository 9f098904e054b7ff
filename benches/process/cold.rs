//! From the start of a process to its first answer.

use crate::Result;
use crate::spread::Spread;
use crate::subjects::{Subject, World, event};
use crate::throttle::Throttle;
use serde::Serialize;
use standins::{Function, RuntimeApi};
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

/// The cost of a start.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cold {
    pub(crate) subject: &'static str,
    pub(crate) world: String,
    /// The memory size whose share of a CPU it had; `None` for a whole CPU.
    pub(crate) memory_mb: Option<u32>,
    pub(crate) wall_ms: Spread,
    pub(crate) cpu_ms: Spread,
}

type Run<'a> = (&'a Subject, &'a World, Option<&'a Throttle>, Vec<f64>, Vec<f64>);

/// Starts every subject in every world with every share of a CPU once per round.
pub(crate) async fn in_turns(
    subjects: &[&Subject],
    worlds: &[&World],
    shares: &[Option<&Throttle>],
    rounds: usize,
) -> Result<Vec<Cold>> {
    let mut runs: Vec<Run> = Vec::new();
    for subject in subjects {
        // For a subject that does not use LaunchDarkly, all worlds are the same.
        let worlds = if subject.asks { worlds } else { worlds.get(..1).unwrap_or_default() };
        for share in shares {
            runs.extend(worlds.iter().map(|world| (*subject, *world, *share, Vec::new(), Vec::new())));
        }
    }
    for round in 0..rounds {
        for (subject, world, share, walls, cpus) in in_turn(&mut runs, round) {
            let (wall, cpu) = start(subject, world, round, *share).await?;
            walls.push(wall.as_secs_f64() * 1e3);
            cpus.push(cpu.as_secs_f64() * 1e3);
        }
    }
    let row = |(subject, world, share, walls, cpus): Run| Cold {
        subject: subject.name,
        world: world.name.clone(),
        memory_mb: share.map(|share| share.memory_mb),
        wall_ms: Spread::of(&walls),
        cpu_ms: Spread::of(&cpus),
    };
    Ok(runs.into_iter().map(row).collect())
}

/// The previous subject affects the caches, so the order changes every round.
pub(crate) fn in_turn<T>(runs: &mut [T], round: usize) -> Vec<&mut T> {
    let mut order: Vec<_> = runs.iter_mut().collect();
    let first = round % order.len().max(1);
    order.rotate_left(first);
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

async fn start(
    subject: &Subject,
    world: &World,
    number: usize,
    throttle: Option<&Throttle>,
) -> Result<(Duration, Duration)> {
    let lambda = RuntimeApi::start().await?;
    let command = subject.command(&lambda, world, throttle)?;
    let event = event(number)?;
    let before = cpu_of_ended_children();
    let started = Instant::now();
    let mut function = Function::run(command)?;
    let outcome = tokio::select! {
        outcome = lambda.invoke(event) => outcome.filter(|outcome| !outcome.is_error),
        _ = function.process.wait() => None,
    };
    let wall = started.elapsed();
    let Some(outcome) = outcome else {
        return Err(format!("{} gave no answer: {}", subject.name, function.log().join("\n")).into());
    };
    function.process.kill().await?;
    let cpu = cpu_of_ended_children().saturating_sub(before);
    subject.check(&outcome.body)?;
    Ok((wall, cpu))
}

/// User and system time of all children that have ended, including all their threads.
fn cpu_of_ended_children() -> Duration {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage writes to the given struct, for which zeros are valid too.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    let time = |time: libc::timeval| {
        let (seconds, micros) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_usec));
        Duration::from_secs(seconds.unwrap_or_default()) + Duration::from_micros(micros.unwrap_or_default())
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}
