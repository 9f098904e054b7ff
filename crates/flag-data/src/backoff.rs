//! When to call a server again that failed.

use crate::clock::{Clock, Moment};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

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
    pub fn new(clock: Clock, max: Duration) -> Self {
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

    /// It failed; `wait` is the least time that the server asks us to wait.
    pub fn failed(&mut self, wait: Option<Duration>) {
        let step = Self::FIRST.saturating_mul(1 << self.failures.min(6)).min(Self::MAX_STEP).min(self.max);
        self.failures = self.failures.saturating_add(1);
        let jittered = step.mul_f64(0.5 + jitter() / 2.0);
        self.wait = Some((self.clock.now(), wait.map_or(jittered, |wait| wait.max(jittered).min(self.max))));
    }
}

/// From 0 to 1. The standard library gives each `RandomState` another seed; jitter needs no better source.
pub fn jitter() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(bits).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn each_failure_waits_longer_up_to_a_minute_or_the_maximum() {
        for (max, steps) in [(3_600, [1, 2, 4, 8, 16, 32, 60, 60]), (10, [1, 2, 4, 8, 10, 10, 10, 10]), (0, [1; 8])] {
            let mut backoff = Backoff::new(Clock::default(), Duration::from_secs(max));
            for step in steps {
                backoff.failed(None);
                let wait = backoff.wait.unwrap().1.as_secs_f64();
                assert!((f64::from(step) / 2.0..=f64::from(step)).contains(&wait), "{wait} for {step}");
                assert!(!backoff.allows());
            }
            for asked in [HOUR, Duration::MAX] {
                backoff.failed(Some(asked));
                assert_eq!(backoff.wait.unwrap().1, Duration::from_secs(max.max(1)));
            }
            backoff.succeeded();
            assert!(backoff.allows());
        }
    }

    #[test]
    fn environments_do_not_come_back_at_once_although_they_may() {
        let waits = (0..50).map(|_| {
            let mut backoff = Backoff::new(Clock::default(), HOUR);
            backoff.failed(Some(Duration::ZERO));
            backoff.wait.unwrap().1
        });
        let waits: std::collections::BTreeSet<_> = waits.collect();
        assert!(waits.len() > 25 && waits.first() >= Some(&Duration::from_millis(500)), "{waits:?}");
    }

    #[test]
    fn a_wait_that_was_asked_for_is_kept_and_ends() {
        let clock = Clock::default();
        clock.invocation(1_000_000);
        let mut backoff = Backoff::new(clock.clone(), HOUR);
        backoff.failed(Some(Duration::from_secs(300)));
        clock.invocation(1_299_000);
        assert!(!backoff.allows());
        clock.invocation(1_300_000);
        assert!(backoff.allows());
    }
}
