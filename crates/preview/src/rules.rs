//! What Lambda@Edge accepts from a viewer-request function. A breach is a 502 for the viewer.
//!
//! <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/edge-function-restrictions-all.html>
//! <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/lambda-generating-http-responses-programming-model.html>

use axum::body::Body;
use data_encoding::BASE64;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};

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
    Respond(Response<Body>),
}

/// The rule that an answer breaks.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Breach(String);

#[derive(Deserialize)]
struct FunctionAnswer {
    status: Option<Value>,
    uri: Option<String>,
    #[serde(default)]
    querystring: String,
    #[serde(default)]
    headers: Map<String, Value>,
    #[serde(default)]
    body: Value,
    #[serde(rename = "bodyEncoding")]
    body_encoding: Option<String>,
}

#[derive(Deserialize)]
struct HeaderEntry {
    key: Option<String>,
    value: String,
}

fn breach<T>(rule: String) -> Result<T, Breach> {
    Err(Breach(rule))
}

/// Checks a function's answer to `request`, which is `Records[0].cf.request` of the event.
pub(super) fn enforce(answer: &[u8], request: &Value) -> Result<Effect, Breach> {
    let answer: FunctionAnswer = serde_json::from_slice(answer).map_err(|error| {
        Breach(format!("the answer is not a JSON object with the fields that CloudFront knows: {error}"))
    })?;
    let headers = checked(&answer.headers)?;
    match (&answer.status, &answer.uri) {
        (Some(status), _) => respond(status, headers, &answer),
        (None, Some(uri)) => proceed(uri, &answer, request),
        (None, None) => {
            breach("the answer has neither a status, as a response must, nor a uri, as a request must".to_owned())
        }
    }
}

/// The headers, if they have the right shape and none is forbidden.
fn checked(headers: &Map<String, Value>) -> Result<HeaderMap, Breach> {
    let mut checked = HeaderMap::new();
    for (name, entries) in headers {
        if name.chars().any(|c| c.is_ascii_uppercase()) {
            return breach(format!("the header name {name:?} must be in lower case where it names the list of values"));
        }
        if is_forbidden(name) {
            return breach(format!("the header {name:?} is forbidden to Lambda@Edge functions"));
        }
        let entries: Vec<HeaderEntry> = serde_json::from_value(entries.clone()).map_err(|error| {
            Breach(format!("the header {name:?} must be a list of objects with a text value: {error}"))
        })?;
        for HeaderEntry { key, value } in entries {
            if let Some(key) = key.filter(|key| !key.eq_ignore_ascii_case(name)) {
                return breach(format!(
                    "the header {name:?} has a list entry with the key {key:?}, which is another name"
                ));
            }
            let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else {
                return breach(format!("the header {name:?} has a name or value that HTTP does not allow"));
            };
            checked.append(name, value);
        }
    }
    Ok(checked)
}

fn respond(status: &Value, headers: HeaderMap, answer: &FunctionAnswer) -> Result<Effect, Breach> {
    let code = status.as_str().and_then(|status| status.parse().ok()).filter(|code| (200..600).contains(code));
    let Some(code) = code.and_then(|code: u16| StatusCode::from_u16(code).ok()) else {
        return breach(format!("the status must be text from \"200\" to \"599\", not {status}"));
    };
    if let Some(name) = READ_ONLY.iter().find(|name| headers.contains_key(**name)) {
        return read_only(name);
    }
    let text = answer.body.as_str().unwrap_or_default();
    let size = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>() + text.len();
    if size > MAX_RESPONSE_SIZE {
        return breach(format!(
            "the response has {size} bytes of headers and body; a viewer-request function may generate 40 KB"
        ));
    }
    let body = match answer.body_encoding.as_deref() {
        None | Some("text") => text.as_bytes().to_vec(),
        Some("base64") => {
            BASE64.decode(text.as_bytes()).map_err(|error| Breach(format!("the body is not base64: {error}")))?
        }
        Some(other) => return breach(format!("the bodyEncoding must be \"text\" or \"base64\", not {other:?}")),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = code;
    *response.headers_mut() = headers;
    Ok(Effect::Respond(response))
}

fn proceed(uri: &str, answer: &FunctionAnswer, request: &Value) -> Result<Effect, Breach> {
    if !uri.starts_with('/') {
        return breach(format!("the uri must be a path that starts with \"/\", not {uri:?}"));
    }
    let length = uri.len() + answer.querystring.len();
    if length >= MAX_URL_LENGTH {
        return breach(format!("uri and querystring together have {length} characters; the limit is {MAX_URL_LENGTH}"));
    }
    let values = |entries: Option<&Value>| {
        let entries = entries.and_then(Value::as_array).into_iter().flatten();
        entries.map(|entry| entry.get("value").cloned().unwrap_or_default()).collect::<Vec<_>>()
    };
    let sent = request.get("headers");
    match READ_ONLY
        .iter()
        .find(|name| values(answer.headers.get(**name)) != values(sent.and_then(|headers| headers.get(**name))))
    {
        Some(name) => read_only(name),
        None => Ok(Effect::Continue { uri: uri.to_owned() }),
    }
}

fn read_only<T>(name: &str) -> Result<T, Breach> {
    breach(format!("the header {name:?} is read-only in viewer requests"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NEITHER: &str = "neither a status";

    fn sent() -> Value {
        json!({
            "clientIp": "192.0.2.1", "method": "GET", "uri": "/a", "querystring": "b=c",
            "headers": {
                "host": [{"key": "host", "value": "example.com"}],
                "user-agent": [{"key": "user-agent", "value": "test"}],
            },
        })
    }

    #[track_caller]
    fn check(answer: &Value, expected: Result<&str, &str>) {
        let outcome = match enforce(answer.to_string().as_bytes(), &sent()) {
            Ok(Effect::Continue { uri }) => Ok(uri),
            Ok(Effect::Respond(response)) => Ok(format!("{} {:?}", response.status().as_u16(), response.headers())),
            Err(Breach(rule)) => Err(rule),
        };
        match (outcome, expected) {
            (Err(rule), Err(expected)) => assert!(rule.contains(expected), "{answer}: {rule}"),
            (outcome, expected) => {
                assert_eq!(outcome, expected.map(str::to_owned).map_err(str::to_owned), "{answer}");
            }
        }
    }

    /// A response with one header more.
    fn with_header(name: &str, entries: &Value) -> Value {
        json!({"status": "200", "headers": {name: entries}})
    }

    /// A request with one header changed.
    fn request_with(name: &str, value: &str) -> Value {
        let mut request = sent();
        request["headers"][name] = json!([{"key": name, "value": value}]);
        request
    }

    #[test]
    fn what_is_allowed_goes_through() {
        check(&sent(), Ok("/a"));
        check(&request_with("x-of-ours", "1"), Ok("/a"));
        check(&request_with("user-agent", "other"), Ok("/a"));
        check(&json!({"status": "200"}), Ok("200 {}"));
        check(&json!({"status": "599", "statusDescription": "odd", "body": "text"}), Ok("599 {}"));
        check(
            &json!({"status": "302", "headers": {"location": [{"key": "Location", "value": "/site/"}]}}),
            Ok(r#"302 {"location": "/site/"}"#),
        );
        check(&with_header("x-a", &json!([{"value": "1"}, {"value": "2"}])), Ok(r#"200 {"x-a": "1", "x-a": "2"}"#));
    }

    #[test]
    fn a_status_is_text_in_its_range() {
        for status in [json!("199"), json!("600"), json!("abc"), json!(""), json!(302), json!(null), json!("-302")] {
            let expected = if status.is_null() { NEITHER.to_owned() } else { format!("\"599\", not {status}") };
            check(&json!({ "status": status }), Err(&expected));
        }
        check(&json!({}), Err(NEITHER));
        for answer in ["null", "[]", "\"text\"", "", "{"] {
            let Breach(rule) = enforce(answer.as_bytes(), &sent()).unwrap_err();
            assert!(rule.contains("not a JSON object"), "{answer}: {rule}");
        }
    }

    #[test]
    fn forbidden_headers_are_refused_in_requests_and_responses() {
        let names =
            ["connection", "expect", "keep-alive", "proxy-authenticate", "trailer", "upgrade", "x-accel-redirect"];
        let more = ["x-amz-cf-id", "x-cache", "x-edge-location", "x-forwarded-proto", "x-real-ip"];
        for name in names.into_iter().chain(more).chain(["cloudfront-viewer-country"]) {
            let expected = format!("{name:?} is forbidden");
            check(&with_header(name, &json!([{"value": "1"}])), Err(&expected));
            check(&request_with(name, "1"), Err(&expected));
        }
    }

    #[test]
    fn read_only_headers_stay_as_they_are() {
        for name in READ_ONLY {
            let expected = format!("{name:?} is read-only");
            check(&with_header(name, &json!([{"value": "1"}])), Err(&expected));
            check(&request_with(name, "1"), Err(&expected));
        }
        let mut without_host = sent();
        without_host["headers"] = json!({});
        check(&without_host, Err("\"host\" is read-only"));
    }

    #[test]
    fn headers_have_their_shape() {
        check(&with_header("Location", &json!([{"value": "/"}])), Err("\"Location\" must be in lower case"));
        for entries in [json!("text"), json!(["text"]), json!([{"key": "x-a"}]), json!([{"value": 1}]), json!(null)] {
            check(&with_header("x-a", &entries), Err("\"x-a\" must be a list of objects"));
        }
        check(
            &with_header("x-a", &json!([{"key": "X-B", "value": "1"}])),
            Err("\"x-a\" has a list entry with the key \"X-B\""),
        );
        check(&with_header("x-a", &json!([{"value": "1\r\nx-b: 2"}])), Err("HTTP does not allow"));
        check(&with_header("x a", &json!([{"value": "1"}])), Err("HTTP does not allow"));
    }

    #[test]
    fn a_response_has_at_most_40_kb() {
        let body = "x".repeat(MAX_RESPONSE_SIZE);
        check(&json!({"status": "200", "body": body}), Ok("200 {}"));
        let answer = json!({"status": "200", "body": body, "headers": {"a": [{"value": "b"}]}});
        check(&answer, Err(&format!("{} bytes", MAX_RESPONSE_SIZE + 2)));
    }

    #[test]
    fn a_body_has_an_encoding() {
        check(&json!({"status": "200", "body": "YQ==", "bodyEncoding": "base64"}), Ok("200 {}"));
        check(&json!({"status": "200", "bodyEncoding": "gzip"}), Err("not \"gzip\""));
        check(&json!({"status": "200", "body": "*", "bodyEncoding": "base64"}), Err("not base64"));
    }

    #[test]
    fn a_path_is_a_path() {
        check(&json!({"uri": "a"}), Err("not \"a\""));
        let mut long = sent();
        long["uri"] = json!(format!("/{}", "a".repeat(MAX_URL_LENGTH - 4)));
        check(&long, Err(&format!("{MAX_URL_LENGTH} characters; the limit")));
    }
}
