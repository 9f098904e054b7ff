//! The effect of more memory, with which Lambda gives a larger share of a CPU.

use crate::Result;
use crate::freeze::ROUND_TRIP;
use crate::network::FAR;
use crate::spread::quantile;
use crate::subjects::{Subject, World, event};
use crate::throttle::Throttle;
use crate::tls::Tls;
use serde::Serialize;
use standins::{Function, RuntimeApi};
use std::time::{Duration, Instant};
use tokio::time::{sleep_until, timeout};

/// The compared sizes.
pub(crate) const SIZES_MB: [u32; 4] = [128, 256, 512, 1_024];

/// Lambda@Edge, in US dollars: a million requests, and a GB-second of duration.
/// <https://aws.amazon.com/lambda/pricing/#Lambda.40Edge_Pricing>
const MILLION_REQUESTS: f64 = 0.60;
const GB_SECOND: f64 = 0.000_050_01;

/// Lambda sends an environment at most ten requests a second.
/// <https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html>
const PERIOD: Duration = Duration::from_millis(100);

/// Budgets that are long enough not to end a wait.
pub(crate) const PATIENT: [(&str, &str); 4] = [
    ("REDIRECT_INIT_BUDGET_MS", "9000"),
    ("REDIRECT_VIEWER_BUDGET_MS", "5000"),
    ("REDIRECT_BETWEEN_BUDGET_MS", "9000"),
    ("REDIRECT_FUNCTION_TIMEOUT_SECONDS", "30"),
];

/// A steady ten invocations a second.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Steady {
    pub(crate) memory_mb: Option<u32>,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// The mean, each rounded up to a whole millisecond; includes fetches and events between invocations.
    pub(crate) billed_ms: f64,
    pub(crate) dollars_per_million: Option<f64>,
}

pub(crate) fn price_per_million(memory_mb: u32, billed_ms: f64) -> f64 {
    MILLION_REQUESTS + f64::from(memory_mb) / 1_024.0 * billed_ms * 1e3 * GB_SECOND
}

/// LaunchDarkly behind TLS and the network.
pub(crate) async fn far(tls: &Tls, world: &World) -> Result<World> {
    let end = tls.in_front_of(world, true).await?;
    let name = format!("{}, TLS, {} ms", world.name, ROUND_TRIP.as_millis());
    Ok(World::at(format!("https://{FAR}:{}", end.port), name))
}

struct Run {
    memory_mb: Option<u32>,
    lambda: RuntimeApi,
    function: Function,
    waits: Vec<f64>,
    bills: Vec<f64>,
}

/// Each share of a CPU gets one invocation in each tenth of a second.
pub(crate) async fn steady(
    subject: &Subject,
    world: &World,
    shares: &[Option<&Throttle>],
    invocations: usize,
) -> Result<Vec<Steady>> {
    let mut runs = Vec::new();
    for share in shares {
        let lambda = RuntimeApi::start().await?;
        let function = subject.start(&lambda, world, *share)?;
        let memory_mb = share.map(|share| share.memory_mb);
        let mut run = Run { memory_mb, lambda, function, waits: Vec::new(), bills: Vec::new() };
        run.visit(0).await?;
        run.waits.clear();
        run.bills.clear();
        runs.push(run);
    }
    let mut due = Instant::now();
    for number in 1..=invocations {
        for run in &mut runs {
            run.visit(number).await?;
        }
        due = (due + PERIOD).max(Instant::now());
        sleep_until(due.into()).await;
    }
    Ok(runs.into_iter().map(Run::row).collect())
}

impl Run {
    async fn visit(&mut self, number: usize) -> Result<()> {
        let begun = Instant::now();
        let outcome = self.lambda.invoke(event(number)?).await.filter(|outcome| !outcome.is_error);
        let outcome = outcome.ok_or_else(|| format!("no answer: {:?}", self.function.log()))?;
        timeout(Duration::from_secs(30), self.lambda.idle()).await?;
        self.waits.push(outcome.took.as_secs_f64() * 1e6);
        self.bills.push((begun.elapsed().as_secs_f64() * 1e3).ceil());
        Ok(())
    }

    #[allow(clippy::cast_precision_loss)] // A few hundred.
    fn row(self) -> Steady {
        let billed_ms = self.bills.iter().sum::<f64>() / self.bills.len().max(1) as f64;
        Steady {
            memory_mb: self.memory_mb,
            p50_us: quantile(&self.waits, 0.5),
            p99_us: quantile(&self.waits, 0.99),
            billed_ms,
            dollars_per_million: self.memory_mb.map(|memory| price_per_million(memory, billed_ms)),
        }
    }
}
