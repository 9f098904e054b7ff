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
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    status: Option<String>,
    uri: Option<String>,
    #[serde(default)]
    querystring: String,
    #[serde(default)]
    headers: BTreeMap<String, Vec<HeaderEntry>>,
    #[serde(default)]
    body: String,
    #[serde(default)]
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
            let size = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
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

    /// The answer that lets a request pass, with some fields changed.
    fn request(changes: &Value) -> Value {
        let mut request = json!({
            "clientIp": "192.0.2.1", "method": "GET", "uri": "/a", "querystring": "b=c",
            "headers": {"host": [{"key": "host", "value": "example.com"}]},
        });
        request.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        request
    }

    /// The request with one header more, or changed.
    fn request_with(name: &str, value: &str) -> Value {
        let mut request = request(&json!({}));
        request["headers"][name] = json!([{"key": name, "value": value}]);
        request
    }

    /// A response with one header.
    fn with_header(name: &str, entries: &Value) -> Value {
        json!({"status": "200", "headers": {name: entries}})
    }

    fn outcome(answer: &str) -> Result<String> {
        let sent = HeaderMap::from_iter(
            [("host", "example.com"), ("user-agent", "test")]
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))),
        );
        Ok(match enforce(answer.as_bytes(), &sent)? {
            Effect::Continue { uri } => uri,
            Effect::Respond(response) => format!("{} {:?}", response.status().as_u16(), response.headers()),
        })
    }

    #[track_caller]
    fn check(answer: &Value, expected: &str) {
        assert_eq!(outcome(&answer.to_string()).unwrap(), expected, "{answer}");
    }

    #[track_caller]
    fn check_refused(answer: &Value, expected: &str) {
        let error = format!("{:#}", outcome(&answer.to_string()).unwrap_err());
        assert!(error.contains(expected), "{answer}: {error}");
    }

    #[test]
    fn what_is_allowed_goes_through() {
        check(&request(&json!({})), "/a");
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
        for answer in ["null", "\"text\"", "", "{"] {
            let error = outcome(answer).unwrap_err().to_string();
            assert!(error.contains("not a JSON object"), "{answer}: {error}");
        }
        check_refused(&json!({}), "neither a status");
        check_refused(&json!({"status": null}), "neither a status");
        check_refused(&json!({"status": 302}), "status: invalid type: integer `302`");
        for status in ["199", "600", "abc", "", "-302"] {
            check_refused(&json!({ "status": status }), &format!("\"599\", not {status:?}"));
        }
        for entries in [json!("text"), json!(["text"]), json!([{"key": "x-a"}]), json!([{"value": 1}]), json!(null)] {
            check_refused(&with_header("x-a", &entries), "headers.x-a");
        }
        check_refused(&json!({"status": "200", "bodyEncoding": "gzip"}), "unknown variant `gzip`");
        check_refused(&json!({"status": "200", "body": "*", "bodyEncoding": "base64"}), "not base64");
        let body = "x".repeat(MAX_RESPONSE_SIZE);
        let large = json!({"status": "200", "body": body, "headers": {"a": [{"value": "b"}]}});
        check_refused(&large, &format!("{} bytes", MAX_RESPONSE_SIZE + 2));
        check_refused(&request(&json!({"uri": "a"})), "not \"a\"");
        let long = format!("/{}", "a".repeat(MAX_URL_LENGTH - 4));
        check_refused(&request(&json!({ "uri": long })), &format!("{MAX_URL_LENGTH} characters; the limit"));
    }

    #[test]
    fn headers_keep_the_rules_in_requests_and_responses() {
        let names = ["x-amz-cf-id", "x-edge-location", "proxy-authenticate", "x-accel-redirect"];
        for name in FORBIDDEN.into_iter().chain(names).chain(["cloudfront-viewer-country"]) {
            let expected = format!("{name:?} is forbidden");
            check_refused(&with_header(name, &json!([{"value": "1"}])), &expected);
            check_refused(&request_with(name, "1"), &expected);
        }
        for name in READ_ONLY {
            let expected = format!("{name:?} is read-only");
            check_refused(&with_header(name, &json!([{"value": "1"}])), &expected);
            check_refused(&request_with(name, "1"), &expected);
        }
        check_refused(&request(&json!({"headers": {}})), "\"host\" is read-only");
        check_refused(&with_header("Location", &json!([{"value": "/"}])), "\"Location\" must be in lower case");
        check_refused(&with_header("x-a", &json!([{"key": "X-B", "value": "1"}])), "the key \"X-B\"");
        check_refused(&with_header("x-a", &json!([{"value": "1\r\nx-b: 2"}])), "HTTP does not allow");
        check_refused(&with_header("x a", &json!([{"value": "1"}])), "HTTP does not allow");
    }
}
