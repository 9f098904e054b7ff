//! The control page, and what its buttons do.

use super::environment::Environment;
use super::flag::Wanted;
use super::journal::{Journal, News};
use super::population::Population;
use super::viewer::{VIEWER_COOKIE, visiting_as};
use axum::extract::{ConnectInfo, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use flag_data::items::ItemKind;
use flag_data::items::{Item, Items};
use flag_data::sources::{Collection, FlagSource};
use futures_util::stream::{self, Stream, StreamExt};
use http::header::{CONTENT_TYPE, SET_COOKIE};
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use redirect::settings::Settings;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use standins::{Fault, LaunchDarkly};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How long a slow LaunchDarkly takes: longer than the function lets a viewer wait.
const SLOW: Duration = Duration::from_secs(2);

/// How often the flag of a real environment is read for the picture.
const LIVE_EVERY: Duration = Duration::from_secs(5);

/// What the control page controls.
pub(super) struct Control {
    pub launchdarkly: Service,
    pub environment: Environment,
    pub journal: Journal,
    /// As the function has them here.
    pub settings: Settings,
    /// As `redirect.toml` has them.
    pub deployed: Settings,
    pub freeze: bool,
    pub flag: Mutex<FlagState>,
    pub fault: Mutex<FaultName>,
}

/// Which LaunchDarkly has the flag.
pub(super) enum Service {
    /// Here, where it can be set.
    StandIn(LaunchDarkly),
    /// In a real environment, which is only read.
    Live(Box<dyn FlagSource>),
}

/// The flag, and what it means for the viewers.
pub(super) struct FlagState {
    population: Population,
    problem: Option<String>,
}

/// What LaunchDarkly is made to do.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FaultName {
    #[default]
    None,
    /// It takes connections and never answers.
    Down,
    /// It answers later than a viewer waits.
    Slow,
    /// It refuses the SDK key.
    Refused,
}

impl FaultName {
    fn fault(self) -> Fault {
        match self {
            Self::None => Fault::None,
            Self::Down => Fault::BlackHole,
            Self::Slow => Fault::SlowHeaders(SLOW),
            Self::Refused => Fault::Status(401, None),
        }
    }
}

impl FlagState {
    pub(super) fn new() -> Self {
        Self { population: Population::new(), problem: None }
    }
}

impl Control {
    /// Sets the stand-in's flag.
    pub(super) fn set_flag(&self, launchdarkly: &LaunchDarkly, wanted: &Wanted) {
        let key = &self.settings.flag_key;
        let mut flag = self.flag.lock();
        let json = wanted.flag(key, flag.population.flag().version + 1);
        launchdarkly.set_flag(&json);
        let mut items = Items::default();
        match Item::new(ItemKind::Flag, json.to_string(), None) {
            Ok(item) => {
                items.insert(ItemKind::Flag, key.clone(), item);
                flag.tell(&items, key);
            }
            Err(why) => flag.problem = Some(why),
        }
        drop(flag);
        self.journal.state_changed();
    }

    /// Reads the flag of a real environment, again and again.
    pub(super) async fn follow_live(&self) {
        let Service::Live(source) = &self.launchdarkly else { return };
        let key = &self.settings.flag_key;
        let mut known: Arc<Items> = Arc::default();
        loop {
            let collection = Collection::new(key, known.clone(), BTreeSet::new());
            match source.fetch(&collection).await {
                Ok(()) => {
                    known = Arc::new(collection.resolve().unwrap_or_default().items);
                    self.flag.lock().tell(&known, key);
                }
                Err(error) => self.flag.lock().problem = Some(error.to_string()),
            }
            self.journal.state_changed();
            tokio::time::sleep(LIVE_EVERY).await;
        }
    }

    fn state(&self) -> Value {
        let flag = self.flag.lock();
        json!({
            "flag_key": self.settings.flag_key,
            "flag": flag.population.flag(),
            "flag_problem": flag.problem,
            "is_live": matches!(self.launchdarkly, Service::Live(_)),
            "population": flag.population.picture(),
            "fault": *self.fault.lock(),
            "environment": self.environment.status(),
            "freezes": self.freeze,
            "max_staleness_seconds": self.settings.max_staleness.as_secs(),
            "viewer_budget_ms": self.settings.viewer_budget.as_millis(),
            "deployed_max_staleness_seconds": self.deployed.max_staleness.as_secs(),
        })
    }
}

impl FlagState {
    fn tell(&mut self, items: &Items, key: &str) {
        self.problem = self.population.ask(items, key).err().map(|error| error.to_string());
    }
}

/// The routes of the control page.
pub(super) fn routes(control: Arc<Control>) -> Router {
    let page = |content_type: &'static str, text: &'static str| {
        get(move || async move { ([(CONTENT_TYPE, content_type)], text) })
    };
    Router::new()
        .route("/__preview", page("text/html; charset=utf-8", include_str!("page/index.html")))
        .route("/__preview/style.css", page("text/css; charset=utf-8", include_str!("page/style.css")))
        .route("/__preview/script.js", page("text/javascript; charset=utf-8", include_str!("page/script.js")))
        .route("/__preview/icon.svg", page("image/svg+xml", include_str!("page/icon.svg")))
        .route("/__preview/news", get(news))
        .route("/__preview/viewers", get(viewers))
        .route("/__preview/viewer", get(viewer).put(visit_as).delete(visit_as_self))
        .route("/__preview/flag", put(set_flag))
        .route("/__preview/fault", put(set_fault))
        .route("/__preview/environment/freeze", post(freeze))
        .route("/__preview/environment/kill", post(kill))
        .with_state(control)
}

/// The state and the log, and every change of them, as server-sent events.
async fn news(State(control): State<Arc<Control>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let (entries, receiver) = control.journal.subscribe();
    let entry = |entry: &super::journal::Entry| Event::default().event("entry").json_data(entry);
    let first = [Event::default().event("state").json_data(control.state())];
    let first: Vec<_> = first.into_iter().chain(entries.iter().map(entry)).collect();
    // A page that fell behind finds the stream at its end, connects again, and gets everything.
    let rest = stream::unfold((control, receiver), move |(control, mut receiver)| async move {
        let event = match receiver.recv().await.ok()? {
            News::State => Event::default().event("state").json_data(control.state()),
            News::Entry(changed) => entry(&changed),
        };
        Some((event, (control, receiver)))
    });
    // Serialising what is made of text and numbers does not fail.
    let events = stream::iter(first).chain(rest).map(|event| Ok(event.unwrap_or_default()));
    Sse::new(events).keep_alive(KeepAlive::default())
}

async fn viewers(State(control): State<Arc<Control>>) -> Json<Vec<String>> {
    Json(control.flag.lock().population.addresses().to_vec())
}

async fn viewer(ConnectInfo(peer): ConnectInfo<SocketAddr>, headers: HeaderMap) -> Json<Value> {
    let own = peer.ip().to_string();
    Json(json!({ "address": visiting_as(&headers).unwrap_or_else(|| own.clone()), "own": own }))
}

#[derive(Deserialize)]
struct VisitAs {
    address: String,
}

async fn visit_as(Json(VisitAs { address }): Json<VisitAs>) -> Response {
    if address.parse::<IpAddr>().is_err() {
        return refusal(&format!("{address:?} is no IP address: write it as 192.0.2.1 or 2001:db8::1"));
    }
    let cookie = format!("{VIEWER_COOKIE}={address}; Path=/; SameSite=Strict");
    (StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response()
}

async fn visit_as_self() -> Response {
    let cookie = format!("{VIEWER_COOKIE}=; Path=/; SameSite=Strict; Max-Age=0");
    (StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response()
}

async fn set_flag(State(control): State<Arc<Control>>, Json(wanted): Json<Wanted>) -> Response {
    let Service::StandIn(launchdarkly) = &control.launchdarkly else { return read_only() };
    if let Err(error) = wanted.check() {
        return refusal(&error.to_string());
    }
    control.set_flag(launchdarkly, &wanted);
    StatusCode::NO_CONTENT.into_response()
}

#[derive(Deserialize)]
struct SetFault {
    fault: FaultName,
}

async fn set_fault(State(control): State<Arc<Control>>, Json(SetFault { fault }): Json<SetFault>) -> Response {
    let Service::StandIn(launchdarkly) = &control.launchdarkly else { return read_only() };
    launchdarkly.fail(fault.fault());
    launchdarkly.fail_events(fault.fault());
    *control.fault.lock() = fault;
    control.journal.state_changed();
    StatusCode::NO_CONTENT.into_response()
}

async fn freeze(State(control): State<Arc<Control>>) -> StatusCode {
    control.environment.freeze_long().await;
    // No server keeps an idle connection for so long.
    if let Service::StandIn(launchdarkly) = &control.launchdarkly {
        launchdarkly.drop_connections();
    }
    StatusCode::NO_CONTENT
}

async fn kill(State(control): State<Arc<Control>>) -> StatusCode {
    control.environment.kill().await;
    StatusCode::NO_CONTENT
}

fn read_only() -> Response {
    refusal("the LaunchDarkly environment is a real one and only read: change the flag in LaunchDarkly")
}

fn refusal(error: &str) -> Response {
    (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "error": error }))).into_response()
}
