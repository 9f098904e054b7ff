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

use anyhow::{Context, Result, anyhow, ensure};
use cloudfront::CloudFront;
use control::Control;
use distribution::Distribution;
use environment::{Environment, Program};
use flag::FlagSetting;
use flag_data::clock::Clock;
use flag_data::sdk_key::{SDK_KEY_VARIABLE, SdkKey};
use flag_data::sources;
use flag_data::transport::Transport;
use journal::Journal;
use parking_lot::Mutex;
use population::Population;
use redirect::preview_token::{PREVIEW_TOKEN_VARIABLE, PreviewToken};
use redirect::settings::{FIELDS, Fetch, Settings, variable};
use redirect::start;
use standins::{Data, LaunchDarkly};
use std::collections::BTreeMap;
use std::env;
use std::io::{self, ErrorKind, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

const TEMPLATE: &str = "cloudformation/edge.yaml";

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

/// Runs the preview until it is interrupted.
///
/// # Errors
/// Why the preview cannot run, with what to do about it.
pub async fn run(options: Options) -> Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let template = std::fs::read_to_string(TEMPLATE)
        .with_context(|| format!("{TEMPLATE} cannot be read. Start the preview in the folder of the repository"))?;
    let port = options.port;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => anyhow!("port {port} is in use: stop its program, or choose another port with --port"),
        _ => anyhow!("port {port} cannot be used: {error}"),
    })?;
    let address = listener.local_addr()?;

    let stand_in = if options.live { None } else { Some(LaunchDarkly::start(STAND_IN_KEY, Data::default()).await?) };
    let variables = variables(stand_in.as_ref());
    let settings = start::settings(|name| variables.get(name).cloned())?;
    let distribution = Distribution::read(&template, &settings.current_path, &settings.beta_path).context(TEMPLATE)?;
    // The function that was built with the preview.
    let path = env::current_exe()?.with_file_name("redirect");
    ensure!(path.is_file(), "{} is missing: build it with `cargo build --package redirect`", path.display());
    let program = Program { path, variables, timeout: distribution.function_timeout, freeze: options.freeze };
    let journal = Journal::new();
    let control = Arc::new(Control {
        population: Mutex::new(Population::new(&settings.visitor_cookie)),
        cloudfront: CloudFront {
            distribution,
            environment: Environment::new(program, journal.clone()),
            settings,
            token: PreviewToken::parse(&env::var(PREVIEW_TOKEN_VARIABLE).unwrap_or_default())?,
            journal,
        },
        stand_in,
        flag_problem: Mutex::default(),
        fault: Mutex::default(),
        deployed_max_staleness: start::settings(|_| None)?.max_staleness,
        freezes: options.freeze,
    });
    if options.live {
        let source = live_source(&control.cloudfront.settings)?;
        let control = control.clone();
        tokio::spawn(async move { control.follow(source).await });
    } else {
        control.set_flag(&FlagSetting { on: true, new_site_percent: 50.0, targets: Vec::new() })?;
    }

    // A closed standard output does not end the preview.
    let _ = writeln!(
        io::stdout(),
        "The site:     http://{address}/\nControl page: http://{address}/__preview\nCtrl-C ends the preview."
    );
    if !options.no_open && webbrowser::open(&format!("http://{address}/__preview")).is_err() {
        let _ = writeln!(io::stdout(), "No browser was found: open the control page yourself.");
    }
    let app = control::routes(control.clone()).into_make_service_with_connect_info::<SocketAddr>();
    tokio::select! {
        outcome = axum::serve(listener, app) => outcome?,
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    // A function that is busy for longer is killed when it is dropped.
    let _ = timeout(SHUTDOWN_TIMEOUT, control.cloudfront.environment.kill()).await;
    Ok(())
}

/// Environment variables of the function: what the environment of the preview sets, and what is livelier here. A token
/// that was compiled in does not count: the control page could not link to it. A real environment gets no events.
fn variables(stand_in: Option<&LaunchDarkly>) -> BTreeMap<String, String> {
    let given = |name: &str| env::var(name).ok();
    let fields = FIELDS.iter().map(|field| variable(field));
    let mut variables: BTreeMap<_, _> = fields.filter_map(|name| given(&name).map(|value| (name, value))).collect();
    variables.extend(LIVELY.map(|(field, value)| (variable(field), value.to_owned())));
    variables.insert(PREVIEW_TOKEN_VARIABLE.to_owned(), given(PREVIEW_TOKEN_VARIABLE).unwrap_or_default());
    let key = if let Some(launchdarkly) = stand_in {
        variables.extend(URI_FIELDS.map(|field| (variable(field), launchdarkly.uri())));
        STAND_IN_KEY.to_owned()
    } else {
        variables.insert(variable("events"), "off".to_owned());
        given(SDK_KEY_VARIABLE).unwrap_or_default()
    };
    variables.insert(SDK_KEY_VARIABLE.to_owned(), key);
    variables
}

/// The real environment of the SDK key.
fn live_source(settings: &Settings) -> Result<sources::LaunchDarkly> {
    let key = SdkKey::parse(&env::var(SDK_KEY_VARIABLE).unwrap_or_default())?
        .with_context(|| format!("--live needs the SDK key of a LaunchDarkly environment in {SDK_KEY_VARIABLE}"))?;
    let transport = Transport::new(Clock::default(), LIVE_TIMEOUT);
    let source = sources::LaunchDarkly::new(transport, &settings.launchdarkly_base_uri, &key);
    Ok(if settings.fetch == Fetch::Environment { source.whole_environment() } else { source })
}
