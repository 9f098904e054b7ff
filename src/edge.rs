//! The edge function: reads an event, returns an answer, and does everything else after the response.

use crate::cloudfront::{Event, ViewerRequest};
use crate::decision_log::DecisionLine;
use crate::flags::{Flags, Reason};
use crate::log::{self, Level};
use crate::preview_token::PreviewToken;
use crate::redirect::{Paths, Redirect, Verdict, Visit};
use crate::settings::{Log, Settings};
use crate::visitor::Visitors;
use flag_data::clock::Clock;
use futures_util::FutureExt;
use lambda_runtime::{Diagnostic, Error, LambdaEvent};
use parking_lot::Mutex;
use serde_json::value::RawValue;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The edge function of one execution environment.
pub struct Edge {
    settings: Arc<Settings>,
    paths: Paths,
    visitors: Visitors,
    clock: Clock,
    flags: Flags,
    /// The line of the last decision; written when the response is out.
    line: Mutex<Option<DecisionLine>>,
    is_cold: AtomicBool,
}

impl Edge {
    /// A function that answers with these flags, and to preview links with this token.
    pub fn new(settings: Arc<Settings>, token: Option<&PreviewToken>, clock: Clock, flags: Flags) -> Self {
        let paths = Paths::new(&settings.current_path, &settings.beta_path);
        let visitors = Visitors::new(settings.clone(), token);
        Self { settings, paths, visitors, clock, flags, line: Mutex::default(), is_cold: AtomicBool::new(true) }
    }

    /// The flags it answers with.
    pub fn flags(&self) -> &Flags {
        &self.flags
    }

    /// Records the deadline of an invocation, in milliseconds since 1970.
    pub fn begin(&self, deadline_ms: u64) {
        self.clock.invocation(deadline_ms);
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
        match Event::parse(payload) {
            Ok(Event::ViewerRequest(request)) => {
                let decision = AssertUnwindSafe(self.decide(&request, line)).catch_unwind().await;
                match or_fallback(decision, &self.paths, line) {
                    Some(redirect) => {
                        let cookies = redirect.cookies.iter().map(|cookie| self.visitors.set_cookie(cookie));
                        let answer = redirect.to_json(&cookies.collect::<Vec<_>>());
                        answer.map_err(|error| Diagnostic::from(Box::new(error) as Error))
                    }
                    None => Ok(request.raw.to_owned()),
                }
            }
            Ok(Event::Other(raw)) => {
                line.warn("not a viewer request: attach the function to the viewer-request event");
                Ok(raw.to_owned())
            }
            Err(error) => {
                line.error(format!("not a CloudFront event: {error}"));
                Err(Diagnostic { error_type: "NotCloudFront".to_owned(), error_message: line.message.clone() })
            }
        }
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
            return self.paths.fallback();
        };
        let viewer = self.visitors.viewer(request);
        let (signals, query) = viewer.signals();
        let visit = Visit::new(&self.paths, request.method.as_deref(), Some(uri), query.as_deref(), signals);
        if visit.is_preview() {
            line.reason = Some(Reason::Preview);
        }
        if !visit.needs_verdict() {
            return visit.answer(Verdict::NoData);
        }
        let Some(visitor) = viewer.visitor(visit.accepts_id()) else {
            line.warn("the request has no valid client IP");
            return visit.answer(self.paths.verdict_on_nobody());
        };
        line.waited_us = self.flags.on_arrival().await.map(micros);
        let evaluation = self.flags.evaluate(&visitor, visit.is_entry());
        let answer = visit.answer(evaluation.verdict);
        line.evaluated(evaluation, &self.settings.flag_key);
        let mut redirect = answer?;
        redirect.cookies.extend(visitor.cookie());
        Some(redirect)
    }

    /// Does what no viewer should wait for: writes the log line, fetches flag data, sends events.
    pub async fn after_response(&self) {
        uninterrupted(self.log_and_refresh()).await;
    }

    async fn log_and_refresh(&self) {
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

/// The redirect of a decision, or the fallback if it panicked. `None` passes the request through.
fn or_fallback(
    decision: std::thread::Result<Option<Redirect>>,
    paths: &Paths,
    line: &mut DecisionLine,
) -> Option<Redirect> {
    let redirect = decision.unwrap_or_else(|_| {
        line.warn("the decision panicked");
        paths.fallback()
    });
    line.answered(redirect.as_ref(), paths);
    redirect
}

/// Keeps a panic after the response from ending the execution environment. The panic hook logs it.
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
        for (current, expected) in
            [("/site", "302 to /site: the decision panicked"), ("/", "pass-through: the decision panicked")]
        {
            let (paths, mut line) = (Paths::new(current, "/site/beta"), DecisionLine::default());
            let decision = AssertUnwindSafe(async { panic!("a fault of ours") }).catch_unwind().await;
            let redirect = or_fallback(decision, &paths, &mut line);
            assert_eq!(redirect, (current == "/site").then(|| Redirect::new(302, "/site/index.html".to_owned())));
            assert_eq!((line.message.as_str(), line.level), (expected, Level::Warn));
        }
    }
}
