//! The control page, and what its buttons do.

use super::environment::Environment;
use super::flag::{FlagSetting, check_key};
use super::journal::{Entry, Journal, News};
use super::population::Population;
use super::viewer::{VIEWER_COOKIE, cookie};
use axum::extract::{ConnectInfo, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{AppendHeaders, IntoResponse, Redirect, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use flag_data::items::{Item, ItemKind, Items};
use flag_data::sources::{Collection, FlagSource};
use futures_util::stream::{self, Stream, StreamExt};
use http::header::{CONTENT_TYPE, SET_COOKIE};
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use redirect::preview_token::PreviewToken;
use redirect::settings::{GUARD_COOKIE, PREVIEW_COOKIE, Settings};
use redirect::visitor::PREVIEW_PARAMETER;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use standins::{Fault, LaunchDarkly};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The delay of a slow LaunchDarkly: longer than a viewer waits.
const SLOW: Duration = Duration::from_secs(2);

/// How often the flag of a real environment is read for the picture.
const LIVE_INTERVAL: Duration = Duration::from_secs(5);

/// What the control page controls.
pub(super) struct Control {
    pub launchdarkly: Service,
    pub environment: Environment,
    pub journal: Journal,
    /// Those of the function here.
    pub settings: Arc<Settings>,
    /// Those of `redirect.toml`.
    pub deployed: Settings,
    /// The token of preview links.
    pub token: Arc<Option<PreviewToken>>,
    pub freeze: bool,
    pub flag: Mutex<FlagState>,
    pub fault: Mutex<FaultName>,
}

/// Which LaunchDarkly has the flag.
pub(super) enum Service {
    /// Here, where the flag can be set.
    StandIn(LaunchDarkly),
    /// A real environment, which is only read.
    Live(Box<dyn FlagSource>),
}

/// The flag, and what it means for the viewers.
pub(super) struct FlagState {
    pub population: Population,
    pub problem: Option<String>,
}

/// A fault of LaunchDarkly.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FaultName {
    #[default]
    None,
    /// It accepts connections and never answers.
    Down,
    /// It answers later than a viewer waits.
    Slow,
    /// It rejects the SDK key.
    Rejected,
}

impl FaultName {
    fn fault(self) -> Fault {
        match self {
            Self::None => Fault::None,
            Self::Down => Fault::BlackHole,
            Self::Slow => Fault::SlowHeaders(SLOW),
            Self::Rejected => Fault::Status(401, None),
        }
    }
}

impl Control {
    /// Sets the stand-in's flag.
    pub(super) fn set_flag(&self, launchdarkly: &LaunchDarkly, setting: &FlagSetting) {
        let key = &self.settings.flag_key;
        let mut flag = self.flag.lock();
        let json = setting.flag(key, flag.population.flag().version + 1);
        launchdarkly.set_flag(&json);
        let mut items = Items::default();
        flag.problem = match Item::new(ItemKind::Flag, json.to_string(), None) {
            Ok(item) => {
                items.insert(ItemKind::Flag, key.clone(), item);
                flag.population.evaluate(&items, key).err()
            }
            Err(why) => Some(why),
        };
        drop(flag);
        self.journal.state_changed();
    }

    /// Reads the flag of a real environment at intervals.
    pub(super) async fn follow_live(&self) {
        let Service::Live(source) = &self.launchdarkly else { return };
        let key = &self.settings.flag_key;
        let mut known: Arc<Items> = Arc::default();
        loop {
            let collection = Collection::new(key, known.clone(), BTreeSet::new());
            let problem = match source.fetch(&collection).await {
                Ok(()) => {
                    known = Arc::new(collection.resolve().unwrap_or_default().items);
                    self.flag.lock().population.evaluate(&known, key).err()
                }
                Err(error) => Some(error.to_string()),
            };
            self.flag.lock().problem = problem;
            self.journal.state_changed();
            tokio::time::sleep(LIVE_INTERVAL).await;
        }
    }

    /// The cookie that says who visits: the visitor's own, or the preview's with an address.
    fn key_cookie(&self) -> &str {
        let name = &self.settings.visitor_cookie;
        if name.is_empty() { VIEWER_COOKIE } else { name }
    }

    fn state(&self) -> Value {
        let flag = self.flag.lock();
        json!({
            "flag_key": self.settings.flag_key,
            "flag": flag.population.flag(),
            "flag_problem": flag.problem,
            "current_path": self.settings.current_path,
            "beta_path": self.settings.beta_path,
            "visitor_cookie": self.settings.visitor_cookie,
            "context_headers": self.settings.context_headers,
            "has_preview_link": self.token.is_some(),
            "is_live": matches!(self.launchdarkly, Service::Live(_)),
            "population": flag.population.picture(),
            "fault": *self.fault.lock(),
            "environment": self.environment.status(),
            "freezes": self.freeze,
            "max_staleness_seconds": self.settings.max_staleness.as_secs(),
            "viewer_budget_ms": self.settings.viewer_budget.as_millis(),
            "init_budget_ms": self.settings.init_budget.as_millis(),
            "deployed_max_staleness_seconds": self.deployed.max_staleness.as_secs(),
        })
    }
}

/// The routes of the control page.
pub(super) fn routes(control: Arc<Control>) -> Router {
    let page = |content_type: &'static str, text: &'static str| {
        get(move || async move { ([(CONTENT_TYPE, content_type)], text) })
    };
    let index = page("text/html; charset=utf-8", include_str!("page/index.html"));
    Router::new()
        .route("/__preview", index.clone())
        .route("/__preview/", index)
        .route("/__preview/style.css", page("text/css; charset=utf-8", include_str!("page/style.css")))
        .route("/__preview/script.js", page("text/javascript; charset=utf-8", include_str!("page/script.js")))
        .route("/__preview/icon.svg", page("image/svg+xml", include_str!("page/icon.svg")))
        .route("/__preview/news", get(news))
        .route("/__preview/viewers", get(viewers))
        .route("/__preview/viewer", get(viewer).put(visit_as).delete(forget))
        .route("/__preview/preview-link", get(preview_link))
        .route("/__preview/flag", put(set_flag))
        .route("/__preview/fault", put(set_fault))
        .route("/__preview/environment/freeze", post(freeze))
        .route("/__preview/environment/kill", post(kill))
        .with_state(control)
}

/// The state and the log, and every change of them, as server-sent events.
async fn news(State(control): State<Arc<Control>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let (entries, receiver) = control.journal.subscribe();
    let entry = |entry: &Entry| Event::default().event("entry").json_data(entry);
    let first = [Event::default().event("state").json_data(control.state())];
    let first: Vec<_> = first.into_iter().chain(entries.iter().map(|known| entry(known))).collect();
    // For a page that fell behind the stream ends: it connects again and gets everything.
    let rest = stream::unfold((control, receiver), move |(control, mut receiver)| async move {
        let event = match receiver.recv().await.ok()? {
            News::State => Event::default().event("state").json_data(control.state()),
            News::Entry(added) => entry(&added),
        };
        Some((event, (control, receiver)))
    });
    // Text and numbers always serialize.
    let events = stream::iter(first).chain(rest).map(|event| Ok(event.unwrap_or_default()));
    Sse::new(events).keep_alive(KeepAlive::default())
}

async fn viewers(State(control): State<Arc<Control>>) -> Json<Vec<String>> {
    Json(control.flag.lock().population.keys().to_vec())
}

/// Who visits, and who does without being asked: with a visitor cookie, somebody new.
async fn viewer(
    State(control): State<Arc<Control>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Json<Value> {
    let by_cookie = !control.settings.visitor_cookie.is_empty();
    let own = if by_cookie { String::new() } else { peer.ip().to_string() };
    Json(json!({ "key": cookie(&headers, control.key_cookie()).unwrap_or_else(|| own.clone()), "own": own }))
}

#[derive(Deserialize)]
struct VisitAs {
    key: String,
}

/// As somebody else, whose browser has neither a guard nor a preview.
async fn visit_as(State(control): State<Arc<Control>>, Json(VisitAs { key }): Json<VisitAs>) -> Response {
    if let Err(error) = check_key(&key, &control.settings.visitor_cookie) {
        return refusal(&error.to_string());
    }
    set_cookies(&[(control.key_cookie(), &key), (GUARD_COOKIE, ""), (PREVIEW_COOKIE, "")])
}

async fn forget(State(control): State<Arc<Control>>) -> Response {
    set_cookies(&[control.key_cookie(), VIEWER_COOKIE, GUARD_COOKIE, PREVIEW_COOKIE].map(|name| (name, "")))
}

/// Sets cookies, and clears those without a value.
fn set_cookies(cookies: &[(&str, &str)]) -> Response {
    let cookies = cookies.iter().map(|(name, value)| {
        let age = if value.is_empty() { "; Max-Age=0" } else { "" };
        (SET_COOKIE, format!("{name}={value}; Path=/; SameSite=Lax{age}"))
    });
    (StatusCode::NO_CONTENT, AppendHeaders(cookies)).into_response()
}

/// Follows the preview link, so that the page need not hold the token.
async fn preview_link(State(control): State<Arc<Control>>) -> Response {
    match control.token.as_ref() {
        Some(token) => Redirect::to(&format!("/?{PREVIEW_PARAMETER}={}", token.reveal())).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn set_flag(State(control): State<Arc<Control>>, Json(setting): Json<FlagSetting>) -> Response {
    let Service::StandIn(launchdarkly) = &control.launchdarkly else { return read_only() };
    if let Err(error) = setting.check(&control.settings.visitor_cookie) {
        return refusal(&error.to_string());
    }
    control.set_flag(launchdarkly, &setting);
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
    refusal("the LaunchDarkly environment is a real one, which the preview only reads: change the flag in LaunchDarkly")
}

fn refusal(error: &str) -> Response {
    (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "error": error }))).into_response()
}
