//! Keeps the snapshot fresh in an environment that is frozen between invocations.

use super::failing::{FailingReferences, listed, named};
use super::package::Package;
use super::snapshot::{Data, Origin, Snapshot};
use crate::settings::Settings;
use flag_data::backoff::Backoff;
use flag_data::clock::{Clock, Moment};
use flag_data::items::{ItemKey, ItemKind, Items};
use flag_data::sources::{Collection, FlagSource, SourceError};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Fetches flag data: at the cold start, on arrival of a request when the data is stale, and after a response when it
/// is due.
///
/// A fetch that exceeds the viewer's budget continues after the response, but not beyond: a request in flight would fail in
/// a frozen environment.
pub(super) struct Refresher {
    shared: Arc<Shared>,
    /// The fetch in flight.
    attempt: Mutex<Option<Attempt>>,
}

struct Attempt {
    task: JoinHandle<()>,
    collection: Arc<Collection>,
    /// When the request was sent: the data is as old as that.
    asked: Moment,
    /// When something last waited for it.
    waited: Moment,
}

struct Shared {
    settings: Arc<Settings>,
    clock: Clock,
    source: Box<dyn FlagSource>,
    package: Package,
    snapshot: Snapshot,
    /// The items of the last fetch, and the last known copies of references that failed.
    known: Mutex<Arc<Items>>,
    /// A flag that is not applied yet, because it waits for a reference.
    pending: Mutex<Option<Pending>>,
    backoff: Mutex<Backoff>,
    failing: Mutex<FailingReferences>,
    logged: Mutex<Logged>,
}

/// A flag with a reference that was not fetched and has no known copy. The previous flag stays in use, for at most
/// `max_staleness_seconds`.
struct Pending {
    /// When the previous flag was requested, or the new one if there is no previous one.
    since: Moment,
    data: Data,
}

/// The problems that were logged: each is logged once, until it changes.
#[derive(Default)]
struct Logged {
    fetch: Option<SourceError>,
    package: Option<String>,
    time_to_live: Option<Duration>,
    missing_under_negation: Option<ItemKey>,
}

impl Refresher {
    pub(super) fn new(
        settings: Arc<Settings>,
        clock: Clock,
        source: Box<dyn FlagSource>,
        package: Package,
        snapshot: Snapshot,
    ) -> Self {
        let backoff = Mutex::new(Backoff::new(clock.clone(), settings.max_staleness));
        let failing = Mutex::new(FailingReferences::new(clock.clone(), &settings));
        let shared = Shared {
            settings,
            clock,
            source,
            package,
            snapshot,
            known: Mutex::default(),
            pending: Mutex::default(),
            backoff,
            failing,
            logged: Mutex::default(),
        };
        Self { shared: Arc::new(shared), attempt: Mutex::default() }
    }

    pub(super) fn source(&self) -> &dyn FlagSource {
        self.shared.source.as_ref()
    }

    /// The fetch of the cold start, for at most `init_budget_ms`.
    pub(super) async fn start(&self) {
        let attempt = self.shared.begin(false);
        self.wait(attempt, self.shared.settings.init_budget).await;
        self.shared.fall_back();
    }

    /// Makes the data fresh enough for a decision, for at most `viewer_budget_ms`. Returns how long the viewer waited, if a
    /// fetch was necessary. A viewer does not wait for a fetch of the cold start that is still in flight, since the cold
    /// start did; after a freeze that fetch is aborted.
    pub(super) async fn on_arrival(&self) -> Option<Duration> {
        let shared = &self.shared;
        self.attempt.lock().take_if(|attempt| {
            let frozen =
                shared.clock.since(attempt.waited) > shared.settings.init_budget + shared.settings.between_budget;
            if frozen {
                attempt.task.abort();
            }
            frozen || attempt.task.is_finished()
        });
        shared.end_pending();
        let mut waited = None;
        if shared.is_older_than(shared.settings.max_staleness)
            && shared.backoff.lock().allows()
            && self.attempt.lock().is_none()
        {
            let begun = Instant::now();
            let attempt = shared.begin(true);
            self.wait(attempt, shared.settings.viewer_budget).await;
            waited = Some(begun.elapsed());
        }
        shared.fall_back();
        waited
    }

    /// Finishes a fetch that is in flight, or makes one that is due, within `budget`.
    pub(super) async fn between_invocations(&self, budget: Duration) {
        let shared = &self.shared;
        let in_flight = self.attempt.lock().take();
        let attempt = match in_flight {
            Some(attempt) => attempt,
            None if (shared.is_older_than(shared.settings.refresh_after) || shared.failing.lock().is_any_due())
                && shared.backoff.lock().allows()
                && !budget.is_zero() =>
            {
                shared.begin(false)
            }
            None => return,
        };
        self.wait(attempt, budget).await;
        let unfinished = self.attempt.lock().take();
        if let Some(attempt) = unfinished {
            attempt.task.abort();
            let why = format!("no answer within {budget:?} after the response");
            let error = SourceError::Unreachable { uri: shared.source.name().to_owned(), why };
            if attempt.collection.has_flag() {
                attempt.collection.fail_open(&error);
                shared.finish(&attempt.collection, attempt.asked);
            } else {
                shared.failed(&error);
            }
        }
    }

    /// Waits for a fetch. One that is not finished within `budget` stays in flight, and the items that have arrived apply.
    async fn wait(&self, mut attempt: Attempt, budget: Duration) {
        attempt.waited = self.shared.clock.now();
        match tokio::time::timeout(budget, &mut attempt.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.shared.failed(&SourceError::Unreachable {
                uri: self.shared.source.name().to_owned(),
                why: format!("the fetch ended early: {error}"),
            }),
            Err(_) => {
                self.shared.apply(&attempt.collection, attempt.asked);
                *self.attempt.lock() = Some(attempt);
            }
        }
    }
}

impl Shared {
    fn is_older_than(&self, limit: Duration) -> bool {
        let pending = self.pending.lock().as_ref().and_then(|pending| pending.data.origin);
        match pending.or_else(|| self.snapshot.data().origin) {
            Some(Origin::Source(moment)) => self.source.changes() && self.clock.since(moment) >= limit,
            Some(Origin::Package(_)) | None => true,
        }
    }

    fn begin(self: &Arc<Self>, is_viewer_waiting: bool) -> Attempt {
        let resting = self.failing.lock().resting(is_viewer_waiting);
        let known = self.known.lock().clone();
        let collection = Arc::new(Collection::new(&self.settings.flag_key, known, resting));
        let asked = self.clock.now();
        let (shared, fetched) = (self.clone(), collection.clone());
        let task = tokio::spawn(async move { shared.fetch(&fetched, asked).await });
        Attempt { task, collection, asked, waited: asked }
    }

    async fn fetch(&self, collection: &Collection, asked: Moment) {
        match self.source.fetch(collection).await {
            Ok(()) => self.finish(collection, asked),
            Err(_) if self.was_frozen(asked) => {}
            Err(error) => self.failed(&error),
        }
    }

    /// A fetch that a freeze interrupted is not a failure.
    fn was_frozen(&self, asked: Moment) -> bool {
        self.clock.since(asked) > 2 * self.settings.request_timeout()
    }

    /// Applies the items that have arrived, and returns them. A flag with an unknown reference becomes pending instead.
    fn apply(&self, collection: &Collection, asked: Moment) -> Option<Arc<Items>> {
        let resolved = collection.resolve()?;
        self.backoff.lock().succeeded();
        if self.logged.lock().fetch.take().is_some() {
            log::warn!("fetching flag data works again");
        }
        self.check_time_to_live(resolved.time_to_live);
        let before = self.snapshot.data();
        let data = Data::new(resolved, Origin::Source(asked));
        let items = data.items.clone();
        let pending = self.pending.lock().take();
        let since = match (pending, before.origin) {
            (Some(pending), _) => pending.since,
            (None, Some(Origin::Source(fetched))) => fetched,
            (None, _) => asked,
        };
        if data.unknown.is_subset(&before.unknown) {
            self.replace(data);
        } else {
            *self.pending.lock() = Some(Pending { since, data });
            self.end_pending();
        }
        Some(items)
    }

    /// Applies a flag that has waited for a reference for `max_staleness_seconds`. The SDK treats the reference as missing.
    fn end_pending(&self) {
        let has_ended = |pending: &mut Pending| self.clock.since(pending.since) >= self.settings.max_staleness;
        let ended = self.pending.lock().take_if(has_ended);
        if let Some(Pending { data, .. }) = ended {
            log::warn!(
                "flag {:?} is evaluated without {}, which has not been available for {:?}",
                self.settings.flag_key,
                listed(&data.unknown),
                self.settings.max_staleness
            );
            self.replace(data);
        }
    }

    fn replace(&self, data: Data) {
        let logged =
            std::mem::replace(&mut self.logged.lock().missing_under_negation, data.missing_under_negation.clone());
        if let Some(segment) = data.missing_under_negation.as_ref().filter(|_| logged != data.missing_under_negation) {
            log::error!(
                "flag {:?} shows everyone the current site: {} is missing or a big segment, and the result of a negated \
                 clause depends on it. Create the segment again or change the clause",
                self.settings.flag_key,
                named(segment)
            );
        }
        self.snapshot.set(data);
    }

    /// Applies a finished fetch, keeps copies of its items, and records which references failed.
    fn finish(&self, collection: &Collection, asked: Moment) {
        if let Some(items) = self.apply(collection, asked) {
            self.keep(items);
        }
        if !self.was_frozen(asked) {
            self.failing.lock().record(collection);
        }
    }

    /// Keeps items as last known copies. A flag that is off has no references, so those of before are kept for later.
    fn keep(&self, mut items: Arc<Items>) {
        let mut known = self.known.lock();
        let flag = items.get(ItemKind::Flag, &self.settings.flag_key);
        if flag.is_some_and(|flag| flag.references().is_empty()) {
            let items = Arc::make_mut(&mut items);
            for (key, flag) in &known.flags {
                items.flags.entry(key.clone()).or_insert_with(|| flag.clone());
            }
            for (key, segment) in &known.segments {
                items.segments.entry(key.clone()).or_insert_with(|| segment.clone());
            }
        }
        *known = items;
    }

    fn failed(&self, error: &SourceError) {
        self.backoff.lock().failed(error.wait());
        let mut logged = self.logged.lock();
        if logged.fetch.as_ref().is_none_or(|before| !before.is_like(error)) {
            log::error!("flag data not fetched: {error}");
            logged.fetch = Some(error.clone());
        }
    }

    fn check_time_to_live(&self, time_to_live: Option<Duration>) {
        let too_long = time_to_live.filter(|age| *age > self.settings.max_staleness);
        let logged = std::mem::replace(&mut self.logged.lock().time_to_live, too_long);
        if let Some(age) = too_long.filter(|_| logged != too_long) {
            log::warn!(
                "{} may serve the same flag data for {age:?}, longer than max_staleness_seconds allows ({:?}): lower the \
                 environment's TTL setting",
                self.source.name(),
                self.settings.max_staleness
            );
        }
    }

    /// Uses the package's data if there is none in memory, and drops it once it is older than `bundled_max_age_hours`.
    fn fall_back(&self) {
        let is_too_old = |origin| match origin {
            Some(Origin::Package(made)) => made.elapsed().is_ok_and(|age| age > self.settings.bundled_max_age),
            Some(Origin::Source(_)) | None => false,
        };
        match self.snapshot.data().origin {
            origin if is_too_old(origin) => self.snapshot.set(Data::default()),
            None => match self.package.read(&self.settings.flag_key) {
                Ok(Some(data)) if !is_too_old(data.origin) => self.replace(data.clone()),
                Ok(_) => {}
                Err(error) => {
                    let text = error.to_string();
                    let logged = self.logged.lock().package.replace(text.clone());
                    if logged.as_ref() != Some(&text) {
                        log::error!("flag data of the package cannot be used: {text}");
                    }
                }
            },
            Some(_) => {}
        }
    }
}
