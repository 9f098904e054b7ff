//! What Lambda@Edge accepts from a viewer-request function. A broken rule is a 502 for the viewer.
//!
//! <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/edge-function-restrictions-all.html>
//! <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/lambda-generating-http-responses-programming-model.html>

use anyhow::{Context, Result, bail, ensure};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The limit of a response that a viewer-request function generates, headers and body, in bytes.
const MAX_RESPONSE_SIZE: usize = 40 * 1024;

/// The limit of path and query string together, in characters.
pub(super) const MAX_URL_LENGTH: usize = 8_192;

/// Visible in a viewer request; a function may neither change them nor set them in a response.
const READ_ONLY: [&str; 4] = ["content-length", "host", "transfer-encoding", "via"];

/// Invisible to a function, and forbidden in its answer.
const FORBIDDEN: [&str; 8] =
    ["connection", "expect", "keep-alive", "trailer", "upgrade", "x-cache", "x-forwarded-proto", "x-real-ip"];
const FORBIDDEN_PREFIXES: [&str; 5] = ["cloudfront-viewer-", "proxy-", "x-accel-", "x-amz-cf-", "x-edge-"];

/// Whether a function neither sees nor may set a header.
pub(super) fn is_forbidden(name: &str) -> bool {
    FORBIDDEN.contains(&name) || FORBIDDEN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// What a valid answer makes CloudFront do.
#[derive(Debug)]
pub(super) enum Effect {
    /// It continues with this path.
    Continue { uri: String },
    /// It sends this to the viewer.
    Respond(Response),
}

/// A response, or a request.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Answer {
    status: Option<String>,
    uri: Option<String>,
    querystring: String,
    headers: BTreeMap<String, Vec<HeaderEntry>>,
    body: String,
    body_encoding: BodyEncoding,
}

#[derive(Deserialize)]
struct HeaderEntry {
    key: Option<String>,
    value: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum BodyEncoding {
    #[default]
    Text,
    Base64,
}

/// Checks a function's answer to a request with these headers.
pub(super) fn enforce(answer: &[u8], request_headers: &HeaderMap) -> Result<Effect> {
    let answer: Answer = serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(answer))
        .context("the answer is not a JSON object with the fields that CloudFront knows")?;
    let headers = checked(answer.headers)?;
    let is_request = answer.status.is_none() && answer.uri.is_some();
    let read_only = if is_request { request_headers } else { &HeaderMap::new() };
    if let Some(name) = READ_ONLY.iter().find(|name| headers.get_all(**name) != read_only.get_all(**name)) {
        bail!("the header {name:?} is read-only in viewer requests");
    }
    match (answer.status, answer.uri) {
        (Some(status), _) => {
            let code = status.parse().ok().filter(|code: &StatusCode| (200..600).contains(&code.as_u16()));
            let code = code.with_context(|| format!("the status must be from \"200\" to \"599\", not {status:?}"))?;
            let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
            let size = size + answer.body.len();
            ensure!(
                size <= MAX_RESPONSE_SIZE,
                "the response has {size} bytes of headers and body; a viewer-request function may generate 40 KB"
            );
            let body = match answer.body_encoding {
                BodyEncoding::Text => answer.body.into_bytes(),
                BodyEncoding::Base64 => BASE64.decode(answer.body.as_bytes()).context("the body is not base64")?,
            };
            Ok(Effect::Respond((code, headers, Body::from(body)).into_response()))
        }
        (None, Some(uri)) => {
            ensure!(uri.starts_with('/'), "the uri must be a path that starts with \"/\", not {uri:?}");
            let length = uri.len() + answer.querystring.len();
            ensure!(
                length < MAX_URL_LENGTH,
                "uri and querystring together have {length} characters; the limit is {MAX_URL_LENGTH}"
            );
            Ok(Effect::Continue { uri })
        }
        (None, None) => bail!("the answer has neither a status, as a response must, nor a uri, as a request must"),
    }
}

/// The headers, if none breaks a rule.
fn checked(headers: BTreeMap<String, Vec<HeaderEntry>>) -> Result<HeaderMap> {
    let mut checked = HeaderMap::new();
    for (name, entries) in headers {
        ensure!(
            !name.chars().any(|c| c.is_ascii_uppercase()),
            "the header name {name:?} must be in lower case where it names the list of values"
        );
        ensure!(!is_forbidden(&name), "the header {name:?} is forbidden to Lambda@Edge functions");
        for HeaderEntry { key, value } in entries {
            if let Some(key) = key.filter(|key| !key.eq_ignore_ascii_case(&name)) {
                bail!("the header {name:?} has a list entry with the key {key:?}, which is another name");
            }
            let (Ok(name), Ok(value)) = (HeaderName::try_from(&name), HeaderValue::try_from(value)) else {
                bail!("the header {name:?} has a name or value that HTTP does not allow");
            };
            checked.append(name, value);
        }
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Checks what an answer leads to, or a part of the error.
    #[track_caller]
    fn check(answer: &Value, expected: &str) {
        let sent = [("host", "example.com"), ("user-agent", "test")];
        let sent = sent.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let outcome = match enforce(answer.to_string().as_bytes(), &HeaderMap::from_iter(sent)) {
            Ok(Effect::Continue { uri }) => uri,
            Ok(Effect::Respond(response)) => format!("{} {:?}", response.status().as_u16(), response.headers()),
            Err(error) => format!("error: {error:#}"),
        };
        let is_expected = if outcome.starts_with("error: ") { outcome.contains(expected) } else { outcome == expected };
        assert!(is_expected, "{answer}: {outcome}");
    }

    /// The answer that lets a request pass, with one header more, or changed.
    fn request_with(name: &str, value: &str) -> Value {
        let mut request = json!({
            "clientIp": "192.0.2.1", "method": "GET", "uri": "/a", "querystring": "b=c",
            "headers": {"host": [{"key": "host", "value": "example.com"}]},
        });
        request["headers"][name] = json!([{"key": name, "value": value}]);
        request
    }

    /// A response with one header.
    fn with_header(name: &str, entries: &Value) -> Value {
        json!({"status": "200", "headers": {name: entries}})
    }

    #[test]
    fn what_is_allowed_goes_through() {
        check(&request_with("x-of-ours", "1"), "/a");
        check(&request_with("user-agent", "other"), "/a");
        check(&json!({"status": "200"}), "200 {}");
        check(&json!({"status": "599", "statusDescription": "odd", "body": "text"}), "599 {}");
        check(&with_header("location", &json!([{"key": "Location", "value": "/a"}])), r#"200 {"location": "/a"}"#);
        check(&with_header("x-a", &json!([{"value": "1"}, {"value": "2"}])), r#"200 {"x-a": "1", "x-a": "2"}"#);
        check(&json!({"status": "200", "body": "YQ==", "bodyEncoding": "base64"}), "200 {}");
        check(&json!({"status": "200", "body": "x".repeat(MAX_RESPONSE_SIZE)}), "200 {}");
    }

    #[test]
    fn an_answer_has_its_shape() {
        check(&json!(null), "not a JSON object");
        check(&json!("text"), "not a JSON object");
        assert!(enforce(b"{", &HeaderMap::new()).unwrap_err().to_string().contains("not a JSON object"));
        check(&json!({}), "neither a status");
        check(&json!({"status": null}), "neither a status");
        check(&json!({"status": 302}), "status: invalid type: integer `302`");
        for status in ["199", "600", "abc", "", "-302"] {
            check(&json!({ "status": status }), &format!("\"599\", not {status:?}"));
        }
        for entries in [json!("text"), json!(["text"]), json!([{"key": "x-a"}]), json!([{"value": 1}]), json!(null)] {
            check(&with_header("x-a", &entries), "headers.x-a");
        }
        check(&json!({"status": "200", "bodyEncoding": "gzip"}), "unknown variant `gzip`");
        check(&json!({"status": "200", "body": "*", "bodyEncoding": "base64"}), "not base64");
        let body = "x".repeat(MAX_RESPONSE_SIZE);
        let large = json!({"status": "200", "body": body, "headers": {"a": [{"value": "b"}]}});
        check(&large, &format!("{} bytes", MAX_RESPONSE_SIZE + 2));
        let mut request = request_with("user-agent", "test");
        request["uri"] = json!("a");
        check(&request, "not \"a\"");
        request["uri"] = json!(format!("/{}", "a".repeat(MAX_URL_LENGTH - 4)));
        check(&request, &format!("{MAX_URL_LENGTH} characters; the limit"));
    }

    #[test]
    fn headers_keep_the_rules_in_requests_and_responses() {
        let more = ["x-amz-cf-id", "x-edge-location", "proxy-authenticate", "x-accel-redirect"];
        for name in FORBIDDEN.into_iter().chain(more).chain(["cloudfront-viewer-country"]) {
            check(&with_header(name, &json!([{"value": "1"}])), &format!("{name:?} is forbidden"));
            check(&request_with(name, "1"), &format!("{name:?} is forbidden"));
        }
        for name in READ_ONLY {
            check(&with_header(name, &json!([{"value": "1"}])), &format!("{name:?} is read-only"));
            check(&request_with(name, "1"), &format!("{name:?} is read-only"));
        }
        check(&json!({"uri": "/a"}), "\"host\" is read-only");
        check(&with_header("Location", &json!([{"value": "/"}])), "\"Location\" must be in lower case");
        check(&with_header("x-a", &json!([{"key": "X-B", "value": "1"}])), "the key \"X-B\"");
        check(&with_header("x-a", &json!([{"value": "1\r\nx-b: 2"}])), "HTTP does not allow");
        check(&with_header("x a", &json!([{"value": "1"}])), "HTTP does not allow");
    }
}
