//! CloudFront on this machine: the real function binary behind the cache behaviors of `cloudformation/edge.yaml`, the
//! sites of `site/`, a LaunchDarkly stand-in, and a page to play with all of it.
//!
//! The way of a request: `cloudfront` finds the behavior (`behaviors`, read by `template`), makes the event
//! (`viewer`), lets `environment` or `script` answer it, enforces Lambda@Edge's `rules`, and serves from the
//! origin. `journal` tells the control page (`control`), which sets the `flag` and draws the `population`.

mod behaviors;
mod cloudfront;
mod control;
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
use behaviors::Distribution;
use cloudfront::CloudFront;
use control::{Control, FaultName, FlagState, Service};
use environment::{Environment, Program};
use flag::Wanted;
use flag_data::clock::Clock;
use flag_data::sdk_key::{SDK_KEY_VARIABLE, SdkKey, SdkKeyError};
use flag_data::sources;
use flag_data::transport::Transport;
use journal::Journal;
use parking_lot::Mutex;
use redirect::settings::{Fetch, SettingError, variable};
use redirect::start;
use standins::{Data, LaunchDarkly};
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

/// Shorter than what is deployed, so that a change on the control page is seen at once. The page says so.
const LIVELY: [(&str, &str); 4] = [
    ("REDIRECT_REFRESH_AFTER_SECONDS", "1"),
    ("REDIRECT_MAX_STALENESS_SECONDS", "2"),
    ("REDIRECT_FLUSH_AFTER_SECONDS", "2"),
    ("REDIRECT_LOG", "all"),
];

/// How long a request to a real LaunchDarkly may take.
const LIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the preview waits for the function to be gone, when it ends.
const MAX_FAREWELL: Duration = Duration::from_secs(1);

/// How the preview is to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The port on the loopback address; 0 for any that is free.
    pub port: u16,
    /// Whether the function is frozen between requests.
    pub freeze: bool,
    /// Whether the flag is that of a real LaunchDarkly environment, which is only read.
    pub live: bool,
    /// Whether the control page is opened in a browser.
    pub open: bool,
}

/// Why there is no preview.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PreviewError {
    #[error("port {0} is taken: stop what runs there, or choose another with --port")]
    PortTaken(u16),
    #[error("port {0} cannot be used: {1}")]
    Port(u16, io::Error),
    #[error("{0} cannot be read: {1}; start the preview in the folder of the repository")]
    NotThere(String, io::Error),
    #[error("{0} is not there: build it with `cargo build --package redirect`")]
    NoFunction(PathBuf),
    #[error("--live needs the SDK key of a LaunchDarkly environment in {SDK_KEY_VARIABLE}")]
    NoKey,
    #[error(transparent)]
    Key(#[from] SdkKeyError),
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
    let template =
        std::fs::read_to_string(TEMPLATE).map_err(|error| PreviewError::NotThere(TEMPLATE.to_owned(), error))?;
    std::fs::metadata(SITE).map_err(|error| PreviewError::NotThere(format!("{SITE}/"), error))?;
    let distribution = Distribution::read(&template)?;
    let listener = listen(options.port).await?;
    let address = listener.local_addr()?;

    let (launchdarkly, variables) = if options.live { live()? } else { stand_in().await? };
    let given = |name: &str| variables.iter().find(|(variable, _)| variable == name).map(|(_, value)| value.clone());
    let journal = Journal::new();
    let program = Program {
        path: function_binary()?,
        variables: variables.clone(),
        timeout: distribution.function_timeout,
        freeze: options.freeze,
    };
    let environment = Environment::new(program, journal.clone());
    let control = Arc::new(Control {
        launchdarkly,
        environment: environment.clone(),
        journal: journal.clone(),
        settings: start::settings(given)?,
        deployed: start::settings(|_| None)?,
        freeze: options.freeze,
        flag: Mutex::new(FlagState::new()),
        fault: Mutex::new(FaultName::default()),
    });
    match &control.launchdarkly {
        Service::StandIn(launchdarkly) => control.set_flag(launchdarkly, &Wanted::half()),
        Service::Live(_) => {
            let control = control.clone();
            tokio::spawn(async move { control.follow_live().await });
        }
    }

    let cloudfront =
        Arc::new(CloudFront { distribution, environment: environment.clone(), origin: PathBuf::from(SITE), journal });
    let site = Router::new().fallback(viewer_request).with_state(cloudfront);
    let app = control::routes(control).fallback_service(site);
    say(&format!(
        "The site:     http://{address}/\nControl page: http://{address}/__preview\nCtrl-C ends the preview."
    ));
    if options.open && webbrowser::open(&format!("http://{address}/__preview")).is_err() {
        say("No browser could be opened: open the control page yourself.");
    }
    let server = axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>());
    tokio::select! {
        outcome = server => outcome?,
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    // What is busy for longer is killed when it is dropped.
    let _ = timeout(MAX_FAREWELL, environment.kill()).await;
    Ok(())
}

/// Whoever started the preview may not listen.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Everything that is not the control page's.
async fn viewer_request(
    State(cloudfront): State<Arc<CloudFront>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> axum::response::Response {
    cloudfront.answer(request.into_parts().0, peer.ip()).await
}

async fn listen(port: u16) -> Result<TcpListener, PreviewError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => PreviewError::PortTaken(port),
        _ => PreviewError::Port(port, error),
    })
}

/// The function that was built with the preview.
fn function_binary() -> Result<PathBuf, PreviewError> {
    let preview = env::current_exe()?;
    let function = preview.parent().unwrap_or(Path::new("")).join("redirect");
    if function.is_file() { Ok(function) } else { Err(PreviewError::NoFunction(function)) }
}

type Variables = Vec<(String, String)>;

fn lively() -> Variables {
    LIVELY.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

/// A LaunchDarkly of our own, and the environment variables of a function that asks it.
async fn stand_in() -> Result<(Service, Variables), PreviewError> {
    const KEY: &str = "sdk-preview";
    let launchdarkly = LaunchDarkly::start(KEY, Data::default()).await?;
    let mut variables = lively();
    variables.push((SDK_KEY_VARIABLE.to_owned(), KEY.to_owned()));
    for field in ["launchdarkly_base_uri", "launchdarkly_stream_uri", "launchdarkly_events_uri"] {
        variables.push((variable(field), launchdarkly.uri()));
    }
    Ok((Service::StandIn(launchdarkly), variables))
}

/// A real environment, and the environment variables of a function that asks it, without telling it anything.
fn live() -> Result<(Service, Variables), PreviewError> {
    let key = SdkKey::parse(&env::var(SDK_KEY_VARIABLE).unwrap_or_default())?.ok_or(PreviewError::NoKey)?;
    let mut variables = lively();
    variables.push((SDK_KEY_VARIABLE.to_owned(), key.reveal().to_owned()));
    variables.push((variable("events"), "off".to_owned()));
    for field in ["launchdarkly_base_uri", "launchdarkly_stream_uri", "launchdarkly_events_uri"] {
        if let Ok(uri) = env::var(variable(field)) {
            variables.push((variable(field), uri));
        }
    }
    let given = |name: &str| variables.iter().find(|(variable, _)| variable == name).map(|(_, value)| value.clone());
    let settings = start::settings(given)?;
    let transport = Transport::new(Clock::default(), LIVE_TIMEOUT);
    let source = sources::LaunchDarkly::new(transport, &settings.launchdarkly_base_uri, &key);
    let source = if settings.fetch == Fetch::Environment { source.whole_environment() } else { source };
    Ok((Service::Live(Box::new(source)), variables))
}
