//! Keeps the snapshot fresh in an environment that is frozen between invocations.

use super::events::without_tracking;
use super::freshness::{Backoff, Clock, Moment};
use super::snapshot::{Items, Origin, Snapshot};
use crate::settings::{Events, Settings};
use crate::sources::{FlagSource, Package, SourceError};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::task::JoinHandle;

/// How long to leave LaunchDarkly alone after it refused the SDK key.
pub(super) const WAIT_AFTER_REFUSAL: Duration = Duration::from_secs(300);

/// Fetches flag data: at the cold start, on arrival of a request when the data is stale, and after a response when it
/// is due.
///
/// An attempt that a viewer's time was too short for goes on after his response, and nothing goes on after that: a
/// request under way in a frozen environment would only fail.
pub(super) struct Refresher {
    shared: Arc<Shared>,
    /// The attempt under way, and since when it is.
    attempt: Mutex<Option<(JoinHandle<()>, Moment)>>,
}

struct Shared {
    settings: Arc<Settings>,
    clock: Clock,
    source: Box<dyn FlagSource>,
    package: Package,
    snapshot: Snapshot,
    /// What the source gave last, before anything was changed for the events.
    known: Mutex<Option<Arc<Items>>>,
    backoff: Mutex<Backoff>,
    /// The problems that the log has: each is told once, until it changes.
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    fetch: Option<String>,
    package: Option<String>,
    time_to_live: Option<Duration>,
}

impl Refresher {
    pub(super) fn new(
        settings: Arc<Settings>,
        clock: Clock,
        source: Box<dyn FlagSource>,
        package: Package,
        snapshot: Snapshot,
    ) -> Self {
        let backoff = Mutex::new(Backoff::new(clock.clone()));
        let shared = Shared {
            settings,
            clock,
            source,
            package,
            snapshot,
            known: Mutex::default(),
            backoff,
            told: Mutex::default(),
        };
        Self { shared: Arc::new(shared), attempt: Mutex::default() }
    }

    pub(super) fn source(&self) -> &dyn FlagSource {
        self.shared.source.as_ref()
    }

    /// The first fetch, for no longer than the cold start may take.
    pub(super) async fn start(&self) {
        let attempt = self.shared.begin();
        self.wait(attempt, self.shared.settings.init_budget).await;
        self.shared.fall_back();
    }

    /// Makes the data fresh enough for a decision, for no longer than a viewer waits. An attempt of the cold start that
    /// is still under way was waited for already, unless the environment was frozen meanwhile: it is of no use then.
    pub(super) async fn on_arrival(&self) {
        let shared = &self.shared;
        self.attempt.lock().take_if(|(attempt, begun)| {
            let frozen = shared.clock.since(*begun) > shared.settings.init_budget + shared.settings.between_budget;
            if frozen {
                attempt.abort();
            }
            frozen || attempt.is_finished()
        });
        if shared.is_older_than(shared.settings.max_staleness)
            && shared.backoff.lock().allows()
            && self.attempt.lock().is_none()
        {
            let attempt = shared.begin();
            self.wait(attempt, shared.settings.viewer_budget).await;
        }
        shared.fall_back();
    }

    /// Finishes an attempt that is under way or makes one that is due, within `budget`.
    pub(super) async fn between_invocations(&self, budget: Duration) {
        let shared = &self.shared;
        let under_way = self.attempt.lock().take();
        let attempt = match under_way {
            Some((attempt, _)) => attempt,
            None if shared.is_older_than(shared.settings.refresh_after)
                && shared.backoff.lock().allows()
                && !budget.is_zero() =>
            {
                shared.begin()
            }
            None => return,
        };
        self.wait(attempt, budget).await;
        let unfinished = self.attempt.lock().take();
        if let Some((attempt, _)) = unfinished {
            attempt.abort();
            shared.failed(&SourceError::Unreachable {
                uri: shared.source.name().to_owned(),
                why: format!("no answer within {budget:?} after the response"),
            });
        }
    }

    /// Waits for an attempt; what is not done by then stays under way.
    async fn wait(&self, mut attempt: JoinHandle<()>, budget: Duration) {
        let begun = self.shared.clock.now();
        match tokio::time::timeout(budget, &mut attempt).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.shared.failed(&SourceError::Unreachable {
                uri: self.shared.source.name().to_owned(),
                why: format!("the fetch ended early: {error}"),
            }),
            Err(_) => *self.attempt.lock() = Some((attempt, begun)),
        }
    }
}

impl Shared {
    fn is_older_than(&self, limit: Duration) -> bool {
        match self.snapshot.origin() {
            Some(Origin::Source(moment)) => self.source.changes() && self.clock.since(moment) >= limit,
            Some(Origin::Package(_)) | None => true,
        }
    }

    fn begin(self: &Arc<Self>) -> JoinHandle<()> {
        let shared = self.clone();
        tokio::spawn(async move { shared.fetch().await })
    }

    async fn fetch(&self) {
        // The data is as old as the question, not as the answer.
        let asked = self.clock.now();
        let known = self.known.lock().clone();
        match self.source.fetch(&self.settings.flag_key, known.as_deref()).await {
            Ok(fetched) => {
                let items = Arc::new(fetched.items);
                *self.known.lock() = Some(items.clone());
                self.snapshot.replace(self.prepared(items), Origin::Source(asked), fetched.synced);
                self.backoff.lock().succeeded();
                let mut told = self.told.lock();
                if told.fetch.take().is_some() {
                    log::warn!("flag data is fetched again");
                }
                let too_long = fetched.time_to_live.filter(|age| *age > self.settings.max_staleness);
                if let Some(age) = too_long
                    && told.time_to_live != too_long
                {
                    log::warn!(
                        "{} may serve the same flag data for {age:?}, longer than max_staleness_seconds allows ({:?}): \
                         lower the environment's TTL setting",
                        self.source.name(),
                        self.settings.max_staleness
                    );
                }
                told.time_to_live = too_long;
            }
            // Of a fetch that a freeze interrupted, nobody is to blame.
            Err(_) if self.clock.since(asked) > 2 * self.settings.time_out() => {}
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &SourceError) {
        self.backoff.lock().failed(match error {
            SourceError::Refused { .. } => Some(WAIT_AFTER_REFUSAL),
            SourceError::Throttled { wait, .. } => Some(*wait),
            _ => None,
        });
        let text = error.to_string();
        let mut told = self.told.lock();
        if told.fetch.as_ref() != Some(&text) {
            log::error!("flag data was not fetched: {text}");
            told.fetch = Some(text);
        }
    }

    /// As the SDK is to see it.
    fn prepared(&self, items: Arc<Items>) -> Arc<Items> {
        match self.settings.events {
            Events::Summary => Arc::new(items.map_flags(|flag| flag.with_json(without_tracking(flag.json())))),
            Events::Full | Events::Off => items,
        }
    }

    /// Where nothing is in memory, the package may have something; where that has become too old, nothing is better.
    fn fall_back(&self) {
        let too_old = |made: &SystemTime| made.elapsed().is_ok_and(|age| age > self.settings.bundled_max_age);
        match self.snapshot.origin() {
            Some(Origin::Package(made)) if too_old(&made) => self.snapshot.clear(),
            None => match self.package.read(&self.settings.flag_key) {
                Ok(Some((items, made))) if !too_old(made) => {
                    self.snapshot.replace(self.prepared(Arc::new(items.clone())), Origin::Package(*made), None);
                }
                Ok(_) => {}
                Err(error) => {
                    let text = error.to_string();
                    let mut told = self.told.lock();
                    if told.package.as_ref() != Some(&text) {
                        log::error!("the package's flag data is of no use: {text}");
                        told.package = Some(text);
                    }
                }
            },
            Some(_) => {}
        }
    }
}
