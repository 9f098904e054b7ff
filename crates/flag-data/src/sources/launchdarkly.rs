//! LaunchDarkly's service, or a Relay Proxy in its place.
//!
//! By default one request per item, to the endpoints that LaunchDarkly's PHP SDK uses and the Relay Proxy serves too
//! (<https://launchdarkly.com/docs/sdk/relay-proxy/endpoints>): about 600 bytes instead of the whole environment.

use super::{Answer, Collection, FlagSource, Reader, SourceError, Whole};
use crate::items::{Everything, ItemKey};
use crate::sdk_key::SdkKey;
use crate::transport::{RequestError, Transport, retry_after};
use flate2::read::GzDecoder;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, ETAG, IF_NONE_MATCH, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use std::fmt::Write as _;
use std::io::Read as _;
use std::time::Duration;

/// The largest environment that is read: more than 10,000 flags fit, in a function of 128 MB.
const MAX_ENVIRONMENT_BYTES: usize = 16 * 1024 * 1024;

/// The largest single item that is read. How much of it is kept is for the collection to say.
const MAX_ITEM_BYTES: usize = 4 * 1024 * 1024;

/// How many items are requested at once.
const CONCURRENCY: usize = 8;

/// Flag data from LaunchDarkly.
pub struct LaunchDarkly {
    transport: Transport,
    base_uri: String,
    authorization: HeaderValue,
    whole_environment: bool,
}

impl LaunchDarkly {
    /// A source that calls `base_uri` with the SDK key of an environment, for each item by itself.
    pub fn new(transport: Transport, base_uri: &str, key: &SdkKey) -> Self {
        // A checked key is printable ASCII, which a header value may always hold.
        let mut authorization = HeaderValue::from_str(key.reveal()).unwrap_or_else(|_| HeaderValue::from_static(""));
        authorization.set_sensitive(true);
        Self { transport, base_uri: base_uri.to_owned(), authorization, whole_environment: false }
    }

    /// The same with one request for everything in the environment.
    #[must_use]
    pub fn whole_environment(self) -> Self {
        Self { whole_environment: true, ..self }
    }

    async fn get(
        &self,
        path: &str,
        more: Option<(HeaderName, &str)>,
        limit: usize,
    ) -> Result<(String, Response<Vec<u8>>), SourceError> {
        let uri = format!("{}{path}", self.base_uri);
        let unreachable = |why: String| SourceError::Unreachable { uri: uri.clone(), why };
        let user_agent = concat!("flag-data/", env!("CARGO_PKG_VERSION"));
        let request = Request::get(&uri).header(AUTHORIZATION, &self.authorization).header(USER_AGENT, user_agent);
        let request = more.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        let request = request.body(None).map_err(|error| unreachable(error.to_string()))?;
        let response = self.transport.exchange(request, limit).await.map_err(|error| match error {
            RequestError::TooLarge(limit) => SourceError::TooLarge { what: uri.clone(), limit },
            error => unreachable(error.to_string()),
        })?;
        match response.status() {
            StatusCode::OK | StatusCode::NOT_MODIFIED | StatusCode::NOT_FOUND => Ok((uri, response)),
            StatusCode::TOO_MANY_REQUESTS => Err(SourceError::Throttled { uri, wait: retry_after(response.headers()) }),
            status => Err(SourceError::of_status(uri, status.as_u16())),
        }
    }

    /// The whole environment's JSON, and where it is from.
    async fn latest_all(&self) -> Result<(String, String), SourceError> {
        let (uri, response) =
            self.get("/sdk/latest-all", Some((ACCEPT_ENCODING, "gzip")), MAX_ENVIRONMENT_BYTES).await?;
        if response.status() != StatusCode::OK {
            return Err(SourceError::of_status(uri, response.status().as_u16()));
        }
        let json = text(&uri, response)?;
        Ok((uri, json))
    }

    /// Everything in the environment, each item verbatim.
    ///
    /// # Errors
    /// Like a fetch.
    pub async fn everything(&self) -> Result<Everything, SourceError> {
        let (uri, json) = self.latest_all().await?;
        Ok(Whole::parse(&json, &uri)?.to_stored())
    }

    async fn read_one(&self, wanted: &ItemKey, collection: &Collection) -> Answer {
        let (kind, key) = wanted;
        let path = format!("/sdk/{}s/{}", kind.singular(), path_segment(key));
        let known = collection.known(wanted).and_then(|item| Some((item, item.etag.as_deref()?)));
        let if_none_match = known.map(|(_, etag)| (IF_NONE_MATCH, etag));
        let (uri, response) = self.get(&path, if_none_match, MAX_ITEM_BYTES).await?;
        let headers = response.headers();
        collection.time_to_live(max_age(headers));
        match (response.status(), known) {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (StatusCode::NOT_MODIFIED, Some((known, _))) => Ok(Some(known.clone())),
            (StatusCode::OK, _) => {
                let etag = headers.get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
                collection.parse(wanted, Some(text(&uri, response)?), etag)
            }
            (status, _) => Err(SourceError::of_status(uri, status.as_u16())),
        }
    }
}

impl FlagSource for LaunchDarkly {
    fn name(&self) -> &'static str {
        "launchdarkly"
    }

    fn fetch<'a>(&'a self, collection: &'a Collection) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(async move {
            if !self.whole_environment {
                return collection.read_from(self).await;
            }
            let (uri, json) = self.latest_all().await?;
            collection.read_from(&Whole::parse(&json, &uri)?).await
        })
    }
}

/// One request per item.
impl Reader for LaunchDarkly {
    async fn read(&self, wanted: &[ItemKey], collection: &Collection) {
        let read = |wanted| async move { collection.answer(wanted, self.read_one(wanted, collection).await) };
        stream::iter(wanted).for_each_concurrent(CONCURRENCY, read).await;
    }
}

/// The body as text, unpacked if it is gzipped.
fn text(uri: &str, response: Response<Vec<u8>>) -> Result<String, SourceError> {
    let malformed = |why: String| SourceError::Malformed { what: uri.to_owned(), why };
    let is_gzipped = response.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding == "gzip");
    let mut body = response.into_body();
    if is_gzipped {
        let mut unpacked = Vec::new();
        let limited = GzDecoder::new(body.as_slice()).take(MAX_ENVIRONMENT_BYTES as u64 + 1).read_to_end(&mut unpacked);
        limited.map_err(|error| malformed(format!("gzip: {error}")))?;
        if unpacked.len() > MAX_ENVIRONMENT_BYTES {
            return Err(SourceError::TooLarge { what: uri.to_owned(), limit: MAX_ENVIRONMENT_BYTES });
        }
        body = unpacked;
    }
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
            ("a b?#ä", "a%20b%3F%23%C3%A4"),
        ] {
            assert_eq!(path_segment(key), expected);
        }
    }

    #[test]
    fn the_time_to_live_is_in_the_cache_control() {
        for (header, expected) in
            [("public, max-age=300", Some(300)), ("max-age=0", Some(0)), ("no-store", None), ("max-age=soon", None)]
        {
            let headers = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static(header))]);
            assert_eq!(max_age(&headers), expected.map(Duration::from_secs), "{header}");
        }
    }
}
