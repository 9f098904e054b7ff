//! The event that CloudFront sends to a viewer-request function, and the answer it takes.
//!
//! Own types, because `aws_lambda_events` has none for CloudFront. The shapes are those of AWS's
//! [event structure](https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/lambda-event-structure.html),
//! but any field may be missing or of another type: AWS's own samples leave out several.

use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// What a Lambda@Edge function can be asked.
#[derive(Debug)]
pub enum Event<'a> {
    /// A viewer request, which is to be decided.
    ViewerRequest(ViewerRequest<'a>),
    /// An event of another kind: its request or response, which goes back as it is.
    Other(&'a RawValue),
}

/// The parts of a viewer request that a decision rests on. What is missing or no text is `None`.
#[derive(Debug)]
pub struct ViewerRequest<'a> {
    /// The whole request as it came, for passing it back byte for byte.
    pub raw: &'a RawValue,
    /// CloudFront's id of the request, which its access logs and the `X-Amz-Cf-Id` header have too.
    pub request_id: Option<Cow<'a, str>>,
    /// The viewer's address, IPv4 or IPv6.
    pub client_ip: Option<Cow<'a, str>>,
    /// The HTTP method.
    pub method: Option<Cow<'a, str>>,
    /// The path, percent-encoded as the viewer sent it.
    pub uri: Option<Cow<'a, str>>,
    /// The query string without `?`.
    pub querystring: Option<Cow<'a, str>>,
}

/// The payload is no CloudFront event; says what is missing.
#[derive(Debug, thiserror::Error)]
#[error("no CloudFront event: {0}")]
pub struct NotCloudFront(String);

#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow, rename = "Records")]
    records: Option<Vec<Record<'a>>>,
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    cf: Option<CloudFront<'a>>,
}

#[derive(Deserialize)]
struct CloudFront<'a> {
    #[serde(borrow)]
    config: Option<&'a RawValue>,
    #[serde(borrow)]
    request: Option<&'a RawValue>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config<'a> {
    #[serde(borrow)]
    event_type: Option<&'a RawValue>,
    #[serde(borrow)]
    request_id: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    #[serde(borrow)]
    client_ip: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a RawValue>,
    #[serde(borrow)]
    uri: Option<&'a RawValue>,
    #[serde(borrow)]
    querystring: Option<&'a RawValue>,
}

impl<'a> Event<'a> {
    /// Reads an event. AWS's samples omit `eventType`: an event with a request and no response is a viewer request.
    ///
    /// # Errors
    /// [`NotCloudFront`] when there is neither a request nor a response to answer with.
    pub fn parse(payload: &'a RawValue) -> Result<Self, NotCloudFront> {
        let missing = |what: &str| NotCloudFront(format!("`{what}` is missing"));
        let payload: Payload = serde_json::from_str(payload.get()).map_err(|error| NotCloudFront(error.to_string()))?;
        let records = payload.records.ok_or_else(|| missing("Records"))?;
        let record = records.into_iter().next().ok_or_else(|| missing("Records[0]"))?;
        let CloudFront { config, request, response } = record.cf.ok_or_else(|| missing("Records[0].cf"))?;

        let config: Config = config.and_then(|config| serde_json::from_str(config.get()).ok()).unwrap_or_default();
        let is_viewer_request = match config.event_type.and_then(text).as_deref() {
            Some(event_type) => event_type == "viewer-request",
            None => response.is_none(),
        };
        match (request, response) {
            (Some(request), _) if is_viewer_request => Ok(Self::ViewerRequest(ViewerRequest::new(&config, request))),
            (_, Some(response)) => Ok(Self::Other(response)),
            (Some(request), None) => Ok(Self::Other(request)),
            (None, None) => Err(missing("Records[0].cf.request")),
        }
    }
}

impl<'a> ViewerRequest<'a> {
    fn new(config: &Config<'a>, raw: &'a RawValue) -> Self {
        let request: Request = serde_json::from_str(raw.get()).unwrap_or_default();
        Self {
            raw,
            request_id: config.request_id.and_then(text),
            client_ip: request.client_ip.and_then(text),
            method: request.method.and_then(text),
            uri: request.uri.and_then(text),
            querystring: request.querystring.and_then(text),
        }
    }
}

/// The text of a JSON string; borrowed unless it has escapes.
fn text(json: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text>(json.get()).ok().map(|text| text.0)
}

/// What the function answers.
#[derive(Debug)]
pub enum Answer<'a> {
    /// The request (or response) of the event, unchanged: CloudFront goes on with it.
    PassThrough(&'a RawValue),
    /// A response made here.
    Redirect(Redirect),
}

/// A redirect to another path of the same host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The HTTP status, 302 or 307.
    pub status: u16,
    /// The path and query for the `Location` header: printable ASCII.
    pub location: String,
}

impl Serialize for Answer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::PassThrough(raw) => raw.serialize(serializer),
            Self::Redirect(redirect) => redirect.serialize(serializer),
        }
    }
}

/// The [generated response](https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/lambda-generating-http-responses-programming-model.html):
/// the status is text, a header name in lower case maps to a list of values. `no-store` keeps browsers from remembering
/// the redirect, so that the flag's next change reaches everyone; CloudFront itself never caches a generated response.
impl Serialize for Redirect {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Headers<'a>(&'a str);
        impl Serialize for Headers<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut headers = serializer.serialize_map(Some(2))?;
                headers.serialize_entry("location", &[Header { key: "Location", value: self.0 }])?;
                headers.serialize_entry("cache-control", &[Header { key: "Cache-Control", value: "no-store" }])?;
                headers.end()
            }
        }
        let mut response = serializer.serialize_struct("Response", 2)?;
        response.serialize_field("status", if self.status == 307 { "307" } else { "302" })?;
        response.serialize_field("headers", &Headers(&self.location))?;
        response.end()
    }
}

#[derive(Serialize)]
struct Header<'a> {
    key: &'a str,
    value: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_error(payload: &str, expected: &str) {
        let payload = RawValue::from_string(payload.to_owned()).unwrap();
        let error = Event::parse(&payload).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} does not name {expected:?}");
    }

    #[test]
    fn an_error_names_what_is_missing() {
        check_error("{}", "`Records`");
        check_error("[]", "expected struct Payload");
        check_error(r#"{"Records":null}"#, "`Records`");
        check_error(r#"{"Records":[]}"#, "`Records[0]`");
        check_error(r#"{"Records":[{}]}"#, "`Records[0].cf`");
        check_error(r#"{"Records":[{"cf":{}}]}"#, "`Records[0].cf.request`");
        check_error("7", "expected struct Payload");
        check_error(r#"{"Records":{}}"#, "expected a sequence");
    }

    #[track_caller]
    fn check_other(payload: &str, expected: &str) {
        let payload = RawValue::from_string(payload.to_owned()).unwrap();
        match Event::parse(&payload).unwrap() {
            Event::Other(raw) => assert_eq!(raw.get(), expected),
            Event::ViewerRequest(request) => panic!("taken for a viewer request: {request:?}"),
        }
    }

    #[test]
    fn an_event_of_another_kind_gives_back_what_it_brought() {
        check_other(r#"{"Records":[{"cf":{"response":{"status": "200"}}}]}"#, r#"{"status": "200"}"#);
        check_other(r#"{"Records":[{"cf":{"request":{},"response":{"a":1e400}}}]}"#, r#"{"a":1e400}"#);
        check_other(
            r#"{"Records":[{"cf":{"config":{"eventType":"origin-request"},"request":{"uri":"/"}}}]}"#,
            r#"{"uri":"/"}"#,
        );
        check_other(
            r#"{"Records":[{"cf":{"config":{"eventType":"origin-response"},"request":{},"response":[]}}]}"#,
            "[]",
        );
    }

    #[test]
    fn fields_that_are_no_text_are_none() {
        let payload = r#"{"Records":[{"cf":{"config":7,"request":{"uri":5,"clientIp":null,"method":["GET"],"querystring":"a\u003db"}}}]}"#;
        let payload = RawValue::from_string(payload.to_owned()).unwrap();
        let Event::ViewerRequest(request) = Event::parse(&payload).unwrap() else { panic!("not a viewer request") };
        assert_eq!(request.uri, None);
        assert_eq!(request.client_ip, None);
        assert_eq!(request.method, None);
        assert_eq!(request.querystring.as_deref(), Some("a=b"));
    }

    #[test]
    fn a_redirect_is_a_response_that_cloudfront_takes() {
        let redirect = Redirect { status: 307, location: "/site/a?b".to_owned() };
        assert_eq!(
            serde_json::to_string(&Answer::Redirect(redirect)).unwrap(),
            r#"{"status":"307","headers":{"location":[{"key":"Location","value":"/site/a?b"}],"cache-control":[{"key":"Cache-Control","value":"no-store"}]}}"#
        );
    }
}
