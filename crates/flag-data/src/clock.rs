//! How old something is, in an environment that may have been frozen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Measures how much time has passed, also across a freeze.
///
/// The clocks of a paused virtual machine may stand still, and its wall clock may be set late. The deadline of an
/// invocation (`Lambda-Runtime-Deadline-Ms`) is an absolute time that comes from outside, so its growth from one
/// invocation to the next can be trusted. An age is the largest that any of the three shows.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<Deadlines>);

#[derive(Debug, Default)]
struct Deadlines {
    /// Milliseconds since 1970; 0 before the first invocation.
    first: AtomicU64,
    /// That of the current invocation.
    latest: AtomicU64,
    /// Whether it was in the future when the invocation arrived.
    is_credible: AtomicBool,
    /// The function's timeout, if it is known: a deadline less that is when its event arrived.
    timeout: Option<Duration>,
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
        Self(Arc::new(Deadlines { timeout: Some(timeout), ..Deadlines::default() }))
    }

    /// Records an invocation's deadline, in milliseconds since 1970.
    /// <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html#runtimes-api-next>
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
        let grown_since = |deadline_ms| Duration::from_millis(now.deadline_ms.saturating_sub(deadline_ms));
        let grown = if moment.deadline_ms == 0 {
            // A moment of the cold start precedes every deadline, and the first event.
            let first = self.0.first.load(Ordering::Relaxed);
            let arrival = self.0.timeout.and_then(|timeout| Duration::from_millis(first).checked_sub(timeout));
            let arrival = SystemTime::UNIX_EPOCH + arrival.unwrap_or_default();
            grown_since(first) + arrival.duration_since(moment.wall).unwrap_or_default()
        } else {
            grown_since(moment.deadline_ms)
        };
        now.monotonic
            .saturating_duration_since(moment.monotonic)
            .max(now.wall.duration_since(moment.wall).unwrap_or_default())
            .max(grown)
    }

    /// The time until the deadline of the current invocation; `None` if it is unknown or was over before it
    /// began, as in some test tools.
    pub fn remaining(&self) -> Option<Duration> {
        self.0.is_credible.load(Ordering::Relaxed).then(|| self.until_deadline().unwrap_or_default())
    }

    fn until_deadline(&self) -> Option<Duration> {
        let deadline = SystemTime::UNIX_EPOCH + Duration::from_millis(self.0.latest.load(Ordering::Relaxed));
        deadline.duration_since(SystemTime::now()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn now_ms() -> u64 {
        u64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap()
    }

    #[test]
    fn an_age_follows_the_deadline_when_the_clocks_stand_still() {
        let clock = Clock::default();
        let at_start = clock.now();
        clock.invocation(1_000_000);
        assert!(clock.since(at_start) < MINUTE, "the first deadline is not growth");
        let first = clock.now();
        clock.invocation(1_600_000);
        clock.invocation(0);
        assert!(clock.since(first) >= 10 * MINUTE, "a missing deadline changes nothing");
        assert!(clock.since(at_start) >= 10 * MINUTE);
    }

    #[test]
    fn an_age_follows_the_wall_clock_when_the_monotonic_one_stood_still() {
        let clock = Clock::default();
        let mut moment = clock.now();
        moment.wall -= MINUTE;
        assert!(clock.since(moment) >= MINUTE);
        moment.wall += 100 * MINUTE;
        assert!(clock.since(moment) < MINUTE, "a wall clock set back is ignored");
    }

    #[test]
    fn a_deadline_that_passes_leaves_no_time_and_one_that_was_over_before_is_ignored() {
        let clock = Clock::default();
        assert_eq!(clock.remaining(), None);
        clock.invocation(now_ms() + 60_000);
        assert!(clock.remaining().unwrap() > MINUTE / 2);
        clock.invocation(now_ms() + 2);
        std::thread::sleep(Duration::from_millis(5));
        assert!(clock.remaining().is_none_or(|remaining| remaining.is_zero()));
        clock.invocation(now_ms() - 60_000);
        assert_eq!(clock.remaining(), None);
    }

    #[test]
    fn an_absurd_deadline_makes_data_old_at_worst() {
        let clock = Clock::of_function(Duration::from_secs(5));
        let at_start = clock.now();
        clock.invocation(u64::MAX);
        assert!(clock.since(at_start) > 1_440 * MINUTE && clock.remaining().is_some());
        let then = clock.now();
        clock.invocation(1);
        assert!(clock.since(then) < MINUTE, "a deadline that goes back leaves the other clocks");
        assert!(clock.since(at_start) > 1_440 * MINUTE && clock.remaining().is_none());
    }

    #[test]
    fn a_cold_start_is_as_old_as_the_time_to_its_first_event() {
        for waited in [0, 600] {
            let clock = Clock::of_function(Duration::from_secs(5));
            let at_start = clock.now();
            clock.invocation(now_ms() + (waited + 5) * 1_000);
            let age = clock.since(at_start).as_secs();
            assert!((waited.max(1) - 1..waited + 60).contains(&age), "{age} s after {waited} s");
            assert!(clock.since(clock.now()) < MINUTE, "only what precedes the event is older");
        }
    }
}
