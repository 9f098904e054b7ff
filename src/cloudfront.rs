//! The event that CloudFront sends to a viewer-request function, and the answer that it accepts.
//!
//! Own types, because `aws_lambda_events` has none for CloudFront. The shapes are those of AWS's
//! [event structure](https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/lambda-event-structure.html),
//! but any field may be missing or of another type: AWS's own samples leave out several. An unreadable field does
//! not affect the others.

use crate::redirect::Redirect;
use serde::Deserialize;
use serde::de::Error as _;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The event that invokes a Lambda@Edge function.
#[derive(Debug)]
pub enum Event<'a> {
    /// A viewer request, which the function decides.
    ViewerRequest(ViewerRequest<'a>),
    /// An event of another kind: its request or response, which is returned as it is.
    Other(&'a RawValue),
}

/// The parts of a viewer request that a decision rests on. A field that is missing or not a string is `None`.
#[derive(Debug)]
pub struct ViewerRequest<'a> {
    /// The whole request as it arrived, to be passed back byte for byte.
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
    /// The headers as JSON: [`Headers::parse`] reads them if a setting needs them.
    pub headers: Option<&'a RawValue>,
}

/// The headers of a request, by their names in lower case.
#[derive(Debug, Default)]
pub struct Headers<'a>(BTreeMap<Cow<'a, str>, &'a RawValue>);

impl<'a> Headers<'a> {
    /// Reads the names only; values are parsed on demand. Unreadable headers count as none.
    pub fn parse(json: &'a RawValue) -> Self {
        Self(serde_json::from_str(json.get()).unwrap_or_default())
    }

    /// The values of a header, one for each time that it was sent.
    pub fn values(&self, name: &str) -> Vec<Cow<'a, str>> {
        #[derive(Deserialize)]
        struct Header<'a> {
            #[serde(borrow)]
            value: Cow<'a, str>,
        }
        let Some(json) = self.0.get(name) else { return Vec::new() };
        let headers: Vec<&RawValue> = serde_json::from_str(json.get()).unwrap_or_default();
        let headers = headers.into_iter().filter_map(|json| serde_json::from_str(json.get()).ok());
        headers.map(|header: Header<'_>| header.value).collect()
    }
}

#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow, rename = "Records")]
    records: Option<Vec<Record<'a>>>,
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    cf: Option<Parts<'a>>,
}

#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow)]
    config: Option<&'a RawValue>,
    #[serde(borrow)]
    request: Option<&'a RawValue>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
}

/// The fields of `config` and `request` that the function reads, as JSON.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Fields<'a> {
    #[serde(borrow)]
    event_type: Option<&'a RawValue>,
    #[serde(borrow)]
    request_id: Option<&'a RawValue>,
    #[serde(borrow)]
    client_ip: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a RawValue>,
    #[serde(borrow)]
    uri: Option<&'a RawValue>,
    #[serde(borrow)]
    querystring: Option<&'a RawValue>,
    #[serde(borrow)]
    headers: Option<&'a RawValue>,
}

impl<'a> Event<'a> {
    /// Reads an event. AWS's samples omit `eventType`: an event with a request and no response is a viewer request.
    ///
    /// # Errors
    /// A payload that is not a CloudFront event: it has neither a request nor a response to answer with.
    pub fn parse(payload: &'a RawValue) -> serde_json::Result<Self> {
        let payload: Payload<'_> = serde_json::from_str(payload.get())?;
        let records = payload.records.ok_or_else(|| missing("Records"))?;
        let record = records.into_iter().next().ok_or_else(|| missing("Records[0]"))?;
        let Parts { config, request, response } = record.cf.ok_or_else(|| missing("Records[0].cf"))?;
        let config = config.map(fields).unwrap_or_default();
        let is_viewer_request =
            text(config.event_type).map_or(response.is_none(), |event_type| event_type == "viewer-request");
        match (request, response) {
            (Some(raw), _) if is_viewer_request => {
                let request = fields(raw);
                Ok(Self::ViewerRequest(ViewerRequest {
                    raw,
                    request_id: text(config.request_id),
                    client_ip: text(request.client_ip),
                    method: text(request.method),
                    uri: text(request.uri),
                    querystring: text(request.querystring),
                    headers: request.headers,
                }))
            }
            (_, Some(raw)) | (Some(raw), None) => Ok(Self::Other(raw)),
            (None, None) => Err(missing("Records[0].cf.request")),
        }
    }
}

fn missing(what: &str) -> serde_json::Error {
    serde_json::Error::custom(format!("`{what}` is missing"))
}

fn fields(raw: &RawValue) -> Fields<'_> {
    serde_json::from_str(raw.get()).unwrap_or_default()
}

/// The text of a JSON string, borrowed unless it has escapes.
fn text(json: Option<&RawValue>) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    let Text(text) = serde_json::from_str(json?.get()).ok()?;
    Some(text)
}

impl Redirect {
    /// The [generated response](https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/lambda-generating-http-responses-programming-model.html):
    /// the status is text, a header name in lower case maps to a list of values. `no-store` keeps browsers from
    /// remembering the redirect, so that the flag's next change reaches everyone; CloudFront itself never caches a
    /// generated response.
    ///
    /// # Errors
    /// None: text is always JSON.
    pub fn to_json(&self, cookies: &[String]) -> serde_json::Result<Box<RawValue>> {
        // Only a few values vary. A serializer would take several times as long.
        let status = self.status.to_string();
        let location = serde_json::to_string(&self.location)?;
        let mut set_cookie = String::new();
        for cookie in cookies {
            set_cookie += if set_cookie.is_empty() { r#","set-cookie":["# } else { "," };
            set_cookie += r#"{"key":"Set-Cookie","value":"#;
            set_cookie += &serde_json::to_string(cookie)?;
            set_cookie.push('}');
        }
        if !set_cookie.is_empty() {
            set_cookie.push(']');
        }
        let parts = [
            r#"{"status":""#,
            &status,
            r#"","headers":{"location":[{"key":"Location","value":"#,
            &location,
            r#"}],"cache-control":[{"key":"Cache-Control","value":"no-store"}]"#,
            &set_cookie,
            "}}",
        ];
        RawValue::from_string(parts.concat())
    }
}
