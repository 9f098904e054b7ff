//! CloudFront on this machine: the real function binary behind the cache behaviors of `cloudformation/edge.yaml`, the
//! sites of `site/`, a LaunchDarkly stand-in, and a page to play with all of it.
//!
//! How a request flows: `cloudfront` finds the behavior (`distribution`, read from the `template`), makes the event
//! (`viewer`), lets `environment` or `script` answer it, enforces Lambda@Edge's `rules`, and serves from the origin. The
//! control page (`control`) shows the `journal`, sets the `flag` and draws the `population`.

mod cloudfront;
mod control;
mod distribution;
mod environment;
mod flag;
mod journal;
#[cfg(test)]
mod path_rules;
mod population;
mod rules;
mod script;
mod template;
mod viewer;

pub use template::TemplateError;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use cloudfront::CloudFront;
use control::{Control, FlagState, Service};
use distribution::Distribution;
use environment::{Environment, Program};
use flag::FlagSetting;
use flag_data::clock::Clock;
use flag_data::sdk_key::{SDK_KEY_VARIABLE, SdkKey, SdkKeyError};
use flag_data::sources;
use flag_data::transport::Transport;
use journal::Journal;
use parking_lot::Mutex;
use population::Population;
use redirect::preview_token::{PREVIEW_TOKEN_VARIABLE, PreviewToken, PreviewTokenError};
use redirect::settings::{FIELDS, Fetch, SettingError, Settings, variable};
use redirect::start;
use standins::{Data, LaunchDarkly};
use std::collections::BTreeMap;
use std::env;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

const TEMPLATE: &str = "cloudformation/edge.yaml";
const SITE: &str = "site";

/// Shorter than deployed, so that a change on the control page shows at once. The page tells the difference.
/// And the source is LaunchDarkly or its stand-in, whatever source is deployed: the control page sets its flag.
const LIVELY: [(&str, &str); 5] = [
    ("source", "launchdarkly"),
    ("refresh_after_seconds", "1"),
    ("max_staleness_seconds", "2"),
    ("flush_after_seconds", "2"),
    ("log", "all"),
];

const URI_FIELDS: [&str; 3] = ["launchdarkly_base_uri", "launchdarkly_stream_uri", "launchdarkly_events_uri"];

/// The SDK key of the stand-in for LaunchDarkly.
const STAND_IN_KEY: &str = "sdk-preview";

/// The timeout of a request to a real LaunchDarkly.
const LIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the preview waits for the function to end, when it ends itself.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Shows the redirect function at work on this machine, without an account.
#[derive(Clone, Copy, Debug, clap::Parser)]
#[command(name = "preview")]
pub struct Options {
    /// Port on 127.0.0.1; 0 for any that is free
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Do not open the control page in a browser
    #[arg(long)]
    pub no_open: bool,
    /// Freeze the function between requests, as Lambda does
    #[arg(long)]
    pub freeze: bool,
    /// Use the LaunchDarkly environment of `LAUNCHDARKLY_SDK_KEY`, read only
    #[arg(long)]
    pub live: bool,
}

/// Why the preview cannot run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PreviewError {
    #[error("port {0} is in use: stop its program, or choose another port with --port")]
    PortInUse(u16),
    #[error("port {0} cannot be used: {1}")]
    Port(u16, io::Error),
    #[error("{0} cannot be read: {1}. Start the preview in the folder of the repository.")]
    Repository(&'static str, io::Error),
    #[error("{0} is missing: build it with `cargo build --package redirect`")]
    NoFunction(PathBuf),
    #[error("--live needs the SDK key of a LaunchDarkly environment in {SDK_KEY_VARIABLE}")]
    NoKey,
    #[error(transparent)]
    Key(#[from] SdkKeyError),
    #[error(transparent)]
    Token(#[from] PreviewTokenError),
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("the preview cannot run: {0}")]
    Io(#[from] io::Error),
}

/// Runs the preview until it is interrupted.
///
/// # Errors
/// [`PreviewError`], each with what to do about it.
pub async fn run(options: Options) -> Result<(), PreviewError> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let template = std::fs::read_to_string(TEMPLATE).map_err(|error| PreviewError::Repository(TEMPLATE, error))?;
    std::fs::metadata(SITE).map_err(|error| PreviewError::Repository("site/", error))?;
    let listener = listen(options.port).await?;
    let address = listener.local_addr()?;

    let (launchdarkly, variables) = if options.live { live()? } else { stand_in().await? };
    let settings = Arc::new(settings(&variables)?);
    let distribution = Distribution::read(&template, &settings.current_path, &settings.beta_path)?;
    let token = Arc::new(PreviewToken::parse(&env::var(PREVIEW_TOKEN_VARIABLE).unwrap_or_default())?);
    let journal = Journal::new();
    let program =
        Program { path: function_binary()?, variables, timeout: distribution.function_timeout, freeze: options.freeze };
    let environment = Environment::new(program, journal.clone());
    let control = Arc::new(Control {
        launchdarkly,
        environment: environment.clone(),
        journal: journal.clone(),
        flag: Mutex::new(FlagState { population: Population::new(&settings.visitor_cookie), problem: None }),
        settings: settings.clone(),
        deployed: start::settings(|_| None)?,
        token: token.clone(),
        freeze: options.freeze,
        fault: Mutex::default(),
    });
    match &control.launchdarkly {
        Service::StandIn(launchdarkly) => control.set_flag(launchdarkly, &FlagSetting::half()),
        Service::Live(_) => {
            let control = control.clone();
            tokio::spawn(async move { control.follow_live().await });
        }
    }

    let origin = PathBuf::from(SITE);
    let cloudfront = CloudFront { distribution, environment: environment.clone(), origin, settings, token, journal };
    let site = Router::new().fallback(viewer_request).with_state(Arc::new(cloudfront));
    let app = control::routes(control).fallback_service(site);
    print(&format!(
        "The site:     http://{address}/\nControl page: http://{address}/__preview\nCtrl-C ends the preview."
    ));
    if !options.no_open && webbrowser::open(&format!("http://{address}/__preview")).is_err() {
        print("No browser was found: open the control page yourself.");
    }
    let server = axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>());
    tokio::select! {
        outcome = server => outcome?,
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    // A function that is busy for longer is killed when it is dropped.
    let _ = timeout(SHUTDOWN_TIMEOUT, environment.kill()).await;
    Ok(())
}

/// Prints a line. A closed standard output does not end the preview.
fn print(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Every request but the control page's.
async fn viewer_request(
    State(cloudfront): State<Arc<CloudFront>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> axum::response::Response {
    cloudfront.answer(request.into_parts().0, peer.ip()).await
}

async fn listen(port: u16) -> Result<TcpListener, PreviewError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => PreviewError::PortInUse(port),
        _ => PreviewError::Port(port, error),
    })
}

/// The function that was built with the preview.
fn function_binary() -> Result<PathBuf, PreviewError> {
    let preview = env::current_exe()?;
    let function = preview.parent().unwrap_or(Path::new("")).join("redirect");
    if function.is_file() { Ok(function) } else { Err(PreviewError::NoFunction(function)) }
}

/// Environment variables of the function.
type Variables = BTreeMap<String, String>;

/// The settings of a function with these variables.
fn settings(variables: &Variables) -> Result<Settings, SettingError> {
    start::settings(|name| variables.get(name).cloned())
}

/// What the environment of the preview sets, and what is livelier here. A token that was compiled in does not count: the
/// control page could not link to it.
fn lively(key: &str) -> Variables {
    let given =
        FIELDS.iter().map(|field| variable(field)).filter_map(|name| Some((name.clone(), env::var(name).ok()?)));
    let mut variables: Variables = given.collect();
    variables.extend(LIVELY.map(|(field, value)| (variable(field), value.to_owned())));
    variables.insert(SDK_KEY_VARIABLE.to_owned(), key.to_owned());
    variables.insert(PREVIEW_TOKEN_VARIABLE.to_owned(), env::var(PREVIEW_TOKEN_VARIABLE).unwrap_or_default());
    variables
}

/// A stand-in for LaunchDarkly, and a function that uses it.
async fn stand_in() -> Result<(Service, Variables), PreviewError> {
    let launchdarkly = LaunchDarkly::start(STAND_IN_KEY, Data::default()).await?;
    let mut variables = lively(STAND_IN_KEY);
    variables.extend(URI_FIELDS.map(|field| (variable(field), launchdarkly.uri())));
    Ok((Service::StandIn(launchdarkly), variables))
}

/// A real environment, and a function that uses it without sending events.
fn live() -> Result<(Service, Variables), PreviewError> {
    let key = SdkKey::parse(&env::var(SDK_KEY_VARIABLE).unwrap_or_default())?.ok_or(PreviewError::NoKey)?;
    let mut variables = lively(key.reveal());
    variables.insert(variable("events"), "off".to_owned());
    let settings = settings(&variables)?;
    let transport = Transport::new(Clock::default(), LIVE_TIMEOUT);
    let source = sources::LaunchDarkly::new(transport, &settings.launchdarkly_base_uri, &key);
    let source = if settings.fetch == Fetch::Environment { source.whole_environment() } else { source };
    Ok((Service::Live(Box::new(source)), variables))
}
