//! The composition root: from a started process to a function that accepts events, or an init error.

use crate::edge::Edge;
use crate::flags::{Flags, offline};
use crate::log::{self, Level};
use crate::preview_token::{PREVIEW_TOKEN_VARIABLE, PreviewToken};
use crate::settings::{Fetch, SettingError, Settings, Source};
use flag_data::clock::Clock;
use flag_data::sdk_key::{SDK_KEY_VARIABLE, SdkKey};
#[cfg(any(feature = "dynamodb", feature = "redis"))]
use flag_data::sources::StoreSource;
use flag_data::sources::{FlagSource, LaunchDarkly};
#[cfg(feature = "dynamodb")]
use flag_data::stores::DynamoDb;
#[cfg(feature = "redis")]
use flag_data::stores::Redis;
use flag_data::transport::Transport;
use lambda_runtime::tower::util::{MapFutureLayer, MapRequestLayer};
use lambda_runtime::{Error, LambdaInvocation, Runtime, service_fn};
use lambda_runtime_api_client::Client;
use lambda_runtime_api_client::body::Body;
use std::env;
use std::sync::Arc;

/// Compiled in by `build.rs`: `redirect.toml`, one field per line, and the secrets.
const SETTINGS: &str = include_str!(concat!(env!("OUT_DIR"), "/settings.txt"));
const SDK_KEY: &str = include_str!(concat!(env!("OUT_DIR"), "/sdk-key.txt"));
const PREVIEW_TOKEN: &str = include_str!(concat!(env!("OUT_DIR"), "/preview-token.txt"));

/// Starts the function. A failure is logged, reported to Lambda as an init error, and ends the process.
pub async fn edge_or_report() -> Arc<Edge> {
    block_on_standard_streams();
    log::init();
    match edge().await {
        Ok(edge) => edge,
        Err(error) => {
            report(&error).await;
            std::process::exit(1);
        }
    }
}

/// Accepts events until Lambda ends the process.
///
/// # Errors
/// Lambda's Runtime API is out of reach.
pub async fn serve(edge: Arc<Edge>) -> Result<(), Error> {
    let (handling, beginning) = (edge.clone(), edge.clone());
    let handler = service_fn(move |event| {
        let edge = handling.clone();
        async move { edge.handle(event).await }
    });
    // Here and not in the handler, which a payload that is not JSON never reaches.
    let begin = MapRequestLayer::new(move |invocation: LambdaInvocation| {
        beginning.begin(invocation.context.deadline);
        invocation
    });
    // This layer wraps the service that posts the response. Lambda may freeze the environment once the next event is
    // requested, and this work ends before that.
    // https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html
    let after_response = MapFutureLayer::new(move |response| {
        let edge = edge.clone();
        async move {
            let sent: Result<(), Error> = response.await;
            edge.after_response().await;
            sent
        }
    });
    Runtime::new(handler).layer(after_response).layer(begin).run().await
}

/// Reads the settings and starts the flags.
async fn edge() -> Result<Arc<Edge>, Error> {
    let settings = Arc::new(settings(|variable| env::var(variable).ok())?);
    let key = SdkKey::parse(&env::var(SDK_KEY_VARIABLE).unwrap_or_else(|_| SDK_KEY.to_owned()))?;
    let token = env::var(PREVIEW_TOKEN_VARIABLE).unwrap_or_else(|_| PREVIEW_TOKEN.to_owned());
    let token = PreviewToken::parse(&token)?;
    if key.is_none() && settings.source == Source::LaunchDarkly {
        let what =
            "offline mode, because there is no SDK key: using the flag data of the repository, sending no events";
        log::message(Level::Info, what);
    }
    let clock = Clock::of_function(settings.function_timeout);
    let flags = flags(settings.clone(), key.as_ref(), clock.clone()).await?;
    Ok(Arc::new(Edge::new(settings, token.as_ref(), clock, flags)))
}

/// Starts the flags with the source that the settings choose.
///
/// # Errors
/// Invalid settings of a store, or an SDK client that does not start.
pub async fn flags(settings: Arc<Settings>, key: Option<&SdkKey>, clock: Clock) -> Result<Flags, Error> {
    let transport = Transport::new(clock.clone(), settings.request_timeout());
    let source = source(&settings, key, &clock, &transport)?;
    Ok(Flags::start(settings, key, clock, transport, source).await?)
}

/// Where the flag data comes from. LaunchDarkly needs a key; a store does not.
#[cfg_attr(not(any(feature = "dynamodb", feature = "redis")), expect(clippy::unnecessary_wraps))]
fn source(
    settings: &Settings,
    key: Option<&SdkKey>,
    #[cfg_attr(not(feature = "redis"), expect(unused_variables))] clock: &Clock,
    transport: &Transport,
) -> Result<Box<dyn FlagSource>, Error> {
    match (settings.source, key) {
        (Source::LaunchDarkly, Some(key)) => {
            let uri = &settings.launchdarkly_base_uri;
            let source = LaunchDarkly::new(transport.clone(), uri, key);
            Ok(Box::new(if settings.fetch == Fetch::Environment { source.whole_environment() } else { source }))
        }
        (Source::LaunchDarkly, None) => Ok(Box::new(offline())),
        #[cfg(feature = "dynamodb")]
        (Source::DynamoDb, _) => {
            let (table, prefix) = (&settings.store_table, &settings.store_prefix);
            let here = std::env::var("AWS_REGION").unwrap_or_default();
            let mut regions = settings.store_regions.clone();
            // A stable sort: the others stay in their order.
            regions.sort_by_key(|region| *region != here);
            let replicas = regions.iter().map(|region| DynamoDb::replica(table, prefix, region, transport.clone()));
            let replicas = replicas.collect::<Result<Vec<_>, _>>()?;
            Ok(Box::new(StoreSource::new("dynamodb", replicas, settings.viewer_budget)))
        }
        #[cfg(feature = "redis")]
        (Source::Redis, _) => {
            let redis = Redis::new(&settings.store_redis_url)?.clock(clock.clone()).timeout(settings.request_timeout());
            let redis = if settings.store_prefix.is_empty() { redis } else { redis.prefix(&settings.store_prefix) };
            Ok(Box::new(StoreSource::new("redis", vec![redis], settings.viewer_budget)))
        }
    }
}

/// The compiled-in settings, each overridden by `environment` if it has the field.
///
/// # Errors
/// An invalid setting in the environment.
pub fn settings(environment: impl Fn(&str) -> Option<String>) -> Result<Settings, SettingError> {
    let fields: Vec<_> = SETTINGS.lines().filter_map(|line| line.split_once('=')).collect();
    let compiled_in = |field: &str| {
        let found = fields.iter().find(|(name, _)| *name == field);
        found.map(|(_, value)| (*value).to_owned())
    };
    Settings::read(compiled_in, environment)
}

/// Sends the last events when Lambda shuts the environment down. Lambda allows 500 ms for that, and only if an extension is
/// registered. That is not known to work at the edge, so only the regional function does it.
/// <https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html#runtimes-lifecycle-shutdown>
#[cfg(feature = "regional")]
pub async fn flush_at_shutdown(edge: Arc<Edge>) {
    let budget = std::time::Duration::from_millis(400);
    lambda_runtime::spawn_graceful_shutdown_handler(move || async move { edge.flags().flush(budget).await }).await;
}

/// Makes the standard streams blocking. The runtime that this process replaced may have made them non-blocking, and then a
/// slow reader loses log lines.
fn block_on_standard_streams() {
    for stream in 0..=2 {
        // SAFETY: fcntl on a descriptor number touches no memory; for a closed one it returns an error.
        unsafe {
            let flags = libc::fcntl(stream, libc::F_GETFL);
            if flags != -1 {
                libc::fcntl(stream, libc::F_SETFL, flags & !libc::O_NONBLOCK);
            }
        }
    }
}

/// Reports to Lambda why the function did not start.
/// <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html#runtimes-api-initerror>
async fn report(error: &Error) {
    log::message(Level::Error, &format!("the function did not start: {error}"));
    if env::var_os("AWS_LAMBDA_RUNTIME_API").is_none() {
        return;
    }
    let body = serde_json::json!({ "errorType": "StartError", "errorMessage": error.to_string() });
    let sent: Result<_, Error> = async {
        let request = http::Request::post("/2018-06-01/runtime/init/error")
            .header("lambda-runtime-function-error-type", "Runtime.StartError")
            .body(Body::from(body.to_string()))?;
        Client::builder().build()?.call(request).await
    }
    .await;
    if let Err(error) = sent {
        log::message(Level::Error, &format!("the failed start was not reported to Lambda: {error}"));
    }
}
