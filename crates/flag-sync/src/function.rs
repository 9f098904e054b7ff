//! The Lambda function: woken by LaunchDarkly's webhook and by a schedule.

use super::secrets::Secrets;
use super::webhook::{WebhookSecret, raw_body};
use super::writer::{MassChange, Report, SyncError, sync};
use crate::log;
use aws_lambda_events::apigw::{ApiGatewayV2httpRequest, ApiGatewayV2httpResponse};
use aws_lambda_events::encodings::Body;
use aws_lambda_events::eventbridge::EventBridgeEvent;
use flag_data::clock::Clock;
use flag_data::sdk_key::SdkKey;
use flag_data::sources::{LaunchDarkly, SourceError};
use flag_data::stores::Store;
use flag_data::transport::Transport;
use http::{Method, StatusCode};
use lambda_runtime::{Error, LambdaEvent};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use std::time::{Duration, Instant};

/// How long LaunchDarkly may take for everything.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What of an invocation's time is kept for the log line and the response.
const RESERVE: Duration = Duration::from_secs(1);

/// What a function needs to know, but for the store.
#[derive(Clone, Debug)]
pub struct Origin {
    /// LaunchDarkly's address, or that of its EU or federal instance.
    pub base_uri: String,
    /// Where the SDK key is: a parameter or a secret.
    pub sdk_key: String,
    /// Where the webhook's secret is; without one every webhook is refused.
    pub webhook_secret: Option<String>,
    /// How long LaunchDarkly's caches may serve old data after a change.
    pub cache_wait: Duration,
    /// Whether a run may take more than half of the store.
    pub mass_change: MassChange,
}

/// flag-sync in one execution environment.
pub struct Function<S> {
    store: S,
    origin: Origin,
    secrets: Secrets,
    clock: Clock,
    transport: Transport,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Secret(#[from] super::secrets::SecretError),
    #[error("{place}: {why}")]
    Key { place: String, why: String },
    #[error(transparent)]
    Sync(#[from] SyncError),
    #[error("the invocation's time was over before the store was up to date; the next run resumes")]
    OutOfTime,
}

#[derive(Serialize)]
struct Line<'a> {
    level: &'static str,
    message: String,
    /// `synced` is what the alarm in cloudformation/flag-store.yaml counts.
    outcome: &'static str,
    trigger: &'a str,
    #[serde(flatten)]
    report: Option<&'a Report>,
    duration_ms: u128,
}

impl<S: Store> Function<S> {
    /// A function that writes to this store. The clock, which each event sets, is that of the store and the secrets: what
    /// they keep ages in a freeze too.
    pub fn new(store: S, origin: Origin, secrets: Secrets, clock: Clock) -> Self {
        let transport = Transport::new(clock.clone(), TIMEOUT);
        Self { store, origin, secrets, clock, transport }
    }

    /// Takes an event of an HTTP API, a Function URL (both in the payload format 2.0), or an EventBridge schedule.
    ///
    /// # Errors
    /// An event of another kind; and a scheduled run that failed, so that Lambda counts it and tries again.
    pub async fn handle(&self, event: LambdaEvent<Box<RawValue>>) -> Result<Box<RawValue>, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Kind {
            request_context: Option<IgnoredAny>,
        }
        self.clock.invocation(event.context.deadline);
        let event = event.payload.get();
        let Kind { request_context } = serde_json::from_str(event)?;
        if request_context.is_some() {
            let request: ApiGatewayV2httpRequest = serde_json::from_str(event).map_err(|error| {
                format!("the request is not in API Gateway's payload format 2.0, which the template sets: {error}")
            })?;
            let mut response = ApiGatewayV2httpResponse::default();
            let (status, text) = self.webhook(request).await;
            response.status_code = i64::from(status.as_u16());
            response.body = Some(Body::Text(text.to_owned()));
            return Ok(to_raw_value(&response)?);
        }
        let _: EventBridgeEvent = serde_json::from_str(event)
            .map_err(|error| format!("neither an HTTP request nor an EventBridge event: {error}"))?;
        let report = self.run("schedule").await?;
        Ok(to_raw_value(&report)?)
    }

    /// 200 only when the store has the change that LaunchDarkly reported; 5xx makes LaunchDarkly retry. What failed is for
    /// the log, not for who asks.
    async fn webhook(&self, request: ApiGatewayV2httpRequest) -> (StatusCode, &'static str) {
        if request.request_context.http.method != Method::POST {
            return (StatusCode::METHOD_NOT_ALLOWED, "this takes POST requests of a LaunchDarkly webhook");
        }
        let secret = match self.webhook_secret().await {
            Ok(secret) => secret,
            Err(why) => {
                log::message("error", &format!("a webhook was refused: {why}"));
                return (StatusCode::SERVICE_UNAVAILABLE, "the webhook's secret is not available");
            }
        };
        let Some(body) = raw_body(request.body, request.is_base64_encoded) else {
            return (StatusCode::BAD_REQUEST, "the body is not base64");
        };
        if !secret.signed(&request.headers, &body) {
            log::message("warn", "a webhook was refused: X-LD-Signature is missing or wrong");
            return (StatusCode::UNAUTHORIZED, "X-LD-Signature is missing or wrong");
        }
        tokio::time::sleep(self.origin.cache_wait).await;
        match self.run("webhook").await {
            Ok(_) => (StatusCode::OK, "the store is up to date"),
            Err(_) => (StatusCode::BAD_GATEWAY, "the store is not up to date yet"),
        }
    }

    async fn webhook_secret(&self) -> Result<WebhookSecret, String> {
        let name =
            self.origin.webhook_secret.as_deref().ok_or("no secret is set: FLAG_SYNC_WEBHOOK_SECRET_PARAMETER")?;
        let secret = self.secrets.read(name).await.map_err(|error| error.to_string())?;
        WebhookSecret::new(secret.reveal()).ok_or_else(|| format!("the secret {name:?} is empty"))
    }

    /// Fetches and writes, and logs the outcome.
    async fn run(&self, trigger: &str) -> Result<Report, RunError> {
        let started = Instant::now();
        // Lambda would kill a run that is too long, and its log line and connections with it.
        let outcome = match self.clock.remaining() {
            None => self.try_run().await,
            Some(remaining) => {
                let run = tokio::time::timeout(remaining.saturating_sub(RESERVE), self.try_run());
                run.await.unwrap_or(Err(RunError::OutOfTime))
            }
        };
        let (level, name, message) = match &outcome {
            Ok(Report { written, deleted, .. }) => ("info", "synced", format!("{written} written, {deleted} deleted")),
            Err(error) => ("error", "failed", error.to_string()),
        };
        let duration_ms = started.elapsed().as_millis();
        log::line(&Line { level, message, outcome: name, trigger, report: outcome.as_ref().ok(), duration_ms });
        outcome
    }

    async fn try_run(&self) -> Result<Report, RunError> {
        let place = &self.origin.sdk_key;
        let key = self.secrets.read(place).await?;
        let key = SdkKey::parse(key.reveal())
            .map_err(|error| error.to_string())
            .and_then(|key| key.ok_or_else(|| "it is empty".to_owned()))
            .map_err(|why| RunError::Key { place: place.clone(), why })?;
        let launchdarkly = LaunchDarkly::new(self.transport.clone(), &self.origin.base_uri, &key);
        let outcome =
            sync(&self.store, &launchdarkly, self.origin.cache_wait, self.origin.mass_change, |_, _| ()).await;
        if matches!(outcome, Err(SyncError::Source(SourceError::Refused { .. }))) {
            self.secrets.forget(place);
        }
        Ok(outcome?)
    }
}
