//! How old something is in an environment that may have been frozen, and when to ask again after a failure.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Tells how much time has passed, also across a freeze.
///
/// The clocks of a paused virtual machine may stand still, and its wall clock may be set late. The deadline of an
/// invocation (`Lambda-Runtime-Deadline-Ms`) is an absolute time that comes from outside, so its growth from one
/// invocation to the next tells the truth. An age is the largest that any of the three shows.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<Deadlines>);

#[derive(Debug, Default)]
struct Deadlines {
    /// Milliseconds since 1970; 0 before the first invocation.
    first: AtomicU64,
    /// That of the invocation under way.
    latest: AtomicU64,
    /// Whether it was still to come when the invocation arrived.
    is_credible: AtomicBool,
    /// The function's timeout, where it is known: a deadline less that is when its event came.
    timeout_ms: Option<u64>,
}

/// A point in time on each of the clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    monotonic: Instant,
    wall: SystemTime,
    deadline_ms: u64,
}

impl Clock {
    /// The clock of a function with this timeout. It knows how long an environment waited for its first event, which
    /// Lambda may have initialized ahead of demand and frozen until then.
    pub fn of_function(timeout: Duration) -> Self {
        let timeout_ms = u64::try_from(timeout.as_millis()).ok();
        Self(Arc::new(Deadlines { timeout_ms, ..Deadlines::default() }))
    }

    /// Takes note of an invocation's deadline, in milliseconds since 1970.
    pub fn invocation(&self, deadline_ms: u64) {
        if deadline_ms != 0 {
            self.0.latest.store(deadline_ms, Ordering::Relaxed);
            self.0.is_credible.store(self.until_deadline().is_some(), Ordering::Relaxed);
            let _ = self.0.first.compare_exchange(0, deadline_ms, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Now.
    pub fn now(&self) -> Moment {
        Moment {
            monotonic: Instant::now(),
            wall: SystemTime::now(),
            deadline_ms: self.0.latest.load(Ordering::Relaxed),
        }
    }

    /// The time since `moment`: the most that any clock shows.
    pub fn since(&self, moment: Moment) -> Duration {
        let now = self.now();
        let grown = if moment.deadline_ms == 0 {
            // A moment of the cold start precedes every deadline.
            let first = self.0.first.load(Ordering::Relaxed);
            Duration::from_millis(now.deadline_ms.saturating_sub(first)) + self.until_first_event(moment)
        } else {
            Duration::from_millis(now.deadline_ms.saturating_sub(moment.deadline_ms))
        };
        now.monotonic
            .saturating_duration_since(moment.monotonic)
            .max(now.wall.duration_since(moment.wall).unwrap_or_default())
            .max(grown)
    }

    /// From a moment of the cold start to the first event, as Lambda's clock has it.
    fn until_first_event(&self, moment: Moment) -> Duration {
        let first = self.0.first.load(Ordering::Relaxed);
        let arrival = self.0.timeout_ms.and_then(|timeout| first.checked_sub(timeout)).unwrap_or_default();
        let arrival = SystemTime::UNIX_EPOCH + Duration::from_millis(arrival);
        arrival.duration_since(moment.wall).unwrap_or_default()
    }

    /// The time until the deadline of the invocation under way; `None` when it is unknown or was over before it
    /// began, as in some test tools.
    pub fn remaining(&self) -> Option<Duration> {
        self.0.is_credible.load(Ordering::Relaxed).then(|| self.until_deadline().unwrap_or_default())
    }

    fn until_deadline(&self) -> Option<Duration> {
        let deadline = Duration::from_millis(self.0.latest.load(Ordering::Relaxed));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        deadline.checked_sub(now)
    }
}

/// When to ask a server again that failed: exponentially later, with jitter, so that the environments of a whole
/// distribution do not come back at once.
#[derive(Debug)]
pub struct Backoff {
    clock: Clock,
    /// The longest wait, whatever a server asks for.
    max: Duration,
    failures: u32,
    wait: Option<(Moment, Duration)>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_secs(1);
    const MAX_STEP: Duration = Duration::from_secs(60);

    /// A back-off that never waits for longer than `max`, or a second if that is longer.
    pub(crate) fn new(clock: Clock, max: Duration) -> Self {
        Self { clock, max: max.max(Self::FIRST), failures: 0, wait: None }
    }

    /// Whether it is time to ask.
    pub fn allows(&self) -> bool {
        self.wait.is_none_or(|(since, wait)| self.clock.since(since) >= wait)
    }

    /// It answered.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.wait = None;
    }

    /// It failed; `wait` is how long the server asks not to be called, at least.
    pub fn failed(&mut self, wait: Option<Duration>) {
        let step = Self::FIRST.saturating_mul(1 << self.failures.min(6)).min(Self::MAX_STEP).min(self.max);
        self.failures = self.failures.saturating_add(1);
        let jittered = step.mul_f64(0.5 + random() / 2.0);
        self.wait = Some((self.clock.now(), wait.map_or(jittered, |wait| wait.max(jittered).min(self.max))));
    }
}

/// From 0 to 1. The standard library seeds each `RandomState` anew; jitter needs no better source.
pub(crate) fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(bits).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn an_age_follows_the_deadline_when_the_clocks_stand_still() {
        let clock = Clock::default();
        let at_start = clock.now();
        clock.invocation(1_000_000);
        assert!(clock.since(at_start) < Duration::from_secs(100), "the first deadline is no growth");
        let first = clock.now();
        clock.invocation(1_600_000);
        assert!(clock.since(first) >= Duration::from_secs(600));
        assert!(clock.since(at_start) >= Duration::from_secs(600));
        clock.invocation(0);
        assert!(clock.since(first) >= Duration::from_secs(600), "a missing deadline changes nothing");
    }

    #[test]
    fn an_age_follows_the_wall_clock_when_the_monotonic_one_stood_still() {
        let clock = Clock::default();
        let mut moment = clock.now();
        moment.wall -= Duration::from_secs(50);
        assert!(clock.since(moment) >= Duration::from_secs(50));
        moment.wall += Duration::from_secs(5_000);
        assert!(clock.since(moment) < Duration::from_secs(50), "a wall clock set back is not believed");
    }

    #[test]
    fn each_failure_waits_longer_up_to_a_minute() {
        let clock = Clock::default();
        clock.invocation(1_000_000);
        let mut backoff = Backoff::new(clock, HOUR);
        assert!(backoff.allows());
        for expected in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            backoff.failed(None);
            let wait = backoff.wait.unwrap().1.as_secs_f64();
            assert!((f64::from(expected) / 2.0..=f64::from(expected)).contains(&wait), "{wait} for {expected}");
            assert!(!backoff.allows());
        }
        backoff.succeeded();
        assert!(backoff.allows());
    }

    #[test]
    fn environments_do_not_come_back_at_once() {
        let waits: std::collections::BTreeSet<_> = (0..50)
            .map(|_| {
                let mut backoff = Backoff::new(Clock::default(), HOUR);
                backoff.failed(Some(Duration::ZERO));
                backoff.wait.unwrap().1
            })
            .collect();
        assert!(waits.len() > 25, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait >= Duration::from_millis(500)), "a wait of zero is no wait: {waits:?}");
    }

    #[test]
    fn a_deadline_that_passes_leaves_no_time_and_one_that_was_over_before_is_not_believed() {
        let now = || u64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
        let clock = Clock::default();
        assert_eq!(clock.remaining(), None);
        clock.invocation(now() + 60_000);
        assert!(clock.remaining().unwrap() > Duration::from_secs(30));
        clock.invocation(now() + 2);
        std::thread::sleep(Duration::from_millis(5));
        assert!(clock.remaining().is_none_or(|remaining| remaining.is_zero()));
        clock.invocation(now() - 60_000);
        assert_eq!(clock.remaining(), None);
    }

    #[test]
    fn a_wait_that_was_asked_for_is_kept_and_ends() {
        let clock = Clock::default();
        clock.invocation(1_000_000);
        let mut backoff = Backoff::new(clock.clone(), HOUR);
        backoff.failed(Some(Duration::from_secs(300)));
        clock.invocation(1_000_000 + 299_000);
        assert!(!backoff.allows());
        clock.invocation(1_000_000 + 300_000);
        assert!(backoff.allows());
    }

    #[test]
    fn no_wait_is_longer_than_the_longest_that_is_allowed() {
        for (max, expected) in [(0, 1.0), (1, 1.0), (10, 10.0)] {
            let mut backoff = Backoff::new(Clock::default(), Duration::from_secs(max));
            for asked in [None, Some(HOUR)] {
                for _ in 0..10 {
                    backoff.failed(asked);
                    let wait = backoff.wait.unwrap().1.as_secs_f64();
                    assert!(wait <= expected, "{wait} s with at most {max} s");
                }
            }
        }
    }

    #[test]
    fn a_cold_start_is_as_old_as_the_time_to_its_first_event() {
        let wall_ms = u64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
        for (waited, expected) in [(0, 0..60), (600, 600..660)] {
            let clock = Clock::of_function(Duration::from_secs(5));
            let at_start = clock.now();
            clock.invocation(wall_ms + (waited + 5) * 1_000);
            let age = clock.since(at_start).as_secs();
            // A second for the machine: the wall clock went on since it was read.
            assert!((expected.start.max(1) - 1..expected.end).contains(&age), "{age} s after {waited} s");
            assert!(clock.since(clock.now()) < Duration::from_secs(60), "only what precedes the event is older");
        }
    }
}
