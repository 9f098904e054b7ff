//! The Lambda function that LaunchDarkly's webhook and a schedule invoke.

use crate::json_log;
use crate::secrets::SecretCache;
use crate::writer::{Report, SyncError, SyncRules, sync};
use aws_lambda_events::apigw::ApiGatewayV2httpRequest;
use aws_lambda_events::eventbridge::EventBridgeEvent;
use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use flag_data::clock::Clock;
use flag_data::sources::{LaunchDarkly, SourceError};
use flag_data::stores::Store;
use flag_data::transport::Transport;
use http::{HeaderMap, Method, StatusCode};
use lambda_runtime::{Error, LambdaEvent};
use ring::hmac;
use serde::Serialize;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The part of an invocation's time that is left for the log line and the response.
const RESERVE: Duration = Duration::from_secs(1);

/// flag-sync in one execution environment. Store, secrets and transport share the clock, which each event sets, so that
/// their connections and copies age in a freeze too.
pub(crate) struct SyncFunction<S> {
    pub(crate) store: S,
    /// The address of LaunchDarkly, or of its EU or federal instance.
    pub(crate) base_uri: String,
    /// The parameter or secret that holds the SDK key.
    pub(crate) sdk_key_parameter: String,
    /// The parameter or secret that holds the webhook's secret. Without one, every webhook is rejected.
    pub(crate) webhook_secret_parameter: Option<String>,
    pub(crate) rules: SyncRules,
    pub(crate) secrets: SecretCache,
    pub(crate) clock: Clock,
    pub(crate) transport: Transport,
}

#[derive(Serialize)]
struct LogLine<'a> {
    level: &'static str,
    message: String,
    /// cloudformation/flag-store.yaml counts `synced` and `failed` for its alarms.
    outcome: &'static str,
    trigger: &'static str,
    #[serde(flatten)]
    report: Option<&'a Report>,
    duration_ms: u128,
}

impl<S: Store> SyncFunction<S> {
    /// Handles an event of an HTTP API, a Function URL (both in payload format 2.0) or an EventBridge schedule.
    ///
    /// # Errors
    /// Another kind of event, or a scheduled run that failed, so that Lambda counts it and retries.
    pub(crate) async fn handle(&self, event: LambdaEvent<Value>) -> Result<Value, Error> {
        self.clock.invocation(event.context.deadline);
        if event.payload.get("requestContext").is_some() {
            let request = serde_json::from_value(event.payload).map_err(|error| {
                format!("the request is not in API Gateway's payload format 2.0, which the template sets: {error}")
            })?;
            let (status, text) = self.webhook(request).await;
            return Ok(json!({"statusCode": status.as_u16(), "body": text}));
        }
        let _: EventBridgeEvent = serde_json::from_value(event.payload)
            .map_err(|error| format!("the event is neither an HTTP request nor an EventBridge event: {error}"))?;
        Ok(serde_json::to_value(self.run("schedule").await?)?)
    }

    /// 200 only when the store is equal to LaunchDarkly; LaunchDarkly repeats a delivery that got 5xx. Errors are logged
    /// and not returned to the caller. The body is verified and never parsed: deliveries arrive late, twice and out of
    /// order, so the data is fetched from LaunchDarkly itself.
    /// <https://launchdarkly.com/docs/integrations/webhooks>
    async fn webhook(&self, request: ApiGatewayV2httpRequest) -> (StatusCode, &'static str) {
        if request.request_context.http.method != Method::POST {
            return (StatusCode::METHOD_NOT_ALLOWED, "send POST requests, as a LaunchDarkly webhook does");
        }
        let secret = match &self.webhook_secret_parameter {
            Some(name) => self.secrets.read_rotating(name).await.map_err(|error| error.to_string()),
            None => Err("no secret is set. Set FLAG_SYNC_WEBHOOK_SECRET_PARAMETER".to_owned()),
        };
        let secret = match secret {
            Ok(secret) => secret,
            Err(why) => {
                log::error!("webhook rejected: {why}");
                return (StatusCode::SERVICE_UNAVAILABLE, "the webhook's secret is not available");
            }
        };
        let body = request.body.unwrap_or_default().into_bytes();
        let Ok(body) = (if request.is_base64_encoded { BASE64.decode(&body) } else { Ok(body) }) else {
            return (StatusCode::BAD_REQUEST, "the body is not valid base64");
        };
        if !secret.versions().any(|secret| is_signed(&request.headers, &body, secret)) {
            log::warn!("webhook rejected: X-LD-Signature is missing or wrong");
            return (StatusCode::UNAUTHORIZED, "X-LD-Signature is missing or wrong");
        }
        tokio::time::sleep(self.rules.cache_wait).await;
        match self.run("webhook").await {
            Ok(_) => (StatusCode::OK, "the store is up to date"),
            Err(_) => (StatusCode::BAD_GATEWAY, "the store is not up to date yet"),
        }
    }

    /// Runs, and logs the result.
    async fn run(&self, trigger: &'static str) -> Result<Report, Error> {
        let started = Instant::now();
        // Lambda kills a run at its deadline, with its log line and connections.
        let limit = self.clock.remaining().map_or(Duration::MAX, |remaining| remaining.saturating_sub(RESERVE));
        let outcome = tokio::time::timeout(limit, self.try_run()).await.unwrap_or_else(|_| {
            Err("the store is not up to date: the invocation's time was over. The next run resumes".into())
        });
        let (level, name, message) = match &outcome {
            Ok(Report { written, deleted, .. }) => ("info", "synced", format!("{written} written, {deleted} deleted")),
            Err(error) => ("error", "failed", error.to_string()),
        };
        let duration_ms = started.elapsed().as_millis();
        let report = outcome.as_ref().ok();
        json_log::line(&LogLine { level, message, outcome: name, trigger, report, duration_ms });
        outcome
    }

    async fn try_run(&self) -> Result<Report, Error> {
        let key = self.secrets.sdk_key(&self.sdk_key_parameter).await?;
        let launchdarkly = LaunchDarkly::new(self.transport.clone(), &self.base_uri, &key);
        let outcome = sync(&self.store, &launchdarkly, self.rules, |_, _| ()).await;
        if matches!(outcome, Err(SyncError::Read(SourceError::Refused { .. }))) {
            self.secrets.forget(&self.sdk_key_parameter);
        }
        Ok(outcome?)
    }
}

/// Whether LaunchDarkly signed this body with this secret: the header holds the HMAC-SHA256 of the raw body, in
/// hexadecimal. Compares in constant time.
fn is_signed(headers: &HeaderMap, body: &[u8], secret: &str) -> bool {
    let Some(signature) = headers.get("x-ld-signature") else { return false };
    let Ok(signature) = HEXLOWER_PERMISSIVE.decode(signature.as_bytes()) else { return false };
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), body, &signature).is_ok()
}
