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
use std::sync::Arc;
use std::time::Duration;

/// How many events the SDK keeps; so many make a flush due before its time, because more would be dropped. The SDK
/// allocates memory for all of them at once, three times over.
const CAPACITY: usize = 300;

/// The SDK's own timer would fire when a frozen environment thaws, on a viewer's time. It never does within the life
/// of an environment, which is hours.
const NEVER: Duration = Duration::from_secs(86_400 * 365);

/// Names a batch of events; the same on the second attempt.
/// <https://launchdarkly.com/docs/sdk/concepts/events>
const PAYLOAD_ID: &str = "x-launchdarkly-payload-id";

/// The SDK's event processor, which sends by this transport.
pub(super) fn processor(sender: &EventSender) -> EventProcessorBuilder<EventSender> {
    let mut builder = EventProcessorBuilder::new();
    builder.capacity(CAPACITY).flush_interval(NEVER).transport(sender.clone());
    builder
}

/// The transport of the SDK's event sender. It knows whether events arrived, which `flush_blocking` does not return.
#[derive(Clone)]
pub(super) struct EventSender {
    transport: Transport,
    setting: Events,
    flush: Arc<Mutex<Flush>>,
}

/// The flush in progress. The SDK continues with one that was not waited for, and its result may arrive during the next:
/// it says nothing about that one.
#[derive(Default)]
struct Flush {
    number: u64,
    /// The batches of this flush, by the id that the SDK repeats with the second attempt of a batch.
    batches: Vec<HeaderValue>,
    /// Those of the flush before.
    earlier: Vec<HeaderValue>,
    problem: Option<Problem>,
}

/// Why events not delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    text: String,
    /// How long LaunchDarkly asks not to be called, at least.
    wait: Option<Duration>,
}

impl Flush {
    /// The number of the flush that a batch belongs to; `None` for one of an earlier flush.
    fn of(&mut self, batch: Option<&HeaderValue>) -> Option<u64> {
        let Some(batch) = batch else { return Some(self.number) };
        if self.earlier.contains(batch) {
            return None;
        }
        if !self.batches.contains(batch) {
            self.batches.push(batch.clone());
        }
        Some(self.number)
    }

    /// Records the result of a batch that belongs to the flush with that number.
    fn ended(&mut self, number: Option<u64>, problem: Option<Problem>) {
        if number == Some(self.number) {
            self.problem = problem;
        }
    }

    fn begins(&mut self) {
        self.number += 1;
        self.problem = None;
        self.earlier = std::mem::take(&mut self.batches);
    }
}

impl EventSender {
    /// What may be sent of a batch: in `summary` the counts alone, whichever client made them. The SDK's streaming
    /// and polling evaluate the flag as LaunchDarkly gives it, tracking included.
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

/// LaunchDarkly's answer to events, for a batch of which nothing was left.
fn accepted() -> Response<ByteStream> {
    let nothing: ByteStream = Box::pin(futures_util::stream::empty());
    let mut response = Response::new(nothing);
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

impl HttpTransport for EventSender {
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
                    // After any other 4xx than 400, 408 and 429 the SDK sends no event ever again. But a batch that
                    // was too large says nothing about the next one, and a key may be accepted again.
                    if status.is_client_error() {
                        *response.status_mut() = StatusCode::BAD_REQUEST;
                    }
                    let wait = (status == StatusCode::TOO_MANY_REQUESTS).then(|| retry_after(response.headers()));
                    Some(Problem { text: format!("{uri} answered HTTP {}", status.as_u16()), wait })
                }
                Err(error) => Some(Problem { text: format!("{uri} was not reached: {}", error.inner()), wait: None }),
            };
            flush.lock().ended(number, problem);
            response
        })
    }
}

/// Sends the events that the SDK keeps, when they are due, and logs what becomes of them.
pub(super) struct Delivery {
    sender: EventSender,
    schedule: Mutex<Schedule>,
    /// The problem that the log has.
    logged: Mutex<Option<String>>,
}

impl Delivery {
    pub(super) fn new(clock: &Clock, settings: &Settings, transport: Transport) -> Self {
        let backoff = Backoff::new(clock.clone(), settings.max_staleness);
        let schedule = Schedule { clock: clock.clone(), after: settings.flush_after, waiting: None, backoff };
        let sender = EventSender { transport, setting: settings.events, flush: Arc::default() };
        Self { sender, schedule: Mutex::new(schedule), logged: Mutex::default() }
    }

    pub(super) fn sender(&self) -> &EventSender {
        &self.sender
    }

    /// Records an evaluation of a flag that needs so many flags.
    pub(super) fn evaluated(&self, flags: usize) {
        self.schedule.lock().evaluated(flags);
    }

    pub(super) fn is_due(&self) -> bool {
        self.schedule.lock().is_due()
    }

    pub(super) fn has_events(&self) -> bool {
        self.schedule.lock().waiting.is_some()
    }

    /// The SDK's `flush_blocking` returns true also when nothing was delivered, and waits for ever for a time of zero;
    /// its `close` may hang and is never called.
    pub(super) async fn flush(&self, client: &Client, budget: Duration) {
        self.sender.flush.lock().begins();
        let is_in_time = client.flush_blocking(budget).await;
        let problem = self.sender.flush.lock().problem.take();
        match problem {
            _ if !is_in_time => self.failed(format!("no answer within {budget:?}"), None),
            Some(Problem { text, wait }) => self.failed(text, wait),
            None => {
                self.schedule.lock().delivered();
                if self.logged.lock().take().is_some() {
                    log::warn!("events are delivered again");
                }
            }
        }
    }

    /// Logs why events not delivered, once per change, and waits before the next flush.
    pub(super) fn failed(&self, why: String, wait: Option<Duration>) {
        self.schedule.lock().failed(wait);
        let mut logged = self.logged.lock();
        if logged.as_ref() != Some(&why) {
            log::error!("events not delivered: {why}. The SDK drops them after two attempts");
            *logged = Some(why);
        }
    }
}

/// When the SDK's events are to be flushed.
#[derive(Debug)]
struct Schedule {
    clock: Clock,
    after: Duration,
    /// When the oldest evaluation that may not have been sent was made, and how many events there may be.
    waiting: Option<(Moment, usize)>,
    backoff: Backoff,
}

impl Schedule {
    /// An evaluation makes at most an index event for its context, and a feature and a debug event for each flag.
    fn evaluated(&mut self, flags: usize) {
        let (since, count) = self.waiting.unwrap_or_else(|| (self.clock.now(), 0));
        self.waiting = Some((since, count.saturating_add(1 + 2 * flags)));
    }

    fn is_due(&self) -> bool {
        self.backoff.allows()
            && self.waiting.is_some_and(|(since, count)| count >= CAPACITY || self.clock.since(since) >= self.after)
    }

    fn delivered(&mut self) {
        self.waiting = None;
        self.backoff.succeeded();
    }

    /// The SDK drops what it could not deliver, so there is nothing to send again; but the next flush comes later.
    fn failed(&mut self, wait: Option<Duration>) {
        self.waiting = None;
        self.backoff.failed(wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_of_one_flush_is_not_one_of_the_next() {
        let problem = || Some(Problem { text: "too late".to_owned(), wait: None });
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
