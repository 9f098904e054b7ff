//! The event that CloudFront sends to a viewer-request function, and the answer it takes.
//!
//! Own types, because `aws_lambda_events` has none for CloudFront. The shapes are those of AWS's
//! [event structure](https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/lambda-event-structure.html),
//! but any field may be missing or of another type: AWS's own samples leave out several.

use crate::redirect::Redirect;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

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
    payload: &'a RawValue,
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

/// The payload, with whatever stands for a configuration, a request and a response.
#[derive(serde::Deserialize)]
struct Payload<C, R, S> {
    #[serde(rename = "Records")]
    records: Option<Vec<Record<C, R, S>>>,
}

#[derive(serde::Deserialize)]
struct Record<C, R, S> {
    cf: Option<CloudFront<C, R, S>>,
}

#[derive(serde::Deserialize)]
struct CloudFront<C, R, S> {
    config: Option<C>,
    request: Option<R>,
    response: Option<S>,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config<T> {
    #[serde(default)]
    event_type: T,
    #[serde(default)]
    request_id: T,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<T> {
    #[serde(default)]
    client_ip: T,
    #[serde(default)]
    method: T,
    #[serde(default)]
    uri: T,
    #[serde(default)]
    querystring: T,
}

impl<'a> Event<'a> {
    /// Reads an event. AWS's samples omit `eventType`: an event with a request and no response is a viewer request.
    ///
    /// # Errors
    /// [`NotCloudFront`] when there is neither a request nor a response to answer with.
    pub fn parse(payload: &'a RawValue) -> Result<Self, NotCloudFront> {
        // Nearly every event is a viewer request as documented, which is read in one go.
        if let Ok(CloudFront { config, request: Some(request), response }) =
            record::<Config<Text>, Request<Text>, IgnoredAny>(payload)
        {
            let config = config.unwrap_or_default();
            if config.is_of_viewer_request(response.is_none()) {
                return Ok(Self::ViewerRequest(ViewerRequest::new(payload, config, request)));
            }
        }
        let CloudFront { config, request, response } = record::<&RawValue, &RawValue, &RawValue>(payload)?;
        let config = config.map(Config::each_for_itself).unwrap_or_default();
        match (request, response) {
            (Some(request), _) if config.is_of_viewer_request(response.is_none()) => {
                Ok(Self::ViewerRequest(ViewerRequest::new(payload, config, Request::each_for_itself(request))))
            }
            (_, Some(response)) => Ok(Self::Other(response)),
            (Some(request), None) => Ok(Self::Other(request)),
            (None, None) => Err(missing("Records[0].cf.request")),
        }
    }
}

/// The first record of an event, which is the only one.
fn record<'a, C, R, S>(payload: &'a RawValue) -> Result<CloudFront<C, R, S>, NotCloudFront>
where
    C: Deserialize<'a>,
    R: Deserialize<'a>,
    S: Deserialize<'a>,
{
    let payload: Payload<C, R, S> =
        serde_json::from_str(payload.get()).map_err(|error| NotCloudFront(error.to_string()))?;
    let records = payload.records.ok_or_else(|| missing("Records"))?;
    let record = records.into_iter().next().ok_or_else(|| missing("Records[0]"))?;
    record.cf.ok_or_else(|| missing("Records[0].cf"))
}

fn missing(what: &str) -> NotCloudFront {
    NotCloudFront(format!("`{what}` is missing"))
}

impl<'a> Config<Text<'a>> {
    /// A field that cannot be read spoils no other.
    fn each_for_itself(raw: &'a RawValue) -> Self {
        let fields: Config<Option<&RawValue>> = serde_json::from_str(raw.get()).unwrap_or_default();
        Self { event_type: Text::of(fields.event_type), request_id: Text::of(fields.request_id) }
    }

    fn is_of_viewer_request(&self, has_no_response: bool) -> bool {
        self.event_type.0.as_ref().map_or(has_no_response, |event_type| event_type == "viewer-request")
    }
}

impl<'a> Request<Text<'a>> {
    /// A field that cannot be read spoils no other.
    fn each_for_itself(raw: &'a RawValue) -> Self {
        let fields: Request<Option<&RawValue>> = serde_json::from_str(raw.get()).unwrap_or_default();
        Self {
            client_ip: Text::of(fields.client_ip),
            method: Text::of(fields.method),
            uri: Text::of(fields.uri),
            querystring: Text::of(fields.querystring),
        }
    }
}

impl<'a> ViewerRequest<'a> {
    fn new(payload: &'a RawValue, config: Config<Text<'a>>, request: Request<Text<'a>>) -> Self {
        Self {
            payload,
            request_id: config.request_id.0,
            client_ip: request.client_ip.0,
            method: request.method.0,
            uri: request.uri.0,
            querystring: request.querystring.0,
        }
    }

    /// The whole request as it came, for passing it back byte for byte.
    ///
    /// # Errors
    /// None for a request that [`Event::parse`] found.
    pub fn raw(&self) -> Result<&'a RawValue, NotCloudFront> {
        let found = record::<IgnoredAny, &RawValue, IgnoredAny>(self.payload)?;
        found.request.ok_or_else(|| missing("Records[0].cf.request"))
    }
}

/// The text of a JSON string, borrowed unless it has escapes; `None` for any other value.
#[derive(Default)]
struct Text<'a>(Option<Cow<'a, str>>);

impl<'a> Text<'a> {
    fn of(json: Option<&'a RawValue>) -> Self {
        json.and_then(|json| serde_json::from_str(json.get()).ok()).unwrap_or_default()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor).map(Self)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, values: A) -> Result<Self::Value, A::Error> {
        IgnoredAny.visit_seq(values).map(|_| None)
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Self::Value, A::Error> {
        IgnoredAny.visit_map(entries).map(|_| None)
    }
}

/// What the function answers.
#[derive(Debug)]
pub enum Answer<'a> {
    /// The request (or response) of the event, unchanged: CloudFront goes on with it.
    PassThrough(&'a RawValue),
    /// A response made here.
    Redirect(Redirect),
}

impl Answer<'_> {
    /// The answer as Lambda takes it.
    ///
    /// # Errors
    /// None: text is always JSON.
    pub fn to_json(&self) -> serde_json::Result<Box<RawValue>> {
        match self {
            Self::PassThrough(raw) => Ok((*raw).to_owned()),
            Self::Redirect(redirect) => redirect.to_json(),
        }
    }
}

impl Redirect {
    /// The [generated response](https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/lambda-generating-http-responses-programming-model.html):
    /// the status is text, a header name in lower case maps to a list of values. `no-store` keeps browsers from
    /// remembering the redirect, so that the flag's next change reaches everyone; CloudFront itself never caches a
    /// generated response.
    fn to_json(&self) -> serde_json::Result<Box<RawValue>> {
        // Only two values differ from answer to answer: a serialiser would take several times as long.
        let status = if self.status == 307 { "307" } else { "302" };
        let location = serde_json::to_string(&self.location)?;
        let parts = [
            r#"{"status":""#,
            status,
            r#"","headers":{"location":[{"key":"Location","value":"#,
            &location,
            r#"}],"cache-control":[{"key":"Cache-Control","value":"no-store"}]}}"#,
        ];
        RawValue::from_string(parts.concat())
    }
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
    fn a_field_that_cannot_be_read_spoils_no_other_and_the_request_goes_back_as_it_is() {
        for (raw, uri, method) in [
            (r#"{"uri":1e400,"method":"GET"}"#, None, Some("GET")),
            (r#"{"uri":"/site/a","querystring":"\ud800","method":"GET"}"#, Some("/site/a"), Some("GET")),
            (r#"{"uri":"/a","uri":"/b"}"#, None, None),
            ("7", None, None),
        ] {
            let payload = format!(r#"{{"Records":[{{"cf":{{"request": {raw} }}}}]}}"#);
            let payload = RawValue::from_string(payload).unwrap();
            let Event::ViewerRequest(request) = Event::parse(&payload).unwrap() else { panic!("not a viewer request") };
            assert_eq!((request.uri.as_deref(), request.method.as_deref()), (uri, method));
            assert_eq!(request.raw().unwrap().get(), raw);
        }
        check_other(
            r#"{"Records":[{"cf":{"config":{"eventType":"origin-request","requestId":"\ud800"},"request":{"uri":"/"}}}]}"#,
            r#"{"uri":"/"}"#,
        );
    }

    #[test]
    fn a_location_with_quotes_is_a_valid_answer() {
        let answer = Answer::Redirect(Redirect { status: 302, location: r#"/site/a?""#.to_owned() }).to_json().unwrap();
        let answer: serde_json::Value = serde_json::from_str(answer.get()).unwrap();
        assert_eq!(answer["headers"]["location"][0]["value"], r#"/site/a?""#);
    }

    #[test]
    fn a_redirect_is_a_response_that_cloudfront_takes() {
        let redirect = Redirect { status: 307, location: "/site/a?b".to_owned() };
        assert_eq!(
            Answer::Redirect(redirect).to_json().unwrap().get(),
            r#"{"status":"307","headers":{"location":[{"key":"Location","value":"/site/a?b"}],"cache-control":[{"key":"Cache-Control","value":"no-store"}]}}"#
        );
    }
}
