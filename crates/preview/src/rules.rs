//! What Lambda@Edge takes from a viewer-request function. A breach is a 502 for the viewer.
//!
//! <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/edge-function-restrictions-all.html>
//! <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/lambda-generating-http-responses-programming-model.html>

use axum::body::Body;
use data_encoding::BASE64;
use http::{HeaderName, HeaderValue, Response};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The largest generated response of a viewer-request function, headers and body.
const LARGEST_RESPONSE: usize = 40 * 1024;

/// The longest address, path and query string together.
pub(super) const MAX_ADDRESS: usize = 8_192;

/// May be read in a viewer request, but neither changed nor put into a response.
const READ_ONLY: [&str; 4] = ["content-length", "host", "transfer-encoding", "via"];

/// Never seen by a function, and never to be added by one.
const FORBIDDEN: [&str; 9] = [
    "connection",
    "expect",
    "keep-alive",
    "trailer",
    "upgrade",
    "x-cache",
    "x-forwarded-proto",
    "x-real-ip",
    "proxy-connection",
];
const FORBIDDEN_PREFIXES: [&str; 5] = ["cloudfront-viewer-", "proxy-", "x-accel-", "x-amz-cf-", "x-edge-"];

/// Whether a function neither sees nor may set a header.
pub(super) fn is_forbidden(name: &str) -> bool {
    FORBIDDEN.contains(&name) || FORBIDDEN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// What CloudFront makes of a function's answer.
#[derive(Debug)]
pub(super) enum Answer {
    /// It goes on with this path.
    Continue { uri: String },
    /// It sends this to the viewer.
    Respond(Response<Body>),
}

/// The rule that an answer breaks.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub(super) enum Breach {
    #[error("the answer is no JSON object with the fields that CloudFront knows: {0}")]
    NoAnswer(String),
    #[error("the answer has neither a status, as a response must, nor a uri, as a request must")]
    NeitherRequestNorResponse,
    #[error("the status must be text from \"200\" to \"599\", not {0}")]
    Status(String),
    #[error("the uri must be a path that starts with \"/\", not {0:?}")]
    NoPath(String),
    #[error("uri and querystring together have {0} characters; CloudFront takes fewer than {MAX_ADDRESS}")]
    AddressTooLong(usize),
    #[error("the header name {0:?} must be in lower case where it names the list of values")]
    NotLowerCase(String),
    #[error("the header {name:?} must be a list of objects with a text value: {why}")]
    HeaderShape { name: String, why: String },
    #[error("the header {name:?} has a list entry with the key {key:?}, which is another name")]
    OtherKey { name: String, key: String },
    #[error("the header {0:?} has a name or value that HTTP does not allow")]
    NoHeader(String),
    #[error("the header {0:?} is forbidden to Lambda@Edge functions")]
    Forbidden(String),
    #[error("the header {0:?} is read-only in viewer requests")]
    ReadOnly(String),
    #[error("the response has {0} bytes of headers and body; a viewer-request function may generate 40 KB")]
    TooLarge(usize),
    #[error("the bodyEncoding must be \"text\" or \"base64\", not {0:?}")]
    BodyEncoding(String),
    #[error("the body is not base64: {0}")]
    NotBase64(String),
}

#[derive(Deserialize)]
struct Given {
    status: Option<Value>,
    uri: Option<String>,
    #[serde(default)]
    querystring: String,
    #[serde(default)]
    headers: Map<String, Value>,
    #[serde(default)]
    body: Value,
    #[serde(default = "text", rename = "bodyEncoding")]
    body_encoding: String,
}

fn text() -> String {
    "text".to_owned()
}

#[derive(Deserialize)]
struct HeaderEntry {
    key: Option<String>,
    value: String,
}

/// Checks a function's answer to `request`, which is `Records[0].cf.request` of the event.
pub(super) fn enforce(answer: &[u8], request: &Value) -> Result<Answer, Breach> {
    let given: Given = serde_json::from_slice(answer).map_err(|error| Breach::NoAnswer(error.to_string()))?;
    let headers = checked(&given.headers)?;
    match (&given.status, &given.uri) {
        (Some(status), _) => respond(status, &headers, &given),
        (None, Some(uri)) => go_on(uri, &given, request),
        (None, None) => Err(Breach::NeitherRequestNorResponse),
    }
}

/// The headers that have a right shape and are not forbidden.
fn checked(headers: &Map<String, Value>) -> Result<Vec<(HeaderName, HeaderValue)>, Breach> {
    let mut checked = Vec::new();
    for (name, entries) in headers {
        if name.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(Breach::NotLowerCase(name.clone()));
        }
        if is_forbidden(name) {
            return Err(Breach::Forbidden(name.clone()));
        }
        let shape = |error: serde_json::Error| Breach::HeaderShape { name: name.clone(), why: error.to_string() };
        let entries: Vec<HeaderEntry> = serde_json::from_value(entries.clone()).map_err(shape)?;
        for HeaderEntry { key, value } in entries {
            if let Some(key) = key.filter(|key| !key.eq_ignore_ascii_case(name)) {
                return Err(Breach::OtherKey { name: name.clone(), key });
            }
            match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                (Ok(name), Ok(value)) => checked.push((name, value)),
                _ => return Err(Breach::NoHeader(name.clone())),
            }
        }
    }
    Ok(checked)
}

fn respond(status: &Value, headers: &[(HeaderName, HeaderValue)], given: &Given) -> Result<Answer, Breach> {
    let number = status.as_str().and_then(|status| status.parse().ok()).filter(|status| (200..600).contains(status));
    let number: u16 = number.ok_or_else(|| Breach::Status(status.to_string()))?;
    if let Some((name, _)) = headers.iter().find(|(name, _)| READ_ONLY.contains(&name.as_str())) {
        return Err(Breach::ReadOnly(name.to_string()));
    }
    let text = given.body.as_str().unwrap_or_default();
    let size = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>() + text.len();
    if size > LARGEST_RESPONSE {
        return Err(Breach::TooLarge(size));
    }
    let body = match given.body_encoding.as_str() {
        "text" => text.as_bytes().to_vec(),
        "base64" => BASE64.decode(text.as_bytes()).map_err(|error| Breach::NotBase64(error.to_string()))?,
        other => return Err(Breach::BodyEncoding(other.to_owned())),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = http::StatusCode::from_u16(number).map_err(|_| Breach::Status(status.to_string()))?;
    for (name, value) in headers {
        response.headers_mut().append(name, value.clone());
    }
    Ok(Answer::Respond(response))
}

fn go_on(uri: &str, given: &Given, request: &Value) -> Result<Answer, Breach> {
    if !uri.starts_with('/') {
        return Err(Breach::NoPath(uri.to_owned()));
    }
    let length = uri.len() + given.querystring.len();
    if length >= MAX_ADDRESS {
        return Err(Breach::AddressTooLong(length));
    }
    let values = |headers: Option<&Value>| {
        let entries = headers.and_then(Value::as_array).into_iter().flatten();
        entries.map(|entry| entry.get("value").cloned().unwrap_or_default()).collect::<Vec<_>>()
    };
    let sent = request.get("headers");
    for name in READ_ONLY {
        if values(given.headers.get(name)) != values(sent.and_then(|headers| headers.get(name))) {
            return Err(Breach::ReadOnly(name.to_owned()));
        }
    }
    Ok(Answer::Continue { uri: uri.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
    fn check(answer: &Value, expected: Result<&str, Breach>) {
        let outcome = match enforce(answer.to_string().as_bytes(), &sent()) {
            Ok(Answer::Continue { uri }) => Ok(uri),
            Ok(Answer::Respond(response)) => Ok(format!("{} {:?}", response.status().as_u16(), response.headers())),
            Err(breach) => Err(breach),
        };
        assert_eq!(outcome, expected.map(str::to_owned), "{answer}");
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
            let expected =
                if status.is_null() { Breach::NeitherRequestNorResponse } else { Breach::Status(status.to_string()) };
            check(&json!({ "status": status }), Err(expected));
        }
        check(&json!({}), Err(Breach::NeitherRequestNorResponse));
        for answer in ["null", "[]", "\"text\"", "", "{"] {
            assert!(matches!(enforce(answer.as_bytes(), &sent()), Err(Breach::NoAnswer(_))), "{answer}");
        }
    }

    #[test]
    fn forbidden_headers_are_refused_in_requests_and_responses() {
        let names =
            ["connection", "expect", "keep-alive", "proxy-authenticate", "trailer", "upgrade", "x-accel-redirect"];
        let more = ["x-amz-cf-id", "x-cache", "x-edge-location", "x-forwarded-proto", "x-real-ip"];
        for name in names.into_iter().chain(more).chain(["cloudfront-viewer-country"]) {
            check(&with_header(name, &json!([{"value": "1"}])), Err(Breach::Forbidden(name.to_owned())));
            check(&request_with(name, "1"), Err(Breach::Forbidden(name.to_owned())));
        }
    }

    #[test]
    fn read_only_headers_stay_as_they_are() {
        for name in READ_ONLY {
            check(&with_header(name, &json!([{"value": "1"}])), Err(Breach::ReadOnly(name.to_owned())));
            check(&request_with(name, "1"), Err(Breach::ReadOnly(name.to_owned())));
        }
        let mut without_host = sent();
        without_host["headers"] = json!({});
        check(&without_host, Err(Breach::ReadOnly("host".to_owned())));
    }

    #[test]
    fn headers_have_their_shape() {
        check(&with_header("Location", &json!([{"value": "/"}])), Err(Breach::NotLowerCase("Location".to_owned())));
        for entries in [json!("text"), json!(["text"]), json!([{"key": "x-a"}]), json!([{"value": 1}]), json!(null)] {
            let answer = with_header("x-a", &entries);
            let breach = enforce(answer.to_string().as_bytes(), &sent()).unwrap_err();
            assert!(matches!(breach, Breach::HeaderShape { .. }), "{answer}: {breach}");
        }
        let other = Breach::OtherKey { name: "x-a".to_owned(), key: "X-B".to_owned() };
        check(&with_header("x-a", &json!([{"key": "X-B", "value": "1"}])), Err(other));
        check(&with_header("x-a", &json!([{"value": "1\r\nx-b: 2"}])), Err(Breach::NoHeader("x-a".to_owned())));
        check(&with_header("x a", &json!([{"value": "1"}])), Err(Breach::NoHeader("x a".to_owned())));
    }

    #[test]
    fn a_response_has_at_most_40_kb() {
        let body = "x".repeat(LARGEST_RESPONSE);
        check(&json!({"status": "200", "body": body}), Ok("200 {}"));
        let answer = json!({"status": "200", "body": body, "headers": {"a": [{"value": "b"}]}});
        check(&answer, Err(Breach::TooLarge(LARGEST_RESPONSE + 2)));
    }

    #[test]
    fn a_body_has_an_encoding() {
        check(&json!({"status": "200", "body": "YQ==", "bodyEncoding": "base64"}), Ok("200 {}"));
        check(&json!({"status": "200", "bodyEncoding": "gzip"}), Err(Breach::BodyEncoding("gzip".to_owned())));
        let answer = json!({"status": "200", "body": "*", "bodyEncoding": "base64"}).to_string();
        assert!(matches!(enforce(answer.as_bytes(), &sent()), Err(Breach::NotBase64(_))));
    }

    #[test]
    fn a_path_is_a_path() {
        check(&json!({"uri": "a"}), Err(Breach::NoPath("a".to_owned())));
        let mut long = sent();
        long["uri"] = json!(format!("/{}", "a".repeat(MAX_ADDRESS - 4)));
        check(&long, Err(Breach::AddressTooLong(MAX_ADDRESS)));
    }
}
