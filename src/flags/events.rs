//! The evaluation events that the SDK sends: which, when, and whether they arrive.

use crate::settings::{Events, Settings};
use bytes::Bytes;
use flag_data::backoff::Backoff;
use flag_data::clock::{Clock, Moment};
use flag_data::transport::{Transport, retry_after};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Request, Response, StatusCode};
use launchdarkly_sdk_transport::{ByteStream, HttpTransport, ResponseFuture};
use launchdarkly_server_sdk::{Client, EventProcessorBuilder};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// The size of the SDK's event buffer. A full buffer makes a flush due, because the SDK drops further events. The SDK
/// allocates the buffer when it starts, three times over.
const CAPACITY: usize = 300;

/// The SDK's own timer would fire when a frozen environment thaws, while a viewer waits. This is longer than an environment
/// lives.
const NEVER: Duration = Duration::from_secs(86_400 * 365);

/// The header that identifies a batch of events, also on the second attempt.
/// <https://launchdarkly.com/docs/sdk/concepts/events>
const PAYLOAD_ID: &str = "x-launchdarkly-payload-id";

/// The SDK's event processor with this transport.
pub(super) fn processor(sender: &EventTransport) -> EventProcessorBuilder<EventTransport> {
    let mut builder = EventProcessorBuilder::new();
    builder.capacity(CAPACITY).flush_interval(NEVER).transport(sender.clone());
    builder
}

/// The transport of the SDK's event sender. It records whether events arrived, which `flush_blocking` does not return.
#[derive(Clone)]
pub(super) struct EventTransport {
    transport: Transport,
    setting: Events,
    flush: Arc<Mutex<Flush>>,
}

/// The flush in progress. The SDK continues a flush that timed out, and its result may arrive during the next flush, to
/// which it does not belong.
#[derive(Default)]
struct Flush {
    number: u64,
    /// The flush that each batch belongs to, by the batch's id.
    batches: HashMap<HeaderValue, u64>,
    problem: Option<Problem>,
}

/// Why events were not delivered, and the least time that LaunchDarkly asks us to wait.
type Problem = (String, Option<Duration>);

impl Flush {
    fn begins(&mut self) {
        let previous = self.number;
        self.number += 1;
        self.problem = None;
        self.batches.retain(|_, number| *number == previous);
    }

    /// The number of the flush that a batch belongs to.
    fn of(&mut self, batch: Option<&HeaderValue>) -> u64 {
        batch.map_or(self.number, |batch| *self.batches.entry(batch.clone()).or_insert(self.number))
    }

    /// Records the result of a batch that belongs to the flush with that number.
    fn ended(&mut self, number: u64, problem: Option<Problem>) {
        if number == self.number {
            self.problem = problem;
        }
    }
}

impl EventTransport {
    /// The part of a batch that may be sent: with `summary` the counts alone. Index events carry the context; so do feature
    /// and debug events, which a flag can request.
    fn allowed(&self, request: Request<Option<Bytes>>) -> Option<Request<Option<Bytes>>> {
        if self.setting != Events::Summary {
            return Some(request);
        }
        let (mut head, body) = request.into_parts();
        let events: Vec<Box<RawValue>> = serde_json::from_slice(&body.unwrap_or_default()).ok()?;
        let counts: Vec<_> = events.into_iter().filter(|event| is_summary(event)).collect();
        let body = serde_json::to_vec(&counts).ok().filter(|_| !counts.is_empty())?;
        head.headers.remove(CONTENT_LENGTH);
        Some(Request::from_parts(head, Some(body.into())))
    }
}

fn is_summary(event: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        kind: Cow<'a, str>,
    }
    serde_json::from_str::<Event>(event.get()).is_ok_and(|event| event.kind == "summary")
}

/// LaunchDarkly's answer to events, for a batch without any that may be sent.
fn accepted() -> Response<ByteStream> {
    let nothing: ByteStream = Box::pin(futures_util::stream::empty());
    let mut response = Response::new(nothing);
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

impl HttpTransport for EventTransport {
    fn request(&self, request: Request<Option<Bytes>>) -> ResponseFuture {
        let Some(request) = self.allowed(request) else {
            return Box::pin(async { Ok(accepted()) });
        };
        let uri = request.uri().to_string();
        let flush = self.flush.clone();
        let number = flush.lock().of(request.headers().get(PAYLOAD_ID));
        let response = self.transport.request(request);
        Box::pin(async move {
            let mut response = response.await;
            let problem = match &mut response {
                Ok(response) if response.status().is_success() => None,
                Ok(response) => {
                    let status = response.status();
                    // After any 4xx except 400, 408 and 429 the SDK sends no events for good. But the next batch may be
                    // smaller, and a rejected key may be accepted again.
                    if status.is_client_error() {
                        *response.status_mut() = StatusCode::BAD_REQUEST;
                    }
                    let wait = (status == StatusCode::TOO_MANY_REQUESTS).then(|| retry_after(response.headers()));
                    Some((format!("{uri} answered HTTP {}", status.as_u16()), wait))
                }
                Err(error) => Some((format!("{uri} was not reached: {}", error.inner()), None)),
            };
            flush.lock().ended(number, problem);
            response
        })
    }
}

/// Sends the SDK's events when they are due, and logs whether they arrived.
pub(super) struct Delivery {
    sender: EventTransport,
    clock: Clock,
    flush_after: Duration,
    schedule: Mutex<Schedule>,
}

struct Schedule {
    /// The time of the oldest evaluation whose events may not have been sent, and the largest possible number of events.
    waiting: Option<(Moment, usize)>,
    backoff: Backoff,
    /// The problem that was logged last.
    logged: Option<String>,
}

impl Delivery {
    pub(super) fn new(clock: &Clock, settings: &Settings, transport: Transport) -> Self {
        let backoff = Backoff::new(clock.clone(), settings.max_staleness);
        let schedule = Mutex::new(Schedule { waiting: None, backoff, logged: None });
        let sender = EventTransport { transport, setting: settings.events, flush: Arc::default() };
        Self { sender, clock: clock.clone(), flush_after: settings.flush_after, schedule }
    }

    pub(super) fn sender(&self) -> &EventTransport {
        &self.sender
    }

    /// Records an evaluation that read this number of flags. It makes at most an index event for its context, and a feature
    /// and a debug event for each flag.
    pub(super) fn evaluated(&self, flags: usize) {
        let mut schedule = self.schedule.lock();
        let (since, count) = schedule.waiting.unwrap_or_else(|| (self.clock.now(), 0));
        schedule.waiting = Some((since, count.saturating_add(1 + 2 * flags)));
    }

    /// Whether the oldest event has waited for long enough, or there are as many as the SDK keeps.
    pub(super) fn is_due(&self) -> bool {
        let schedule = self.schedule.lock();
        let is_due = |(since, count)| count >= CAPACITY || self.clock.since(since) >= self.flush_after;
        schedule.backoff.allows() && schedule.waiting.is_some_and(is_due)
    }

    /// Sends the waiting events within `budget`, which must not be zero: the SDK's `flush_blocking` would wait forever. It
    /// returns true even if nothing was delivered. The SDK's `close` may hang and is never called.
    pub(super) async fn flush(&self, client: &Client, budget: Duration) {
        self.sender.flush.lock().begins();
        let is_in_time = client.flush_blocking(budget).await;
        let problem = self.sender.flush.lock().problem.take();
        match problem {
            _ if !is_in_time => self.failed(format!("no answer within {budget:?}"), None),
            Some((why, wait)) => self.failed(why, wait),
            None => {
                let mut schedule = self.schedule.lock();
                schedule.waiting = None;
                schedule.backoff.succeeded();
                if schedule.logged.take().is_some() {
                    log::warn!("events are delivered again");
                }
            }
        }
    }

    /// Logs why events were not delivered, if the log does not have it yet, and starts a back-off. The SDK drops undelivered
    /// events, so nothing is sent again.
    pub(super) fn failed(&self, why: String, wait: Option<Duration>) {
        let mut schedule = self.schedule.lock();
        schedule.waiting = None;
        schedule.backoff.failed(wait);
        if schedule.logged.as_ref() != Some(&why) {
            log::error!("events not delivered: {why}");
            schedule.logged = Some(why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_of_one_flush_is_not_one_of_the_next() {
        let problem = || Some(("too late".to_owned(), None));
        let (first, second) = (HeaderValue::from_static("first"), HeaderValue::from_static("second"));
        let mut flush = Flush::default();
        flush.begins();
        let of_first = flush.of(Some(&first));
        flush.begins();
        flush.ended(of_first, problem());
        assert_eq!(flush.problem, None, "the answer to a batch of the flush before");
        let again = flush.of(Some(&first));
        flush.ended(again, problem());
        assert_eq!(flush.problem, None, "the second attempt of that batch");
        let of_second = flush.of(Some(&second));
        flush.ended(of_second, problem());
        assert_eq!(flush.problem, problem(), "its own");
    }
}
