//! The whole promise: many environments behind a router that works like Lambda, while the flag flips and LaunchDarkly
//! fails at random. The test at the end is a short run; `just fleet` (benches/fleet.rs) is a long one.

use crate::setup::{event, flag, launchdarkly, start};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use standins::{Fault, Following, Function, LaunchDarkly, RuntimeApi};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

/// The time that an invocation may take, including its work after the response.
const FUNCTION_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest burst of visits at the same moment, and the percentage of arrivals that are bursts.
const MAX_BURST: u64 = 40;
const BURSTS_IN_100: u64 = 5;

/// How many of the faults, from the first one, are rejections after which clients wait longest.
const REFUSALS: u64 = 3;

/// A run. Its randomness depends on the seed alone, as far as processes allow.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    pub seed: u64,
    /// Visits a second, on average.
    pub rate: u64,
    pub seconds: u64,
    pub max_staleness_seconds: u64,
    pub viewer_budget_ms: u64,
    pub between_budget_ms: u64,
    pub init_budget_ms: u64,
}

impl Plan {
    fn max_staleness(&self) -> Duration {
        Duration::from_secs(self.max_staleness_seconds)
    }

    /// The maximum age of a decision's data while LaunchDarkly answers.
    pub fn bound(&self) -> Duration {
        self.max_staleness() + Duration::from_millis(self.viewer_budget_ms)
    }

    /// How long LaunchDarkly must have answered before the promise holds again: the last attempt that hangs, and the
    /// longest wait after it.
    fn recovery(&self) -> Duration {
        let attempt = self.init_budget_ms.max(self.viewer_budget_ms + self.between_budget_ms);
        Duration::from_millis(attempt) + self.max_staleness()
    }

    /// The proportions are those of `redirect.toml`: 60 s, 15 s, 30 s.
    fn settings(&self) -> Vec<(&'static str, String)> {
        let seconds = self.max_staleness_seconds;
        vec![
            ("REDIRECT_MAX_STALENESS_SECONDS", seconds.to_string()),
            ("REDIRECT_REFRESH_AFTER_SECONDS", (seconds / 4).to_string()),
            ("REDIRECT_FLUSH_AFTER_SECONDS", seconds.div_ceil(2).to_string()),
            ("REDIRECT_VIEWER_BUDGET_MS", self.viewer_budget_ms.to_string()),
            ("REDIRECT_BETWEEN_BUDGET_MS", self.between_budget_ms.to_string()),
            ("REDIRECT_INIT_BUDGET_MS", self.init_budget_ms.to_string()),
            ("REDIRECT_FUNCTION_TIMEOUT_SECONDS", FUNCTION_TIMEOUT.as_secs().to_string()),
        ]
    }
}

/// [SplitMix64](https://prng.di.unimi.it/splitmix64.c): small, and the same on every machine for a seed.
pub struct Dice(u64);

impl Dice {
    /// Each stream of a seed is a different sequence.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self(seed ^ stream.rotate_left(32))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// From 0 to 1, excluding 1.
    fn share(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).unwrap()) / (f64::from(u32::MAX) + 1.0)
    }

    fn between(&mut self, shortest: Duration, longest: Duration) -> Duration {
        shortest + longest.saturating_sub(shortest).mul_f64(self.share())
    }
}

/// A decision, as the router sees it.
#[derive(Debug)]
pub struct Decision {
    pub since_flip: Duration,
    /// Whether it used the flag from before the last flip.
    pub is_old: bool,
    /// Whether LaunchDarkly had answered long enough for the promise to hold.
    pub is_promised: bool,
}

#[derive(Debug, Default)]
pub struct Report {
    pub decisions: Vec<Decision>,
    /// Decisions without flag data, such as at a cold start while LaunchDarkly fails.
    pub without_data: u32,
    /// Visits without the answer that follows from the data.
    pub lost: Vec<String>,
    /// Decisions on older data than promised.
    pub broken: Vec<String>,
    pub flips: usize,
    pub faults: u32,
    pub started: u32,
    pub killed: u32,
    /// The number of live environments at each arrival.
    pub alive: Vec<u32>,
    pub flag_requests: usize,
    pub event_requests: usize,
}

/// The decisions in a slice of the time since the flip.
#[derive(Debug, Serialize)]
pub struct Slice {
    pub from_seconds: f64,
    pub decisions: u32,
    pub old: u32,
}

impl Report {
    /// The share of old decisions by the time since the flip, in `slices` of this length.
    pub fn curve(&self, length: Duration, slices: u32, wanted: impl Fn(&Decision) -> bool) -> Vec<Slice> {
        let slice = |number: u32| {
            let from = length * number;
            let decisions = self.decisions.iter().filter(|decision| {
                wanted(decision) && decision.since_flip >= from && decision.since_flip < from + length
            });
            let (mut all, mut old) = (0, 0);
            for decision in decisions {
                all += 1;
                old += u32::from(decision.is_old);
            }
            Slice { from_seconds: from.as_secs_f64(), decisions: all, old }
        };
        (0..slices).map(slice).collect()
    }
}

/// An execution environment: frozen unless it has an event.
struct Environment {
    lambda: RuntimeApi,
    function: Function,
    log: Following,
}

impl Environment {
    /// The answer to an event and the decision's log line, or why there is none.
    async fn answer(&mut self, event: String) -> Result<(Value, Value), String> {
        let answer = async {
            let outcome = tokio::select! {
                biased;
                outcome = self.lambda.invoke(event) => outcome,
                _ = self.function.process.wait() => None,
            };
            let outcome = outcome.ok_or("the process ended")?;
            let json = serde_json::from_slice(&outcome.body).map_err(|error| format!("no JSON: {error}"))?;
            if outcome.is_error {
                return Err(format!("an error: {json}"));
            }
            loop {
                let lines = self.log.next().await.ok_or("the process ended before its log line")?;
                let mut lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
                if let Some(line) = lines.find(|line| line.get("outcome").is_some()) {
                    return Ok((json, line));
                }
            }
        };
        timeout(FUNCTION_TIMEOUT, answer).await.unwrap_or_else(|_| Err("no answer within the timeout".to_owned()))
    }

    /// Waits until it requests the next event, and freezes it immediately.
    async fn freeze(&self) -> Result<(), String> {
        let asked = timeout(FUNCTION_TIMEOUT, self.lambda.idle()).await;
        self.function.freeze();
        asked.map_err(|_| "it did not request the next event".to_owned())
    }
}

/// The state of LaunchDarkly.
struct Truth {
    /// When each version of the flag appeared, from version 1. Odd versions are on.
    versions: Vec<Instant>,
    /// Since when the promise holds; `None` while LaunchDarkly fails.
    promised_from: Option<Instant>,
}

struct Fleet {
    plan: Plan,
    launchdarkly: LaunchDarkly,
    truth: Mutex<Truth>,
    /// The most recently used one is last.
    frozen: Mutex<Vec<Environment>>,
    report: Mutex<Report>,
    began: Instant,
}

/// Runs the plan; `progress` gets a line every few seconds.
pub async fn run(plan: &Plan, progress: impl Fn(&str)) -> Report {
    let began = Instant::now();
    let fleet = Arc::new(Fleet {
        plan: plan.clone(),
        launchdarkly: launchdarkly(flag(1, true)).await,
        truth: Mutex::new(Truth { versions: vec![began], promised_from: Some(began) }),
        frozen: Mutex::default(),
        report: Mutex::default(),
        began,
    });
    let mut visits = tokio::select! {
        visits = fleet.clone().traffic(progress) => visits,
        () = fleet.flip() => unreachable!("the flips end with the visits"),
        () = fleet.fail() => unreachable!("the faults end with the visits"),
    };
    while let Some(visit) = visits.join_next().await {
        visit.unwrap();
    }
    let mut report = std::mem::take(&mut *fleet.report.lock());
    report.flips = fleet.truth.lock().versions.len() - 1;
    report.flag_requests = fleet.launchdarkly.count("GET /sdk/");
    report.event_requests = fleet.launchdarkly.count("POST /bulk");
    report
}

impl Fleet {
    /// Visits at random moments, some of them in bursts.
    async fn traffic(self: Arc<Self>, progress: impl Fn(&str)) -> JoinSet<()> {
        let mut dice = Dice::new(self.plan.seed, 1);
        let mut visits = JoinSet::new();
        let end = self.began + Duration::from_secs(self.plan.seconds);
        let bursts = u32::try_from(BURSTS_IN_100).unwrap();
        let size_of_100 = 100 - bursts + bursts * (2 + u32::try_from(MAX_BURST).unwrap()) / 2;
        let gap = Duration::from_secs(1) * size_of_100 / 100 / u32::try_from(self.plan.rate).unwrap();
        let mut shown = self.began;
        let (mut at, mut number) = (self.began, 0);
        while at < end {
            sleep_until(at.into()).await;
            let is_burst = dice.below(100) < BURSTS_IN_100;
            let size = if is_burst { 2 + dice.below(MAX_BURST - 1) } else { 1 };
            for _ in 0..size {
                number += 1;
                visits.spawn(self.clone().visit(number));
            }
            let mut report = self.report.lock();
            let alive = report.started - report.killed;
            report.alive.push(alive);
            if at.duration_since(shown) >= Duration::from_secs(5) {
                shown = at;
                let (second, seconds) = (at.duration_since(self.began).as_secs(), self.plan.seconds);
                let (broken, lost) = (report.broken.len(), report.lost.len());
                progress(&format!(
                    "{second:>4} of {seconds} s: {number} visits, {alive} environments, {broken} too old, {lost} lost"
                ));
            }
            drop(report);
            at += gap.mul_f64(-(1.0 - dice.share()).ln());
        }
        visits
    }

    /// Switches the flag on and off.
    async fn flip(&self) {
        let (mut dice, scale) = (Dice::new(self.plan.seed, 2), self.plan.max_staleness());
        loop {
            sleep(dice.between(scale / 2, scale * 2)).await;
            let version = self.truth.lock().versions.len() + 1;
            let mut flag = flag(u64::try_from(version).unwrap(), true);
            flag["on"] = json!(is_on(version));
            self.launchdarkly.set_flag(&flag);
            self.truth.lock().versions.push(Instant::now());
        }
    }

    /// LaunchDarkly fails in several ways, then answers long enough to test the promise.
    async fn fail(&self) {
        let (mut dice, scale) = (Dice::new(self.plan.seed, 3), self.plan.max_staleness());
        let recovery = self.plan.recovery();
        sleep(dice.between(scale, scale * 3)).await;
        for spell in 0_u32.. {
            self.truth.lock().promised_from = None;
            let end = Instant::now() + dice.between(scale, scale * 2);
            let mut kinds = Vec::new();
            while Instant::now() < end {
                // Most environments see only the first fault; every other period starts with a rejection, because
                // clients wait longest after one.
                let is_refusal = kinds.is_empty() && spell.is_multiple_of(2);
                if kinds.is_empty() {
                    kinds = self.faults();
                }
                let choices = if is_refusal { REFUSALS } else { kinds.len() as u64 };
                let fault = kinds.swap_remove(usize::try_from(dice.below(choices)).unwrap());
                if fault == Fault::ResetBody {
                    self.launchdarkly.drop_connections();
                }
                self.launchdarkly.fail(fault.clone());
                self.launchdarkly.fail_events(fault);
                self.report.lock().faults += 1;
                sleep(dice.between(scale / 10, scale / 2)).await;
            }
            self.launchdarkly.fail(Fault::None);
            self.launchdarkly.fail_events(Fault::None);
            self.truth.lock().promised_from = Some(Instant::now() + recovery);
            sleep(dice.between(recovery + scale * 2, recovery + scale * 4)).await;
        }
    }

    fn faults(&self) -> Vec<Fault> {
        vec![
            Fault::Status(401, None),
            Fault::Status(403, None),
            Fault::Status(429, Some(3_600)),
            Fault::Status(500, None),
            Fault::BlackHole,
            Fault::SlowHeaders(Duration::from_millis(self.plan.viewer_budget_ms * 3 / 2)),
            Fault::TruncatedJson,
            Fault::Text("text/html", "<!doctype html>"),
            Fault::ResetBody,
        ]
    }

    /// The environment that was used last, or a new one when all are busy.
    async fn environment(&self) -> Environment {
        let last = self.frozen.lock().pop();
        if let Some(environment) = last {
            environment.function.thaw();
            return environment;
        }
        self.report.lock().started += 1;
        let lambda = RuntimeApi::start().await.unwrap();
        let settings = self.plan.settings();
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut function = start(&lambda, &self.launchdarkly.uri(), &settings);
        tokio::select! {
            () = lambda.polled(1) => {}
            status = function.process.wait() => panic!("the function did not start: {status:?}, {:?}", function.log()),
        }
        let log = function.follow();
        Environment { lambda, function, log }
    }

    async fn visit(self: Arc<Self>, number: u64) {
        let mut dice = Dice::new(self.plan.seed, 1_000 + number);
        let arrived = Instant::now();
        let mut environment = self.environment().await;
        let is_page_of_beta = dice.below(4) == 0;
        let address = format!("{}/page-{number}.html", if is_page_of_beta { "/site/beta" } else { "" });
        let ip = format!("10.{}.{}.{}", dice.below(256), dice.below(256), dice.below(256));
        let answer = environment.answer(event(&address, &ip)).await;
        let judged = answer.and_then(|(answer, line)| self.judge(number, &address, arrived, &answer, &line));
        let fate = dice.below(100);
        // A process that is killed now has not yet done its work after the response.
        let rest = if judged.is_err() || fate == 0 { Err(String::new()) } else { environment.freeze().await };
        let mut report = self.report.lock();
        let problems = [judged.err(), rest.clone().err().filter(|why| !why.is_empty())];
        report.lost.extend(problems.into_iter().flatten().map(|why| format!("visit {number}, {address}: {why}")));
        let mut frozen = self.frozen.lock();
        if rest.is_ok() {
            frozen.push(environment);
        } else {
            report.killed += 1;
        }
        if fate == 1 && !frozen.is_empty() {
            let index = usize::try_from(dice.next() % frozen.len() as u64).unwrap();
            frozen.remove(index);
            report.killed += 1;
        }
    }

    /// Records a decision. An answer that does not follow from the data is an error.
    fn judge(&self, number: u64, address: &str, arrived: Instant, answer: &Value, line: &Value) -> Result<(), String> {
        let location = answer["headers"]["location"][0]["value"].as_str();
        let page = address.trim_start_matches("/site/beta");
        let is_beta = match location.and_then(|location| location.strip_suffix(page)) {
            Some("/site") => false,
            Some("/site/beta") => true,
            None if answer["uri"] == address => true,
            _ => return Err(format!("an unexpected answer: {answer}")),
        };
        let truth = self.truth.lock();
        let is_promised = truth.promised_from.is_some_and(|from| from <= arrived);
        let mut report = self.report.lock();
        let second = arrived.duration_since(self.began).as_secs_f64();
        let Some(version) = line["flag_version"].as_u64().and_then(|version| usize::try_from(version).ok()) else {
            report.without_data += 1;
            if is_promised {
                report.broken.push(format!("visit {number} at {second:.2} s: no data, {line}"));
            }
            return Ok(());
        };
        if is_beta != is_on(version) {
            return Err(format!("the answer {answer} does not match version {version}"));
        }
        let current = truth.versions.iter().rposition(|since| *since <= arrived).unwrap() + 1;
        let since_flip = arrived.duration_since(truth.versions[current - 1]);
        // How long a newer version had existed, whatever age the function logs.
        let outdated = truth.versions.get(version).map(|since| arrived.saturating_duration_since(*since));
        let age = outdated.unwrap_or_default().max(Duration::from_millis(line["data_age_ms"].as_u64().unwrap()));
        if is_promised && age > self.plan.bound() {
            let age = age.as_secs_f64();
            report.broken.push(format!("visit {number} at {second:.2} s: data {age:.2} s old, {line}"));
        }
        report.decisions.push(Decision { since_flip, is_old: version < current, is_promised });
        Ok(())
    }
}

fn is_on(version: usize) -> bool {
    version % 2 == 1
}

#[tokio::test]
async fn the_kill_switch_reaches_every_environment() {
    let (mut decisions, mut old) = (0, 0);
    // A busy machine makes fewer visits in the same time, so runs are repeated until the promise is tested.
    for seed in 6..12 {
        let plan = Plan {
            seed,
            rate: 40,
            seconds: 16,
            max_staleness_seconds: 1,
            viewer_budget_ms: 700,
            between_budget_ms: 800,
            init_budget_ms: 1_500,
        };
        let report = run(&plan, |_| {}).await;
        assert!(report.lost.is_empty(), "{} answers lost: {:#?}", report.lost.len(), report.lost);
        assert!(report.broken.is_empty(), "{} decisions too old: {:#?}", report.broken.len(), report.broken);
        assert!(report.started >= 24 && report.killed > 0 && report.flips >= 5 && report.faults >= 5, "{report:?}");
        let all = report.curve(Duration::from_secs(plan.seconds), 1, |decision| decision.is_promised);
        decisions += all[0].decisions;
        old += all[0].old;
        if decisions > 100 && old > 0 {
            return;
        }
    }
    panic!("the promise was hardly tested: {decisions} decisions, {old} old ones");
}
