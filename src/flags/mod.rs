//! The life of the LaunchDarkly client: what it evaluates from, and when its events are sent.

mod client;
mod events;
mod package;
mod refresh;
mod reporter;
mod snapshot;

pub use client::StartError;
pub use package::offline;

use crate::redirect::Verdict;
use crate::settings::{DEADLINE_RESERVE, Events, Settings, Updates};
use client::Decider;
use events::{EventSender, Flushing};
use flag_data::clock::Clock;
use flag_data::sdk_key::SdkKey;
use flag_data::sources::FlagSource;
use flag_data::transport::Transport;
use launchdarkly_server_sdk::{Client, Context, ContextBuilder, EvalError, FlagDetailConfig, Reason};
use package::Package;
use parking_lot::Mutex;
use refresh::Refresher;
use reporter::Reporter;
use snapshot::{Origin, Snapshot};
use std::sync::Arc;
use std::time::Duration;

/// The flags of an environment, for one execution environment of the function.
pub struct Flags {
    settings: Arc<Settings>,
    clock: Clock,
    decider: Mutex<Arc<Decider>>,
    snapshot: Snapshot,
    /// `None` where the SDK itself keeps its data fresh.
    refresher: Option<Refresher>,
    /// `None` where there are no events, or the client sends them itself.
    reporter: Option<Reporter>,
    events: EventSender,
    flushing: Mutex<Flushing>,
    events_told: Mutex<Option<String>>,
}

/// An evaluation, and what it rests on.
#[derive(Debug)]
pub struct Evaluation {
    /// Which site.
    pub verdict: Verdict,
    /// The evaluation reason, as LaunchDarkly names it.
    pub reason: &'static str,
    /// The kind of error, when that is the reason.
    pub error_kind: Option<&'static str>,
    /// Which data: `fresh`, `older`, `bundled`, `default`, or `sdk` when the SDK keeps it.
    pub data: &'static str,
    /// How old the data is.
    pub data_age: Option<Duration>,
    /// Where it came from.
    pub source: &'static str,
    /// The version of the flag.
    pub flag_version: Option<u64>,
    /// How long ago flag-sync last made the store equal to LaunchDarkly; unknown for another source or writer.
    pub synced_age: Option<Duration>,
}

impl Flags {
    /// Starts the client and fetches its first data from `source`, within `init_budget_ms`. Without a key no events are
    /// sent.
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
        let events = EventSender::new(transport, settings.events);
        let snapshot = Snapshot::default();

        let own_updates = key.is_some() && settings.updates != Updates::BetweenInvocations;
        let refresher = if own_updates {
            None
        } else {
            let package = Package::of_this_function();
            Some(Refresher::new(settings.clone(), clock.clone(), source, package, snapshot.clone()))
        };
        let reporter = key.filter(|_| !own_updates && settings.events != Events::Off);
        let reporter = reporter.map(|key| Reporter::new(settings.clone(), key.clone(), events.clone()));
        let decider = if let Some(refresher) = &refresher {
            refresher.start().await;
            Decider::new(&settings, None, snapshot.data(), None)?
        } else {
            let decider = Decider::new(&settings, key, snapshot.data(), Some(&events))?;
            if decider.client.wait_for_initialization(settings.init_budget).await != Some(true) {
                log::error!("LaunchDarkly did not give flag data within {:?}", settings.init_budget);
            }
            decider
        };

        let flushing = Mutex::new(Flushing::new(&clock, &settings));
        let events_told = Mutex::default();
        let decider = Mutex::new(Arc::new(decider));
        Ok(Self { settings, clock, decider, snapshot, refresher, reporter, events, flushing, events_told })
    }

    /// Lets decisions rest on the data that came, if it has changed.
    fn renew_decider(&self) {
        let data = self.snapshot.data();
        let mut decider = self.decider.lock();
        if self.refresher.is_none() || decider.snapshot.take_if_same(&data) {
            return;
        }
        match Decider::new(&self.settings, None, data, None) {
            Ok(renewed) => *decider = Arc::new(renewed),
            Err(error) => log::error!("decisions rest on the flag data of before: {error}"),
        }
    }

    /// Where the flag data comes from, for the log.
    pub fn source(&self) -> &'static str {
        match (&self.refresher, self.settings.updates) {
            (Some(refresher), _) => refresher.source().name(),
            (None, Updates::Polling) => "polling",
            (None, _) => "streaming",
        }
    }

    /// Before a decision: fresh data if what is there is too old, for no longer than `viewer_budget_ms`.
    pub async fn on_arrival(&self) {
        if let Some(refresher) = &self.refresher {
            refresher.on_arrival().await;
            self.renew_decider();
        }
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
            if !budget.is_zero() && self.flushing.lock().is_due() {
                self.flush(budget).await;
            }
        };
        tokio::join!(refresh, flush);
        self.renew_decider();
    }

    /// Tells the SDK's event sender of the evaluations since the last time.
    fn report(&self) {
        match self.reporter.as_ref().map(Reporter::report) {
            None => {}
            Some(Ok(count)) => {
                let flags = self.snapshot.flags().max(1);
                (0..count).for_each(|_| self.flushing.lock().evaluated(flags));
            }
            Some(Err(error)) => self.not_delivered(error.to_string()),
        }
    }

    /// Sends what events there are, when the environment is shut down.
    pub async fn flush_all(&self, budget: Duration) {
        if self.flushing.lock().anything_waits() {
            self.flush(budget).await;
        }
    }

    /// The SDK's `flush_blocking` returns true also when nothing was delivered, and waits for ever for a time of zero;
    /// its `close` may hang and is never called.
    async fn flush(&self, budget: Duration) {
        let decider = self.decider.lock().clone();
        let client = self.reporter.as_ref().map_or(Some(&decider.client), Reporter::client);
        let Some(client) = client else { return };
        self.events.flush_begins();
        let in_time = client.flush_blocking(budget).await;
        let problem = match (in_time, self.events.take_problem()) {
            (false, _) => Some((format!("no answer within {budget:?}"), None)),
            (true, Some(problem)) => Some((problem.text, problem.wait)),
            (true, None) => None,
        };
        match problem {
            None => {
                self.flushing.lock().delivered();
                if self.events_told.lock().take().is_some() {
                    log::warn!("events are delivered again");
                }
            }
            Some((text, wait)) => {
                self.flushing.lock().failed(wait);
                self.not_delivered(text);
            }
        }
    }

    fn not_delivered(&self, why: String) {
        let mut told = self.events_told.lock();
        if told.as_ref() != Some(&why) {
            log::error!("events were not delivered: {why}");
            *told = Some(why);
        }
    }

    /// Evaluates the flag for a viewer, from what is in memory. Only an evaluation that is a visit makes an event.
    pub fn evaluate(&self, client_ip: &str, is_visit: bool) -> Evaluation {
        let origin = self.snapshot.origin();
        let data_age = self.snapshot.age(&self.clock);
        let data = match (origin, &self.refresher) {
            (_, None) => "sdk",
            (None, _) => "default",
            (Some(Origin::Package(_)), _) => "bundled",
            (Some(Origin::Source(_)), Some(refresher)) if !refresher.source().changes() => "bundled",
            (Some(Origin::Source(_)), _) if data_age > Some(self.stale_age()) => "older",
            (Some(Origin::Source(_)), _) => "fresh",
        };
        let (verdict, reason, error_kind) = if data == "default" {
            failed(EvalError::ClientNotReady)
        } else if self.snapshot.is_unsafe() {
            failed(EvalError::MalformedFlag)
        } else {
            self.variation(client_ip, is_visit)
        };
        Evaluation {
            verdict,
            reason,
            error_kind,
            data,
            data_age,
            source: self.source(),
            flag_version: self.snapshot.flag_version(&self.settings.flag_key),
            synced_age: self.snapshot.synced().map(|synced| synced.elapsed().unwrap_or_default()),
        }
    }

    /// Data that was fetched for this viewer may have become as much older as he waited.
    fn stale_age(&self) -> Duration {
        self.settings.max_staleness + self.settings.viewer_budget
    }

    fn variation(&self, client_ip: &str, is_visit: bool) -> (Verdict, &'static str, Option<&'static str>) {
        let Ok(context) = context(client_ip, self.settings.events) else {
            return (Verdict::NoData, "ERROR", Some("USER_NOT_SPECIFIED"));
        };
        let decider = self.decider.lock().clone();
        let sends_events = self.reporter.is_none() && self.settings.events != Events::Off;
        if sends_events && !is_visit {
            return without_event(&decider.client, &context, &self.settings.flag_key);
        }
        let detail = decider.client.bool_variation_detail(&context, &self.settings.flag_key, false);
        match &self.reporter {
            Some(reporter) if is_visit => reporter.evaluated(context, &self.snapshot),
            None if sends_events => self.flushing.lock().evaluated(1),
            _ => {}
        }
        let reason = match detail.reason {
            Reason::Off => "OFF",
            Reason::TargetMatch => "TARGET_MATCH",
            Reason::RuleMatch { .. } => "RULE_MATCH",
            Reason::PrerequisiteFailed { .. } => "PREREQUISITE_FAILED",
            Reason::Fallthrough { .. } => "FALLTHROUGH",
            Reason::Error { error } => return failed(error),
        };
        (verdict(detail.value == Some(true)), reason, None)
    }
}

/// The evaluation reasons, as LaunchDarkly names them.
/// <https://launchdarkly.com/docs/sdk/concepts/evaluation-reasons>
const REASONS: [&str; 5] = ["OFF", "TARGET_MATCH", "RULE_MATCH", "PREREQUISITE_FAILED", "FALLTHROUGH"];

fn verdict(value: bool) -> Verdict {
    if value { Verdict::Beta } else { Verdict::Current }
}

/// An evaluation by a client that sends events, without an event: the SDK has no such evaluation of one flag, but one
/// of all flags.
/// <https://launchdarkly.com/docs/sdk/features/all-flags>
fn without_event(client: &Client, context: &Context, flag_key: &str) -> (Verdict, &'static str, Option<&'static str>) {
    if !client.initialized() {
        return failed(EvalError::ClientNotReady);
    }
    let all = client.all_flags_detail(context, *FlagDetailConfig::new().with_reasons());
    let all = serde_json::to_value(all).unwrap_or_default();
    let kind = all.get("$flagsState").and_then(|states| states.get(flag_key)?.get("reason")?.get("kind")?.as_str());
    let reason = kind.and_then(|kind| REASONS.into_iter().find(|reason| *reason == kind));
    match (kind, reason, all.get(flag_key)) {
        (None, _, _) | (_, _, None) => failed(EvalError::FlagNotFound),
        (_, None, _) => failed(EvalError::MalformedFlag),
        (_, Some(reason), Some(value)) => match value.as_bool() {
            Some(value) => (verdict(value), reason, None),
            // A flag that is off without an off variation: the default.
            None if value.is_null() => (Verdict::Current, reason, None),
            None => failed(EvalError::WrongType),
        },
    }
}

/// What an evaluation error means: without data nobody is moved; any other error is an answer about a flag that
/// nobody can have the new site by.
fn failed(error: EvalError) -> (Verdict, &'static str, Option<&'static str>) {
    let verdict = if matches!(error, EvalError::ClientNotReady) { Verdict::NoData } else { Verdict::Current };
    (verdict, "ERROR", Some(error_name(error)))
}

/// As LaunchDarkly's evaluation reasons name it.
fn error_name(error: EvalError) -> &'static str {
    match error {
        EvalError::ClientNotReady => "CLIENT_NOT_READY",
        EvalError::FlagNotFound => "FLAG_NOT_FOUND",
        EvalError::MalformedFlag => "MALFORMED_FLAG",
        EvalError::WrongType => "WRONG_TYPE",
        EvalError::Exception => "EXCEPTION",
    }
}

/// The viewer's context: kind `user`, keyed by his address exactly as CloudFront gives it, since two spellings of one
/// address would be two contexts. Anonymous where no address may leave AWS, as the SDK leaves such contexts out.
fn context(client_ip: &str, events: Events) -> Result<Context, String> {
    let mut builder = ContextBuilder::new(client_ip);
    if events == Events::Summary {
        builder.anonymous(true);
    }
    builder.build()
}
