//! The control page, and what its buttons do.

use super::cloudfront::CloudFront;
use super::flag::{FlagSetting, check_key};
use super::journal::News;
use super::population::Population;
use super::viewer::{VIEWER_COOKIE, cookie};
use anyhow::{Context, Error, Result};
use axum::extract::{ConnectInfo, Request, State};
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
use redirect::settings::{GUARD_COOKIE, PREVIEW_COOKIE};
use redirect::visitor::PREVIEW_PARAMETER;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use standins::{Fault, LaunchDarkly};
use std::collections::BTreeSet;
use std::iter;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The delay of a slow LaunchDarkly: longer than a viewer waits.
const SLOW: Duration = Duration::from_secs(2);

/// How often the flag of a real environment is read for the picture.
const LIVE_INTERVAL: Duration = Duration::from_secs(5);

/// What the control page controls.
pub(super) struct Control {
    pub cloudfront: CloudFront,
    /// `None` with a real LaunchDarkly environment, which is only read.
    pub stand_in: Option<LaunchDarkly>,
    pub population: Mutex<Population>,
    /// Why the flag of a real environment was not read.
    pub flag_problem: Mutex<Option<String>>,
    pub fault: Mutex<FaultName>,
    /// That of `redirect.toml`.
    pub deployed_max_staleness: Duration,
    pub freezes: bool,
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

impl Control {
    fn stand_in(&self) -> Result<&LaunchDarkly> {
        self.stand_in.as_ref().context(
            "the LaunchDarkly environment is a real one, which the preview only reads: change the flag in LaunchDarkly",
        )
    }

    /// Sets the stand-in's flag.
    pub(super) fn set_flag(&self, setting: &FlagSetting) -> Result<()> {
        let launchdarkly = self.stand_in()?;
        setting.check(&self.cloudfront.settings.visitor_cookie)?;
        let key = &self.cloudfront.settings.flag_key;
        let mut population = self.population.lock();
        let flag = setting.flag(key, population.flag.version + 1);
        let mut items = Items::default();
        let item = Item::new(ItemKind::Flag, flag.to_string(), None).map_err(Error::msg)?;
        items.insert(ItemKind::Flag, key.clone(), item);
        population.evaluate(&items, key)?;
        launchdarkly.set_flag(&flag);
        self.cloudfront.journal.state_changed();
        Ok(())
    }

    fn set_fault(&self, name: FaultName) -> Result<()> {
        let launchdarkly = self.stand_in()?;
        let fault = match name {
            FaultName::None => Fault::None,
            FaultName::Down => Fault::BlackHole,
            FaultName::Slow => Fault::SlowHeaders(SLOW),
            FaultName::Rejected => Fault::Status(401, None),
        };
        launchdarkly.fail(fault.clone());
        launchdarkly.fail_events(fault);
        *self.fault.lock() = name;
        self.cloudfront.journal.state_changed();
        Ok(())
    }

    /// Reads the flag of a real environment at intervals.
    pub(super) async fn follow(&self, source: impl FlagSource) {
        let key = &self.cloudfront.settings.flag_key;
        let mut known: Arc<Items> = Arc::default();
        loop {
            let collection = Collection::new(key, known.clone(), BTreeSet::new());
            let problem = match source.fetch(&collection).await {
                Ok(()) => {
                    known = Arc::new(collection.resolve().unwrap_or_default().items);
                    self.population.lock().evaluate(&known, key).err().map(|error| error.to_string())
                }
                Err(error) => Some(error.to_string()),
            };
            *self.flag_problem.lock() = problem;
            self.cloudfront.journal.state_changed();
            tokio::time::sleep(LIVE_INTERVAL).await;
        }
    }

    /// The cookie that says who visits: the visitor's own, or the preview's with an address.
    fn key_cookie(&self) -> &str {
        let name = &self.cloudfront.settings.visitor_cookie;
        if name.is_empty() { VIEWER_COOKIE } else { name }
    }

    fn state(&self) -> Value {
        let CloudFront { settings, environment, token, .. } = &self.cloudfront;
        let population = self.population.lock();
        json!({
            "flag_key": settings.flag_key,
            "flag": population.flag,
            "flag_problem": *self.flag_problem.lock(),
            "current_path": settings.current_path,
            "beta_path": settings.beta_path,
            "visitor_cookie": settings.visitor_cookie,
            "context_headers": settings.context_headers,
            "has_preview_link": token.is_some(),
            "is_live": self.stand_in.is_none(),
            "population": population.picture,
            "fault": *self.fault.lock(),
            "environment": *environment.status.lock(),
            "freezes": self.freezes,
            "max_staleness_seconds": settings.max_staleness.as_secs(),
            "viewer_budget_ms": settings.viewer_budget.as_millis(),
            "init_budget_ms": settings.init_budget.as_millis(),
            "deployed_max_staleness_seconds": self.deployed_max_staleness.as_secs(),
        })
    }
}

/// The routes of the control page; CloudFront answers all others.
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
        .fallback(visit)
        .with_state(control)
}

/// A viewer's request.
async fn visit(
    State(control): State<Arc<Control>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    control.cloudfront.answer(&request.into_parts().0, peer.ip()).await
}

/// The state and the log, and every change of them, as server-sent events.
async fn news(State(control): State<Arc<Control>>) -> Sse<impl Stream<Item = Result<Event, axum::Error>>> {
    let (entries, receiver) = control.cloudfront.journal.subscribe();
    let known = iter::once(News::State).chain(entries.into_iter().map(News::Entry));
    // For a page that fell behind the stream ends: it connects again and gets everything.
    let changes = stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await.ok()?, receiver)));
    let events = stream::iter(known).chain(changes).map(move |news| match news {
        News::State => Event::default().event("state").json_data(control.state()),
        News::Entry(entry) => Event::default().event("entry").json_data(entry),
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

async fn viewers(State(control): State<Arc<Control>>) -> Json<Vec<String>> {
    Json(control.population.lock().keys.clone())
}

/// Who visits, and who does without being asked: with a visitor cookie, somebody new.
async fn viewer(
    State(control): State<Arc<Control>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Json<Value> {
    let by_address = control.cloudfront.settings.visitor_cookie.is_empty();
    let own = if by_address { peer.ip().to_string() } else { String::new() };
    Json(json!({ "key": cookie(&headers, control.key_cookie()).unwrap_or(&own), "own": own }))
}

#[derive(Deserialize)]
struct VisitAs {
    key: String,
}

/// As somebody else, whose browser has neither a guard nor a preview.
async fn visit_as(State(control): State<Arc<Control>>, Json(VisitAs { key }): Json<VisitAs>) -> Response {
    match check_key(&key, &control.cloudfront.settings.visitor_cookie) {
        Ok(()) => set_cookies(&[(control.key_cookie(), &key), (GUARD_COOKIE, ""), (PREVIEW_COOKIE, "")]),
        Err(error) => done(Err(error)),
    }
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
    match &control.cloudfront.token {
        Some(token) => Redirect::to(&format!("/?{PREVIEW_PARAMETER}={}", token.reveal())).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn set_flag(State(control): State<Arc<Control>>, Json(setting): Json<FlagSetting>) -> Response {
    done(control.set_flag(&setting))
}

#[derive(Deserialize)]
struct SetFault {
    fault: FaultName,
}

async fn set_fault(State(control): State<Arc<Control>>, Json(SetFault { fault }): Json<SetFault>) -> Response {
    done(control.set_fault(fault))
}

async fn freeze(State(control): State<Arc<Control>>) -> StatusCode {
    control.cloudfront.environment.freeze_long().await;
    // No server keeps an idle connection for so long.
    if let Some(launchdarkly) = &control.stand_in {
        launchdarkly.drop_connections();
    }
    StatusCode::NO_CONTENT
}

async fn kill(State(control): State<Arc<Control>>) -> StatusCode {
    control.cloudfront.environment.kill().await;
    StatusCode::NO_CONTENT
}

/// The answer to what a person sets.
fn done(outcome: Result<()>) -> Response {
    match outcome {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "error": error.to_string() }))).into_response(),
    }
}
