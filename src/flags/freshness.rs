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
}

/// A point in time on each of the clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    monotonic: Instant,
    wall: SystemTime,
    deadline_ms: u64,
}

impl Clock {
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
        // A moment of the cold start precedes every deadline; the first invocation follows it at once.
        let then_ms = if moment.deadline_ms == 0 { self.0.first.load(Ordering::Relaxed) } else { moment.deadline_ms };
        now.monotonic
            .saturating_duration_since(moment.monotonic)
            .max(now.wall.duration_since(moment.wall).unwrap_or_default())
            .max(Duration::from_millis(now.deadline_ms.saturating_sub(then_ms)))
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
    failures: u32,
    wait: Option<(Moment, Duration)>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(60);

    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, failures: 0, wait: None }
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

    /// It failed; `wait` is how long it, or the kind of failure, asks to be left alone at least.
    pub fn failed(&mut self, wait: Option<Duration>) {
        let step = Self::FIRST.saturating_mul(1 << self.failures.min(6)).min(Self::LONGEST);
        self.failures += 1;
        let jittered = step.mul_f64(0.5 + random() / 2.0);
        self.wait = Some((self.clock.now(), wait.map_or(jittered, |wait| wait.max(jittered))));
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
        let mut backoff = Backoff::new(clock);
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
                let mut backoff = Backoff::new(Clock::default());
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
        let mut backoff = Backoff::new(clock.clone());
        backoff.failed(Some(Duration::from_secs(300)));
        clock.invocation(1_000_000 + 299_000);
        assert!(!backoff.allows());
        clock.invocation(1_000_000 + 300_000);
        assert!(backoff.allows());
    }
}
