//! The Lambda function that LaunchDarkly's webhook and a schedule invoke.

use crate::comparison::ReadError;
use crate::json_log;
use crate::secrets::{SecretCache, SecretError, SecretVersions};
use crate::webhook::{WebhookSecret, raw_body};
use crate::writer::{Report, SyncError, SyncRules, sync};
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

/// The limit of the request for everything in LaunchDarkly.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The part of an invocation's time that is left for the log line and the response.
const RESERVE: Duration = Duration::from_secs(1);

/// The settings of a function, except for the store.
#[derive(Clone, Debug)]
pub struct FunctionSettings {
    /// The address of LaunchDarkly, or of its EU or federal instance.
    pub base_uri: String,
    /// The parameter or secret that holds the SDK key.
    pub sdk_key: String,
    /// The parameter or secret that holds the webhook's secret. Without one, every webhook is rejected.
    pub webhook_secret: Option<String>,
    /// What a run may do.
    pub rules: SyncRules,
}

/// flag-sync in one execution environment.
pub struct SyncFunction<S> {
    store: S,
    settings: FunctionSettings,
    secrets: SecretCache,
    clock: Clock,
    transport: Transport,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("invalid SDK key in {place}: {why}")]
    Key { place: String, why: String },
    #[error(transparent)]
    Sync(#[from] SyncError),
    #[error("the store is not up to date: the invocation's time was over. The next run resumes")]
    OutOfTime,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Trigger {
    Webhook,
    Schedule,
}

#[derive(Serialize)]
struct LogLine<'a> {
    level: &'static str,
    message: String,
    /// cloudformation/flag-store.yaml counts `synced` and `failed` for its alarms.
    outcome: &'static str,
    trigger: Trigger,
    #[serde(flatten)]
    report: Option<&'a Report>,
    duration_ms: u128,
}

impl<S: Store> SyncFunction<S> {
    /// A function that writes to this store. Store and secrets share the clock, which each event sets, so that their
    /// connections and copies age in a freeze too.
    pub fn new(store: S, settings: FunctionSettings, secrets: SecretCache, clock: Clock) -> Self {
        let transport = Transport::new(clock.clone(), TIMEOUT);
        Self { store, settings, secrets, clock, transport }
    }

    /// Handles an event of an HTTP API, a Function URL (both in payload format 2.0) or an EventBridge schedule.
    ///
    /// # Errors
    /// Another kind of event, or a scheduled run that failed, so that Lambda counts it and retries.
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
            .map_err(|error| format!("the event is neither an HTTP request nor an EventBridge event: {error}"))?;
        let report = self.run(Trigger::Schedule).await?;
        Ok(to_raw_value(&report)?)
    }

    /// 200 only when the store is equal to LaunchDarkly; LaunchDarkly repeats a delivery that got 5xx. Errors are logged
    /// and not returned to the caller.
    /// <https://launchdarkly.com/docs/integrations/webhooks>
    async fn webhook(&self, request: ApiGatewayV2httpRequest) -> (StatusCode, &'static str) {
        if request.request_context.http.method != Method::POST {
            return (StatusCode::METHOD_NOT_ALLOWED, "send POST requests, as a LaunchDarkly webhook does");
        }
        let secrets = match self.webhook_secrets().await {
            Ok(secrets) => secrets,
            Err(why) => {
                log::error!("webhook rejected: {why}");
                return (StatusCode::SERVICE_UNAVAILABLE, "the webhook's secret is not available");
            }
        };
        let Some(body) = raw_body(request.body, request.is_base64_encoded) else {
            return (StatusCode::BAD_REQUEST, "the body is not valid base64");
        };
        if !secrets.iter().any(|secret| secret.verifies(&request.headers, &body)) {
            log::warn!("webhook rejected: X-LD-Signature is missing or wrong");
            return (StatusCode::UNAUTHORIZED, "X-LD-Signature is missing or wrong");
        }
        tokio::time::sleep(self.settings.rules.cache_wait).await;
        match self.run(Trigger::Webhook).await {
            Ok(_) => (StatusCode::OK, "the store is up to date"),
            Err(_) => (StatusCode::BAD_GATEWAY, "the store is not up to date yet"),
        }
    }

    /// The webhook's secret, and the one before for a day after a change.
    async fn webhook_secrets(&self) -> Result<Vec<WebhookSecret>, String> {
        let name = self.settings.webhook_secret.as_deref();
        let name = name.ok_or("no secret is set. Set FLAG_SYNC_WEBHOOK_SECRET_PARAMETER")?;
        let SecretVersions { current, previous } =
            self.secrets.read_rotating(name).await.map_err(|error| error.to_string())?;
        let current = WebhookSecret::new(current.reveal()).ok_or_else(|| format!("the secret {name:?} is empty"))?;
        let previous = previous.and_then(|previous| WebhookSecret::new(previous.reveal()));
        Ok([current].into_iter().chain(previous).collect())
    }

    /// Runs, and logs the result.
    async fn run(&self, trigger: Trigger) -> Result<Report, RunError> {
        let started = Instant::now();
        // Lambda kills a run at its deadline, with its log line and connections.
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
        let report = outcome.as_ref().ok();
        json_log::line(&LogLine { level, message, outcome: name, trigger, report, duration_ms });
        outcome
    }

    async fn try_run(&self) -> Result<Report, RunError> {
        let FunctionSettings { base_uri, sdk_key: place, rules, .. } = &self.settings;
        let key = self.secrets.read(place).await?;
        let invalid = |why| RunError::Key { place: place.clone(), why };
        let key = SdkKey::parse(key.reveal()).map_err(|error| invalid(error.to_string()))?;
        let key = key.ok_or_else(|| invalid("it is empty".to_owned()))?;
        let launchdarkly = LaunchDarkly::new(self.transport.clone(), base_uri, &key);
        let outcome = sync(&self.store, &launchdarkly, *rules, |_, _| ()).await;
        if matches!(outcome, Err(SyncError::Read(ReadError::Source(SourceError::Refused { .. })))) {
            self.secrets.forget(place);
        }
        Ok(outcome?)
    }
}
