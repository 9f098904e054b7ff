//! The edge function: an event arrives, an answer is returned, and what can wait is done after that.

use crate::cloudfront::{Answer, Event, ViewerRequest};
use crate::decision_log::DecisionLine;
use crate::flags::Flags;
use crate::log::{self, Level};
use crate::redirect::{self, Redirect, Verdict, Visit};
use crate::settings::{Log, Settings};
use flag_data::clock::Clock;
use futures_util::FutureExt;
use lambda_runtime::tower::{Layer, Service};
use lambda_runtime::{BoxFuture, Diagnostic, Error, LambdaEvent, LambdaInvocation};
use parking_lot::Mutex;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// The edge function of one execution environment.
pub struct Edge {
    settings: Arc<Settings>,
    clock: Clock,
    flags: Flags,
    /// The line of the last decision; written when the response is out.
    line: Mutex<Option<DecisionLine>>,
    is_cold: AtomicBool,
}

impl Edge {
    /// A function that answers with these flags.
    pub fn new(settings: Arc<Settings>, clock: Clock, flags: Flags) -> Self {
        Self { settings, clock, flags, line: Mutex::default(), is_cold: AtomicBool::new(true) }
    }

    /// The flags it answers with.
    pub fn flags(&self) -> &Flags {
        &self.flags
    }

    /// Answers an event.
    ///
    /// # Errors
    /// Only for a payload that is not a CloudFront event: every viewer gets an answer.
    pub async fn handle(&self, event: LambdaEvent<Box<RawValue>>) -> Result<Box<RawValue>, Diagnostic> {
        let started = Instant::now();
        let mut line = DecisionLine {
            request_id: event.context.request_id,
            cold_start: self.is_cold.swap(false, Ordering::Relaxed),
            ..DecisionLine::default()
        };
        let answer = self.answer(&event.payload, &mut line).await;
        line.duration_us = micros(started.elapsed());
        *self.line.lock() = Some(line);
        answer
    }

    async fn answer(&self, payload: &RawValue, line: &mut DecisionLine) -> Result<Box<RawValue>, Diagnostic> {
        let answer = match Event::parse(payload) {
            Ok(Event::ViewerRequest(request)) => {
                let decision = AssertUnwindSafe(self.decide(&request, line)).catch_unwind().await;
                match or_current_site(decision, line) {
                    Some(redirect) => Answer::Redirect(redirect),
                    None => Answer::PassThrough(request.raw),
                }
            }
            Ok(Event::Other(raw)) => {
                line.warn("not a viewer request: attach the function to the viewer-request event");
                Answer::PassThrough(raw)
            }
            Err(error) => {
                line.error(error.to_string());
                return Err(Diagnostic { error_type: "NotCloudFront".to_owned(), error_message: line.message.clone() });
            }
        };
        answer.to_json().map_err(|error| Diagnostic::from(Box::new(error) as Error))
    }

    /// `None` passes the request through.
    async fn decide(&self, request: &ViewerRequest<'_>, line: &mut DecisionLine) -> Option<Redirect> {
        if let Some(id) = &request.request_id {
            id.as_ref().clone_into(&mut line.request_id);
        }
        if self.settings.log_client_ip {
            line.client_ip = request.client_ip.as_deref().map(str::to_owned);
        }
        let Some(uri) = request.uri.as_deref() else {
            line.warn("the request has no uri");
            return Some(redirect::current_site());
        };
        let visit = Visit::new(request.method.as_deref(), Some(uri), request.querystring.as_deref());
        if !visit.needs_verdict() {
            return visit.answer(Verdict::NoData);
        }
        let Some(client_ip) = valid_address(request.client_ip.as_ref()) else {
            line.warn("the request has no valid client IP");
            return visit.answer(Verdict::Current);
        };
        line.waited_us = self.flags.on_arrival().await.map(micros);
        let evaluation = self.flags.evaluate(client_ip, visit.is_entry());
        line.evaluated(&evaluation, &self.settings.flag_key);
        visit.answer(evaluation.verdict)
    }

    /// What waits until the viewer has their answer.
    async fn after_response(&self) {
        if let Some(line) = self.line.lock().take()
            && (self.settings.log == Log::All || line.level != Level::Info)
        {
            log::line(&line);
        }
        self.flags.between_invocations().await;
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The client IP if it is an address, as CloudFront spells it.
fn valid_address<'a>(client_ip: Option<&'a Cow<'_, str>>) -> Option<&'a str> {
    client_ip.map(Cow::as_ref).filter(|ip| ip.parse::<IpAddr>().is_ok())
}

/// The answer to a decision, also to one that panicked. `None` passes the request through.
fn or_current_site(decision: std::thread::Result<Option<Redirect>>, line: &mut DecisionLine) -> Option<Redirect> {
    let redirect = decision.unwrap_or_else(|_| {
        line.warn("the decision panicked");
        Some(redirect::current_site())
    });
    line.answered(redirect.as_ref());
    redirect
}

/// Does what can wait when the response is out and before the next event is asked for: only until then is
/// the environment certain not to be frozen.
/// <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html>
pub struct BetweenInvocations(pub Arc<Edge>);

impl<S> Layer<S> for BetweenInvocations {
    type Service = BetweenInvocationsService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        BetweenInvocationsService { inner, edge: self.0.clone() }
    }
}

/// The service of [`BetweenInvocations`].
pub struct BetweenInvocationsService<S> {
    inner: S,
    edge: Arc<Edge>,
}

impl<S> Service<LambdaInvocation> for BetweenInvocationsService<S>
where
    S: Service<LambdaInvocation, Response = (), Error = Error>,
    S::Future: Send + 'static,
{
    type Response = ();
    type Error = Error;
    type Future = BoxFuture<'static, Result<(), Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, invocation: LambdaInvocation) -> Self::Future {
        let edge = self.edge.clone();
        edge.clock.invocation(invocation.context.deadline);
        let response = self.inner.call(invocation);
        Box::pin(async move {
            let outcome = response.await;
            uninterrupted(edge.after_response()).await;
            outcome
        })
    }
}

/// Waits for what follows a response. A panic in it, which the hook logs, does not end the environment: the next viewer
/// gets an answer too.
async fn uninterrupted(after: impl Future<Output = ()>) {
    let _ = AssertUnwindSafe(after).catch_unwind().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_after_the_response_does_not_end_the_environment() {
        uninterrupted(async { panic!("a fault of ours") }).await;
    }

    #[tokio::test]
    async fn a_panic_sends_the_viewer_to_the_current_site() {
        let mut line = DecisionLine::default();
        let decision = AssertUnwindSafe(async { panic!("a fault of ours") }).catch_unwind().await;
        let redirect = or_current_site(decision, &mut line).unwrap();
        assert_eq!((redirect.status, redirect.location.as_str()), (302, "/site/index.html"));
        assert_eq!(line.message, "302 to /site: the decision panicked");
        assert_eq!(line.level, Level::Warn);
    }

    #[test]
    fn only_an_address_is_a_valid_client_ip() {
        for (text, expected) in
            [("192.0.2.1", true), ("2001:db8::1", true), ("2001:DB8:0::1", true), ("", false), ("localhost", false)]
        {
            assert_eq!(valid_address(Some(&Cow::Borrowed(text))).is_some(), expected, "{text}");
        }
        assert_eq!(valid_address(None), None);
    }
}
