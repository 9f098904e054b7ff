//! A viewer's request as CloudFront describes it to the two kinds of functions.

use super::rules::is_forbidden;
use axum::http::request::Parts;
use http::header::COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;

/// The cookie with the address to visit from. It belongs to the preview: no function sees it.
pub(super) const VIEWER_COOKIE: &str = "preview_viewer";

const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// AWS's own example of a distribution.
const DOMAIN: &str = "d111111abcdef8.cloudfront.net";
const DISTRIBUTION: &str = "EDFDVBD6EXAMPLE";

/// A viewer's request.
#[derive(Debug)]
pub(super) struct Viewer {
    /// CloudFront's id of the request.
    pub id: String,
    /// The viewer's address.
    pub address: String,
    pub method: String,
    /// The path, as sent.
    pub uri: String,
    /// The query string without `?`.
    pub query: String,
    /// The headers that a function sees.
    pub headers: HeaderMap,
}

impl Viewer {
    /// A request from `peer`, or from the address in the preview's cookie.
    pub(super) fn new(parts: &Parts, peer: IpAddr) -> Self {
        let visible = parts.headers.iter().filter(|(name, _)| **name != COOKIE && !is_forbidden(name.as_str()));
        let mut headers: HeaderMap = visible.map(|(name, value)| (name.clone(), value.clone())).collect();
        let cookies: Vec<String> = cookies(&parts.headers)
            .filter(|(name, _)| *name != VIEWER_COOKIE)
            .map(|(name, value)| if value.is_empty() { name.to_owned() } else { format!("{name}={value}") })
            .collect();
        if let (false, Ok(value)) = (cookies.is_empty(), HeaderValue::try_from(cookies.join("; "))) {
            headers.insert(COOKIE, value);
        }
        // The frame of the control page stands for a browser's tab.
        if headers.get(SEC_FETCH_DEST).is_some_and(|destination| destination == "iframe") {
            headers.insert(SEC_FETCH_DEST, HeaderValue::from_static("document"));
        }
        Self {
            id: request_id(),
            address: visiting_from(&parts.headers).unwrap_or_else(|| peer.to_string()),
            method: parts.method.to_string(),
            uri: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            headers,
        }
    }

    /// Path and query string, as sent.
    pub(super) fn url(&self) -> String {
        let mark = if self.query.is_empty() { "" } else { "?" };
        [&self.uri, mark, &self.query].concat()
    }

    /// `Records[0].cf.request` of the event for a Lambda@Edge function.
    /// <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/lambda-event-structure.html>
    pub(super) fn lambda_request(&self) -> Value {
        let mut headers = Map::new();
        for (name, value) in &self.headers {
            let entries = headers.entry(name.as_str()).or_insert_with(|| json!([]));
            if let Some(entries) = entries.as_array_mut() {
                entries.push(json!({ "key": name.as_str(), "value": text(value) }));
            }
        }
        json!({
            "clientIp": self.address,
            "headers": headers,
            "method": self.method,
            "querystring": self.query,
            "uri": self.uri,
        })
    }

    /// The event for a Lambda@Edge function, with that request.
    pub(super) fn lambda_event(&self, request: &Value) -> Value {
        json!({ "Records": [{ "cf": { "config": self.context(), "request": request } }] })
    }

    /// The event for a CloudFront Function.
    /// <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/functions-event-structure.html>
    pub(super) fn script_event(&self) -> Value {
        let parameters = self.query.split('&').filter(|parameter| !parameter.is_empty());
        let parameters = parameters.map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")));
        let headers = self.headers.iter().filter(|(name, _)| *name != COOKIE);
        let headers = headers.map(|(name, value)| (name.as_str(), text(value)));
        json!({
            "version": "1.0",
            "context": self.context(),
            "viewer": { "ip": self.address },
            "request": {
                "method": self.method,
                "uri": self.uri,
                "querystring": by_name(parameters),
                "headers": by_name(headers),
                "cookies": by_name(cookies(&self.headers)),
            },
        })
    }

    fn context(&self) -> Value {
        json!({
            "distributionDomainName": DOMAIN,
            "distributionId": DISTRIBUTION,
            "eventType": "viewer-request",
            "requestId": self.id,
        })
    }
}

/// The value of a cookie. A colon is not allowed in every cookie parser; browsers send it as it was set.
pub(super) fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    cookies(headers).find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
}

/// The address in the preview's cookie.
fn visiting_from(headers: &HeaderMap) -> Option<String> {
    cookie(headers, VIEWER_COOKIE).filter(|address| address.parse::<IpAddr>().is_ok())
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let values = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let pairs = values.flat_map(|value| value.split(';')).map(str::trim).filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// The first value of a name, and all of them where there are several.
fn by_name<'a, V: Into<String>>(pairs: impl Iterator<Item = (&'a str, V)>) -> Value {
    let mut all: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (name, value) in pairs {
        all.entry(name).or_default().push(json!({ "value": value.into() }));
    }
    let object = all.into_iter().map(|(name, values)| match values.as_slice() {
        [value] => (name.to_owned(), value.clone()),
        [first, ..] => (name.to_owned(), json!({ "value": first.get("value"), "multiValue": values })),
        [] => (name.to_owned(), Value::Null),
    });
    Value::Object(object.collect())
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// 56 characters, as in CloudFront. Each `RandomState` has a seed of its own; an id need not be hard to guess here.
pub(super) fn request_id() -> String {
    let part = || RandomState::new().build_hasher().finish();
    let mut id = format!("{:016x}{:016x}{:016x}{:016x}", part(), part(), part(), part());
    id.truncate(54);
    id + "=="
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn viewer(headers: &[(&str, &str)]) -> Viewer {
        let mut request = Request::get("/a%20b/?c=1&d&c=2");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Viewer::new(&request.body(()).unwrap().into_parts().0, IpAddr::from([192, 0, 2, 1]))
    }

    #[test]
    fn a_lambda_event_has_cloudfronts_fields() {
        let viewer = viewer(&[("Host", "x"), ("Accept", "a"), ("Accept", "b"), ("Connection", "close")]);
        let request = viewer.lambda_request();
        assert_eq!(
            request,
            json!({
                "clientIp": "192.0.2.1",
                "headers": {
                    "accept": [{"key": "accept", "value": "a"}, {"key": "accept", "value": "b"}],
                    "host": [{"key": "host", "value": "x"}],
                },
                "method": "GET", "querystring": "c=1&d&c=2", "uri": "/a%20b/",
            })
        );
        let event = viewer.lambda_event(&request);
        assert_eq!(event["Records"][0]["cf"]["config"]["requestId"].as_str().unwrap().len(), 56);
    }

    #[test]
    fn a_script_event_has_its_own_shape() {
        let event = viewer(&[("Host", "x"), ("Cookie", "a=b; c")]).script_event();
        let expected = json!({
            "method": "GET", "uri": "/a%20b/",
            "querystring": {"c": {"value": "1", "multiValue": [{"value": "1"}, {"value": "2"}]}, "d": {"value": ""}},
            "headers": {"host": {"value": "x"}},
            "cookies": {"a": {"value": "b"}, "c": {"value": ""}},
        });
        assert_eq!(event["request"], expected);
        assert_eq!(event["viewer"]["ip"], "192.0.2.1");
    }

    #[test]
    fn the_previews_cookie_sets_the_address_and_stays_hidden() {
        let as_other = viewer(&[("Cookie", "a=b; preview_viewer=2001:db8::7; c=d")]);
        assert_eq!(as_other.address, "2001:db8::7");
        assert_eq!(as_other.headers[COOKIE], "a=b; c=d");
        assert!(!viewer(&[("Cookie", "preview_viewer=192.0.2.9")]).headers.contains_key(COOKIE));
        assert_eq!(viewer(&[("Cookie", "preview_viewer=nobody")]).address, "192.0.2.1");
    }

    #[test]
    fn a_frame_stands_for_a_tab() {
        for (sent, seen) in [("iframe", "document"), ("document", "document"), ("image", "image")] {
            assert_eq!(viewer(&[("Sec-Fetch-Dest", sent)]).headers[SEC_FETCH_DEST], seen);
        }
    }
}
