//! LaunchDarkly's service, or a Relay Proxy in its place.
//!
//! By default one request per item, to the endpoints that LaunchDarkly's PHP SDK uses and the Relay Proxy serves too
//! (<https://launchdarkly.com/docs/sdk/relay-proxy/endpoints>): about 600 bytes instead of the whole environment.

use super::{Collection, FlagSource, Read, Reader, SourceError, Wanted, Whole};
use crate::settings::{Fetch, SdkKey};
use crate::transport::{RequestError, Response, Transport};
use flate2::read::GzDecoder;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, ETAG, IF_NONE_MATCH, RETRY_AFTER, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use std::fmt::Write as _;
use std::io::Read as _;
use std::time::Duration;

/// The largest environment that is read: more than 10,000 flags fit, in a function of 128 MB.
const LARGEST: usize = 16 * 1024 * 1024;

/// The largest single item that is read. How much of it is kept is for the collection to say.
const MAX_ITEM_BYTES: usize = 4 * 1024 * 1024;

/// How many items are requested at once.
const CONCURRENCY: usize = 8;

/// The longest time for which LaunchDarkly can ask to be left alone.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);

/// How long to wait when a 429 does not say.
const USUAL_WAIT: Duration = Duration::from_secs(10);

/// Flag data from LaunchDarkly.
pub struct LaunchDarkly {
    transport: Transport,
    base_uri: String,
    authorization: HeaderValue,
    fetch: Fetch,
}

impl LaunchDarkly {
    /// A source that asks `base_uri` with the SDK key of an environment.
    pub fn new(transport: Transport, base_uri: &str, key: &SdkKey, fetch: Fetch) -> Self {
        // A checked key is printable ASCII, which a header value may always hold.
        let mut authorization = HeaderValue::from_str(key.reveal()).unwrap_or_else(|_| HeaderValue::from_static(""));
        authorization.set_sensitive(true);
        Self { transport, base_uri: base_uri.to_owned(), authorization, fetch }
    }

    async fn get(
        &self,
        path: &str,
        more: Option<(HeaderName, &str)>,
        limit: usize,
    ) -> Result<(String, Response), SourceError> {
        let uri = format!("{}{path}", self.base_uri);
        let unreachable = |why: String| SourceError::Unreachable { uri: uri.clone(), why };
        let mut request = Request::get(&uri)
            .header(AUTHORIZATION, &self.authorization)
            .header(USER_AGENT, concat!("redirect/", env!("CARGO_PKG_VERSION")));
        if let Some((name, value)) = more {
            request = request.header(name, value);
        }
        let request = request.body(None).map_err(|error| unreachable(error.to_string()))?;
        let response = self.transport.exchange(request, limit).await.map_err(|error| match error {
            RequestError::TooLarge(limit) => SourceError::TooLarge { what: uri.clone(), limit },
            error => unreachable(error.to_string()),
        })?;
        match response.head.status {
            StatusCode::OK | StatusCode::NOT_MODIFIED | StatusCode::NOT_FOUND => Ok((uri, response)),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(SourceError::Refused { uri, status: status.as_u16() })
            }
            StatusCode::TOO_MANY_REQUESTS => {
                Err(SourceError::Throttled { uri, wait: retry_after(&response.head.headers) })
            }
            status => Err(SourceError::Status { uri, status: status.as_u16() }),
        }
    }

    /// The whole environment's JSON, and where it is from.
    async fn latest_all(&self) -> Result<(String, String), SourceError> {
        let (uri, response) = self.get("/sdk/latest-all", Some((ACCEPT_ENCODING, "gzip")), LARGEST).await?;
        if response.head.status != StatusCode::OK {
            return Err(SourceError::Status { uri, status: response.head.status.as_u16() });
        }
        let json = text(&uri, response)?;
        Ok((uri, json))
    }

    /// Everything in the environment, each item verbatim.
    ///
    /// # Errors
    /// Like a fetch.
    #[cfg(feature = "sync")]
    pub async fn everything(&self) -> Result<crate::stores::Everything, SourceError> {
        let (uri, json) = self.latest_all().await?;
        Ok(Whole::parse(&json, &uri)?.to_stored())
    }
}

impl FlagSource for LaunchDarkly {
    fn name(&self) -> &'static str {
        "launchdarkly"
    }

    fn fetch<'a>(&'a self, collection: &'a Collection) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(async move {
            match self.fetch {
                Fetch::Items => collection.read_from(self).await,
                Fetch::Environment => {
                    let (uri, json) = self.latest_all().await?;
                    collection.read_from(&Whole::parse(&json, &uri)?).await
                }
            }
        })
    }
}

impl LaunchDarkly {
    async fn read_one(&self, wanted: &Wanted, collection: &Collection) -> Result<Read, SourceError> {
        let (kind, key) = wanted;
        let path = format!("/sdk/{}/{}", kind.plural(), path_segment(key));
        let etag = collection.known(wanted).and_then(|item| item.etag());
        let (uri, response) = self.get(&path, etag.map(|etag| (IF_NONE_MATCH, etag)), MAX_ITEM_BYTES).await?;
        let headers = &response.head.headers;
        collection.time_to_live(max_age(headers));
        match (response.head.status, etag) {
            (StatusCode::NOT_FOUND, _) => return Ok(Read::Missing),
            (StatusCode::NOT_MODIFIED, Some(_)) => return Ok(Read::Unchanged),
            (StatusCode::OK, _) => {}
            (status, _) => return Err(SourceError::Status { uri, status: status.as_u16() }),
        }
        let etag = headers.get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
        Ok(Read::Found { json: text(&uri, response)?, etag })
    }
}

/// One request per item.
impl Reader for LaunchDarkly {
    async fn read(&self, wanted: &[Wanted], collection: &Collection) -> Result<(), SourceError> {
        let read = |wanted| async move {
            let read = self.read_one(wanted, collection).await.unwrap_or_else(Read::Failed);
            collection.answer(wanted, read);
        };
        stream::iter(wanted).for_each_concurrent(CONCURRENCY, read).await;
        Ok(())
    }
}

/// The body as text, unpacked if it is gzipped.
fn text(uri: &str, response: Response) -> Result<String, SourceError> {
    let malformed = |why: String| SourceError::Malformed { what: uri.to_owned(), why };
    let body = if response.head.headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding == "gzip") {
        let mut unpacked = Vec::new();
        let limit = LARGEST as u64 + 1;
        GzDecoder::new(response.body.as_slice())
            .take(limit)
            .read_to_end(&mut unpacked)
            .map_err(|error| malformed(format!("gzip: {error}")))?;
        if unpacked.len() > LARGEST {
            return Err(SourceError::TooLarge { what: uri.to_owned(), limit: LARGEST });
        }
        unpacked
    } else {
        response.body
    };
    String::from_utf8(body).map_err(|error| malformed(error.to_string()))
}

/// A key as one segment of a path. LaunchDarkly's keys need no encoding; others cannot change the address.
fn path_segment(key: &str) -> String {
    let mut segment = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) || (byte == b'.' && key.len() > 2) {
            segment.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(segment, "%{byte:02X}");
        }
    }
    segment
}

/// `Retry-After` in seconds; LaunchDarkly does not send the date form.
pub(crate) fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    seconds.map_or(USUAL_WAIT, Duration::from_secs).min(LONGEST_WAIT)
}

/// The environment's TTL setting comes back as `Cache-Control: max-age`.
/// <https://launchdarkly.com/docs/home/account/environment/settings#ttl-settings>
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(CACHE_CONTROL)?.to_str().ok()?;
    let age = value.split(',').find_map(|directive| directive.trim().strip_prefix("max-age="))?;
    age.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stays_one_segment() {
        for (key, expected) in [
            ("rebrand", "rebrand"),
            ("a.b_c-d", "a.b_c-d"),
            ("../x", "..%2Fx"),
            ("..", "%2E%2E"),
            (".", "%2E"),
            ("a b?#", "a%20b%3F%23"),
            ("ä", "%C3%A4"),
        ] {
            assert_eq!(path_segment(key), expected);
        }
    }

    #[track_caller]
    fn check_max_age(header: &'static str, expected: Option<u64>) {
        let headers = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static(header))]);
        assert_eq!(max_age(&headers), expected.map(Duration::from_secs), "{header}");
    }

    #[test]
    fn the_time_to_live_is_in_the_cache_control() {
        check_max_age("public, max-age=300", Some(300));
        check_max_age("max-age=0", Some(0));
        check_max_age("no-store", None);
        check_max_age("max-age=soon", None);
    }

    #[track_caller]
    fn check_retry_after(header: &'static str, expected: u64) {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(header))]);
        assert_eq!(retry_after(&headers), Duration::from_secs(expected), "{header}");
    }

    #[test]
    fn a_wait_is_respected_within_reason() {
        check_retry_after("7", 7);
        check_retry_after("99999999", 3_600);
        check_retry_after("tomorrow", 10);
        assert_eq!(retry_after(&HeaderMap::new()), USUAL_WAIT);
    }
}
