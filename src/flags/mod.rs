//! The flag in one execution environment: fetches its data, evaluates it, and sends its events.

mod client;
mod evaluation;
mod events;
mod failing;
mod package;
mod refresh;
mod reporter;
mod snapshot;

pub use client::StartError;
pub use evaluation::{DataState, Evaluation, Reason};
pub use package::offline;

use crate::settings::{DEADLINE_RESERVE, Events, Settings, Updates};
use crate::visitor::Visitor;
use client::Decider;
use evaluation::FlagResult;
use events::Delivery;
use flag_data::clock::Clock;
use flag_data::items::{Item, ItemKind};
use flag_data::sdk_key::SdkKey;
use flag_data::sources::FlagSource;
use flag_data::transport::Transport;
use launchdarkly_server_sdk::{Context, EvalError};
use package::Package;
use parking_lot::Mutex;
use refresh::Refresher;
use reporter::Reporter;
use snapshot::{Data, Origin, Snapshot};
use std::sync::Arc;
use std::time::Duration;

/// The flag of one execution environment of the function.
pub struct Flags {
    settings: Arc<Settings>,
    clock: Clock,
    /// The flag data.
    snapshot: Snapshot,
    /// Keeps the snapshot fresh; `None` if the SDK streams or polls.
    refresher: Option<Refresher>,
    /// Evaluates the flag for viewers.
    decider: Mutex<Arc<Decider>>,
    /// Makes the events; `None` if there are none, or if the decider makes them.
    reporter: Option<Reporter>,
    delivery: Delivery,
}

impl Flags {
    /// Starts the client and fetches its first data, within `init_budget_ms`: from `source`, or by the SDK if that streams or
    /// polls. Without a key no events are sent.
    ///
    /// # Errors
    /// [`StartError`]. A source that is out of reach is not an error.
    pub async fn start(
        settings: Arc<Settings>,
        key: Option<&SdkKey>,
        clock: Clock,
        transport: Transport,
        source: Box<dyn FlagSource>,
    ) -> Result<Self, StartError> {
        let delivery = Delivery::new(&clock, &settings, transport);
        let snapshot = Snapshot::default();
        let sdk_updates = key.is_some() && settings.updates != Updates::BetweenInvocations;
        let (refresher, decider) = if sdk_updates {
            let decider = Decider::new(&settings, key, snapshot.data(), Some(delivery.sender()))?;
            if decider.client.wait_for_initialization(settings.init_budget).await != Some(true) {
                log::error!("no flag data from LaunchDarkly within {:?}; the SDK keeps trying", settings.init_budget);
            }
            (None, decider)
        } else {
            let package = Package::of_this_function();
            let refresher = Refresher::new(settings.clone(), clock.clone(), source, package, snapshot.clone());
            refresher.start().await;
            (Some(refresher), Decider::new(&settings, None, snapshot.data(), None)?)
        };
        let reporter = key.filter(|_| !sdk_updates && settings.events != Events::Off);
        let reporter = reporter.map(|key| Reporter::new(settings.clone(), key.clone(), delivery.sender().clone()));
        Ok(Self { settings, clock, snapshot, refresher, decider: Mutex::new(Arc::new(decider)), reporter, delivery })
    }

    /// Replaces the decider if the snapshot has changed.
    fn renew_decider(&self) {
        let data = self.snapshot.data();
        let mut decider = self.decider.lock();
        if self.refresher.is_none() || Arc::ptr_eq(&decider.data.items, &data.items) {
            return;
        }
        match Decider::new(&self.settings, None, data, None) {
            Ok(renewed) => *decider = Arc::new(renewed),
            Err(error) => log::error!("flag data not applied: {error}. Decisions rest on the previous data"),
        }
    }

    /// Where the flag data comes from, for the log.
    fn source(&self) -> &'static str {
        match (&self.refresher, self.settings.updates) {
            (Some(refresher), _) => refresher.source().name(),
            (None, Updates::Polling) => "polling",
            (None, _) => "streaming",
        }
    }

    /// Before a decision: fetches data if the snapshot is too old, for at most `viewer_budget_ms`. Returns how long the
    /// viewer waited, if a fetch was necessary.
    pub async fn on_arrival(&self) -> Option<Duration> {
        let waited = self.refresher.as_ref()?.on_arrival().await;
        self.renew_decider();
        waited
    }

    /// After a response: fetches data and sends events if they are due, within `between_budget_ms` and well before
    /// the invocation's deadline.
    pub async fn between_invocations(&self) {
        let until_deadline = self.clock.remaining().map(|remaining| remaining.saturating_sub(DEADLINE_RESERVE));
        let budget = self.settings.between_budget.min(until_deadline.unwrap_or(Duration::MAX));
        self.report();
        let refresh = async {
            if let Some(refresher) = &self.refresher {
                refresher.between_invocations(budget).await;
            }
        };
        let flush = async {
            if !budget.is_zero() && self.delivery.is_due() {
                self.flush(budget).await;
            }
        };
        tokio::join!(refresh, flush);
        self.renew_decider();
    }

    /// Makes the event of the last evaluation.
    fn report(&self) {
        match self.reporter.as_ref().map(Reporter::report) {
            Some(Ok(true)) => self.delivery.evaluated(self.snapshot.data().items.flags.len().max(1)),
            Some(Err(error)) => self.delivery.failed(error.to_string(), None),
            Some(Ok(false)) | None => {}
        }
    }

    /// Sends the events, if there are any.
    pub async fn flush(&self, budget: Duration) {
        let decider = self.decider.lock().clone();
        let client = self.reporter.as_ref().map_or(Some(&decider.client), Reporter::client);
        if let Some(client) = client {
            self.delivery.flush(client, budget).await;
        }
    }

    /// Evaluates the flag for a visitor, from the data in memory. Only a visit makes an event.
    pub fn evaluate(&self, visitor: &Visitor<'_>, is_entry: bool) -> Evaluation {
        let data = self.snapshot.data();
        let age = data.age(&self.clock);
        let state = self.state(&data, age);
        let outcome = match visitor.context() {
            _ if state == DataState::Default => Err(EvalError::ClientNotReady),
            _ if data.missing_under_negation.is_some() => Err(EvalError::MalformedFlag),
            Ok(context) => self.decide(context, is_entry),
            Err(_) => Err(EvalError::Exception),
        };
        Evaluation {
            verdict: evaluation::verdict(outcome),
            reason: outcome.map_or(Reason::Error, |(_, reason)| reason),
            error_kind: outcome.err(),
            source: self.source(),
            data: state,
            data_age_ms: age.map(millis),
            flag_version: data.items.get(ItemKind::Flag, &self.settings.flag_key).map(Item::version),
            synced_age_ms: data.synced.map(|synced| millis(synced.elapsed().unwrap_or_default())),
        }
    }

    fn state(&self, data: &Data, age: Option<Duration>) -> DataState {
        // Data that a viewer waited for may be older by the time of the wait.
        let max_age = self.settings.max_staleness + self.settings.viewer_budget;
        let Some(refresher) = &self.refresher else { return DataState::Sdk };
        match data.origin {
            None => DataState::Default,
            Some(Origin::Package(_)) => DataState::Bundled,
            Some(Origin::Source(_)) if !refresher.source().changes() => DataState::Bundled,
            Some(Origin::Source(_)) if age > Some(max_age) => DataState::Older,
            Some(Origin::Source(_)) => DataState::Fresh,
        }
    }

    fn decide(&self, context: Context, is_entry: bool) -> FlagResult {
        let decider = self.decider.lock().clone();
        let sends_events = self.reporter.is_none() && self.settings.events != Events::Off;
        if sends_events && !is_entry {
            return evaluation::evaluate_without_event(&decider.client, &context, &self.settings.flag_key);
        }
        let result = evaluation::evaluate(&decider.client, &context, &self.settings.flag_key);
        match &self.reporter {
            Some(reporter) if is_entry => reporter.evaluated(context, decider.data.clone()),
            None if sends_events => self.delivery.evaluated(1),
            _ => {}
        }
        result
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flag_data::sources::{Bundled, Collection, SourceError};
    use futures_util::future::BoxFuture;

    /// Brings the same data with each fetch.
    struct Same(Bundled);

    impl FlagSource for Same {
        fn name(&self) -> &'static str {
            "same"
        }

        fn fetch<'a>(&'a self, collection: &'a Collection) -> BoxFuture<'a, Result<(), SourceError>> {
            self.0.fetch(collection)
        }
    }

    #[tokio::test]
    async fn the_decider_stays_while_its_data_does() {
        for (field, value) in [("REDIRECT_FLAG_KEY", "rebrand"), ("REDIRECT_FLAG_KEY", "missing")] {
            let own =
                [(field, value), ("REDIRECT_REFRESH_AFTER_SECONDS", "0"), ("REDIRECT_MAX_STALENESS_SECONDS", "0")];
            let own = |name: &str| own.iter().find(|(field, _)| *field == name).map(|(_, value)| (*value).to_owned());
            let (settings, clock) = (Arc::new(crate::start::settings(own).unwrap()), Clock::default());
            let transport = Transport::new(clock.clone(), settings.request_timeout());
            let flags = Flags::start(settings, None, clock, transport, Box::new(Same(offline()))).await.unwrap();
            let decider = flags.decider.lock().clone();
            assert!(flags.on_arrival().await.is_some(), "fetched");
            flags.between_invocations().await;
            assert!(Arc::ptr_eq(&decider, &flags.decider.lock()), "{value}");
        }
    }
}
