//! A viewer's request as CloudFront describes it to the two kinds of functions.

use super::rules::is_forbidden;
use axum::http::request::Parts;
use http::header::COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

/// The cookie with the address to visit from. It belongs to the preview: no function sees it.
pub(super) const VIEWER_COOKIE: &str = "preview_viewer";

const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

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
        let cookies: Vec<&str> = cookies(&parts.headers).filter(|pair| split(pair).0 != VIEWER_COOKIE).collect();
        if let (false, Ok(value)) = (cookies.is_empty(), HeaderValue::try_from(cookies.join("; "))) {
            headers.insert(COOKIE, value);
        }
        // The frame of the control page stands for a browser's tab.
        if headers.get(SEC_FETCH_DEST).is_some_and(|destination| destination == "iframe") {
            headers.insert(SEC_FETCH_DEST, HeaderValue::from_static("document"));
        }
        let address = cookie(&parts.headers, VIEWER_COOKIE).filter(|address| address.parse::<IpAddr>().is_ok());
        Self {
            id: request_id(),
            address: address.map_or_else(|| peer.to_string(), str::to_owned),
            method: parts.method.to_string(),
            uri: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            headers,
        }
    }

    /// The event for a Lambda@Edge function.
    /// <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/lambda-event-structure.html>
    pub(super) fn lambda_event(&self) -> Value {
        let headers = self.headers.keys().map(|name| {
            let values = self.headers.get_all(name).into_iter().map(text);
            (name.as_str(), values.map(|value| json!({ "key": name.as_str(), "value": value })).collect::<Value>())
        });
        let request = json!({
            "clientIp": self.address,
            "headers": headers.collect::<Value>(),
            "method": self.method,
            "querystring": self.query,
            "uri": self.uri,
        });
        json!({ "Records": [{ "cf": { "config": self.context(), "request": request } }] })
    }

    /// The event for a CloudFront Function.
    /// <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/functions-event-structure.html>
    pub(super) fn script_event(&self) -> Value {
        let parameters = self.query.split('&').filter(|parameter| !parameter.is_empty());
        let headers = self.headers.iter().filter(|(name, _)| *name != COOKIE);
        json!({
            "version": "1.0",
            "context": self.context(),
            "viewer": { "ip": self.address },
            "request": {
                "method": self.method,
                "uri": self.uri,
                "querystring": by_name(parameters.map(split)),
                "headers": by_name(headers.map(|(name, value)| (name.as_str(), text(value)))),
                "cookies": by_name(cookies(&self.headers).map(split)),
            },
        })
    }

    /// Names are those of AWS's own example of a distribution.
    fn context(&self) -> Value {
        json!({
            "distributionDomainName": "d111111abcdef8.cloudfront.net",
            "distributionId": "EDFDVBD6EXAMPLE",
            "eventType": "viewer-request",
            "requestId": self.id,
        })
    }
}

/// The value of a cookie. A colon is not allowed in every cookie parser; browsers send it as it was set.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    cookies(headers).map(split).find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// The cookies as they were sent, such as `name=value`.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(';')).map(str::trim).filter(|pair| !pair.is_empty())
}

/// The name and the value of a cookie or a parameter.
pub(super) fn split(pair: &str) -> (&str, &str) {
    pair.split_once('=').unwrap_or((pair, ""))
}

/// The first value of a name, and all of them where there are several.
fn by_name<'a, V: Serialize>(pairs: impl Iterator<Item = (&'a str, V)>) -> Value {
    let mut values: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (name, value) in pairs {
        values.entry(name).or_default().push(json!({ "value": value }));
    }
    let entry = |mut values: Vec<Value>| match values.as_slice() {
        [first, _, ..] => json!({ "value": first.get("value"), "multiValue": values }),
        _ => values.pop().unwrap_or_default(),
    };
    values.into_iter().map(|(name, values)| (name, entry(values))).collect()
}

fn text(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

/// 56 characters, as in CloudFront. Each `RandomState` has a seed of its own; an id need not be hard to guess here.
pub(super) fn request_id() -> String {
    format!("{:056x}", RandomState::new().hash_one(()))
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
        let event = viewer.lambda_event();
        let expected = json!({
            "clientIp": "192.0.2.1", "method": "GET", "querystring": "c=1&d&c=2", "uri": "/a%20b/",
            "headers": {
                "accept": [{"key": "accept", "value": "a"}, {"key": "accept", "value": "b"}],
                "host": [{"key": "host", "value": "x"}],
            },
        });
        assert_eq!(event["Records"][0]["cf"]["request"], expected);
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
        for (sent, address, seen) in [
            ("a=b; preview_viewer=2001:db8::7; c=", "2001:db8::7", Some("a=b; c=")),
            ("preview_viewer=192.0.2.9", "192.0.2.9", None),
            ("preview_viewer=nobody", "192.0.2.1", None),
        ] {
            let viewer = viewer(&[("Cookie", sent)]);
            assert_eq!(viewer.address, address);
            assert_eq!(viewer.headers.get(COOKIE).map(|cookies| cookies.to_str().unwrap()), seen);
        }
    }

    #[test]
    fn a_frame_stands_for_a_tab() {
        for (sent, seen) in [("iframe", "document"), ("document", "document"), ("image", "image")] {
            assert_eq!(viewer(&[("Sec-Fetch-Dest", sent)]).headers[SEC_FETCH_DEST], seen);
        }
    }
}
