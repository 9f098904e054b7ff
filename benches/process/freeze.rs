//! How long the first viewer after a long freeze waits: the data is too old, and the connection is dead.

use crate::Result;
use crate::cold::in_turn;
use crate::memory::price_per_million;
use crate::network::{FAR, Network};
use crate::spread::Spread;
use crate::subjects::{Subject, World, event};
use crate::throttle::Throttle;
use crate::tls::{End, Tls};
use serde::Serialize;
use standins::{Function, RuntimeApi};
use std::fs;
use std::time::{Duration, Instant, SystemTime};
use tokio::time::sleep;

/// About the round trip from Europe to LaunchDarkly's nearest edge.
pub(crate) const ROUND_TRIP: Duration = Duration::from_millis(20);

/// The length of the freeze by Lambda's deadlines: more than `max_staleness_seconds`.
const FROZEN: Duration = Duration::from_secs(100);

/// The first viewers after a freeze.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Freeze {
    pub(crate) subject: &'static str,
    /// The memory size whose share of a CPU it had; `None` for a whole CPU.
    pub(crate) memory_mb: Option<u32>,
    pub(crate) round_trip_ms: u128,
    /// Whether the server issues sessions that the next handshake can resume.
    pub(crate) resumes: bool,
    /// The number of resumed handshakes after a freeze.
    pub(crate) resumed: usize,
    pub(crate) freezes: usize,
    pub(crate) wait_ms: Spread,
    /// The function's CPU time during the wait.
    pub(crate) cpu_ms: Spread,
    pub(crate) billed_ms: Spread,
    pub(crate) dollars_per_million: Option<f64>,
}

struct Run<'a> {
    subject: &'a Subject,
    share: Option<&'a Throttle>,
    round_trip: Duration,
    resumes: bool,
    end: End,
    lambda: RuntimeApi,
    function: Function,
    visits: Vec<Visit>,
}

/// The viewer's wait, the function's CPU time during it, and what Lambda would bill.
struct Visit {
    wait: Duration,
    cpu: Duration,
    billed: Duration,
}

/// Every subject with every share of a CPU, with a network and without one, with sessions and without.
pub(crate) async fn in_turns(
    tls: &Tls,
    network: &Network,
    subjects: &[&Subject],
    world: &World,
    shares: &[Option<&Throttle>],
    rounds: usize,
) -> Result<Vec<Freeze>> {
    let mut runs = Vec::new();
    for subject in subjects {
        for share in shares {
            let networks = [ROUND_TRIP, Duration::ZERO];
            for (round_trip, resumes) in networks.into_iter().flat_map(|trip| [(trip, true), (trip, false)]) {
                let end = tls.in_front_of(world, resumes).await?;
                let lambda = RuntimeApi::start().await?;
                let host = if round_trip.is_zero() { "localhost" } else { FAR };
                let through = World::at(format!("https://{host}:{}", end.port), world.name.clone());
                let function = subject.start(&lambda, &through, *share)?;
                let (share, visits) = (*share, Vec::new());
                let mut run = Run { subject, share, round_trip, resumes, end, lambda, function, visits };
                run.visit(0).await?;
                runs.push(run);
            }
        }
    }
    for round in 1..=rounds {
        for run in in_turn(&mut runs, round) {
            // A frozen group has its whole quota; the viewer arrives at a random point of the period.
            sleep(Duration::from_millis(u64::try_from(round * 7 % 20)?)).await;
            network.cut(run.end.port);
            run.function.thaw();
            let visit = run.visit(round).await?;
            run.visits.push(visit);
        }
    }
    runs.into_iter().map(|run| run.row(rounds)).collect()
}

impl Run<'_> {
    /// The viewer of this round. The function is frozen afterwards.
    async fn visit(&mut self, round: usize) -> Result<Visit> {
        let deadline = SystemTime::now() + Duration::from_secs(5) + FROZEN * u32::try_from(round)?;
        let computed = self.cpu()?;
        let begun = Instant::now();
        let outcome = tokio::select! {
            outcome = self.lambda.invoke_with_deadline(event(round)?, deadline) => outcome,
            _ = self.function.process.wait() => None,
        };
        let wait = begun.elapsed();
        let cpu = self.cpu()?.saturating_sub(computed);
        let outcome = outcome.filter(|outcome| !outcome.is_error);
        let outcome =
            outcome.ok_or_else(|| format!("{} gave no answer: {:?}", self.subject.name, self.function.log()))?;
        self.subject.check(&outcome.body)?;
        self.lambda.idle().await;
        let billed = begun.elapsed();
        self.function.freeze();
        Ok(Visit { wait, cpu, billed })
    }

    /// The CPU time of all live threads.
    fn cpu(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.function.process.id().unwrap_or_default()))? {
            let stat = fs::read_to_string(thread?.path().join("schedstat"))?;
            nanoseconds += stat.split_whitespace().next().ok_or("no CPU time in /proc")?.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    fn row(self, rounds: usize) -> Result<Freeze> {
        let (full, resumed) = self.end.handshakes();
        if full + resumed < rounds + 1 {
            let name = self.subject.name;
            return Err(
                format!("{name} connected {} times in {rounds} freezes: a dead connection", full + resumed).into()
            );
        }
        let memory_mb = self.share.map(|share| share.memory_mb);
        let spread = |figure: fn(&Visit) -> Duration| {
            Spread::of(&self.visits.iter().map(|visit| figure(visit).as_secs_f64() * 1e3).collect::<Vec<_>>())
        };
        let billed_ms = spread(|visit| visit.billed);
        Ok(Freeze {
            subject: self.subject.name,
            memory_mb,
            round_trip_ms: self.round_trip.as_millis(),
            resumes: self.resumes,
            resumed,
            freezes: rounds,
            wait_ms: spread(|visit| visit.wait),
            cpu_ms: spread(|visit| visit.cpu),
            billed_ms,
            dollars_per_million: memory_mb.map(|memory| price_per_million(memory, billed_ms.median)),
        })
    }
}
