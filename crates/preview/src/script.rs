//! A CloudFront Function, run by a JavaScript engine as it stands in the template.
//!
//! <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/functions-event-structure.html>

use super::rules::Effect;
use anyhow::{Context as _, Result, anyhow};
use axum::body::Body;
use axum::response::Response;
use http::header::SET_COOKIE;
use rquickjs::{CatchResultExt, Context, Function, Runtime};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// CloudFront gives a function about a millisecond; an unoptimized engine needs longer.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Calls `handler` with the event and returns its result, both as JSON. Only a method gives the query string as it was
/// sent:
/// <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/general-helper-methods.html>
const CALL: &str = "(event, query) => {
    event = JSON.parse(event);
    event.request.rawQueryString = () => query;
    return JSON.stringify(handler(event));
}";

/// Runs the handler that the code defines, in an engine of its own, as CloudFront does: no state stays from one call to
/// the next.
pub(super) fn run(code: &str, event: &Value, query: &str) -> Result<Value> {
    let runtime = Runtime::new()?;
    let started = Instant::now();
    runtime.set_interrupt_handler(Some(Box::new(move || started.elapsed() > TIMEOUT)));
    let answer: String = Context::full(&runtime)?.with(|engine| {
        let call = || {
            engine.eval::<(), _>(code)?;
            engine.eval::<Function<'_>, _>(CALL)?.call((event.to_string(), query))
        };
        call().catch(&engine).map_err(|error| anyhow!("the CloudFront Function failed: {error}"))
    })?;
    Ok(serde_json::from_str(&answer)?)
}

/// A response, or a request.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Answer {
    status_code: Option<u16>,
    uri: Option<String>,
    headers: BTreeMap<String, Field>,
    cookies: BTreeMap<String, Field>,
    body: String,
}

/// A header, or a cookie, which has attributes in a response.
#[derive(Deserialize)]
struct Field {
    value: String,
    #[serde(default)]
    attributes: String,
}

/// What an answer makes CloudFront do, if it is valid.
pub(super) fn effect(answer: Value) -> Result<Effect> {
    let answer: Answer =
        serde_json::from_value(answer).context("the CloudFront Function returned an invalid answer")?;
    let Some(status) = answer.status_code else {
        let uri = answer.uri.filter(|uri| uri.starts_with('/'));
        let uri = uri.context("the CloudFront Function returned neither a response nor a request with a path")?;
        return Ok(Effect::Continue { uri });
    };
    let mut response = Response::builder().status(status);
    for (name, header) in answer.headers {
        response = response.header(name, header.value);
    }
    for (name, Field { value, attributes }) in answer.cookies {
        response = response.header(SET_COOKIE, format!("{name}={value}; {attributes}"));
    }
    Ok(Effect::Respond(response.body(Body::from(answer.body))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_handler_changes_the_request() {
        let code =
            "function handler(event) { var r = event.request; r.uri += 'index.html?' + r.rawQueryString(); return r; }";
        let answer = run(code, &json!({"request": {"uri": "/a/"}}), "b=c").unwrap();
        assert_eq!(answer, json!({"uri": "/a/index.html?b=c"}));
    }

    #[test]
    fn a_fault_in_the_code_is_reported() {
        for (code, expected) in [
            ("function handler(", "missing formal parameter"),
            ("function other() {}", "handler is not defined"),
            ("function handler(event) { return event.response.uri; }", "cannot read property"),
            ("function handler() { while (true) {} }", "interrupted"),
            ("function handler() {}", "undefined"),
        ] {
            let error = run(code, &json!({"request": {}}), "").unwrap_err().to_string();
            assert!(error.starts_with("the CloudFront Function failed: ") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn an_answer_is_a_response_or_a_request() {
        let cookies =
            json!({"a": {"value": "1", "attributes": "Path=/; Secure"}, "b": {"value": "2", "attributes": "Path=/"}});
        let Effect::Respond(response) = effect(json!({"statusCode": 302, "cookies": cookies})).unwrap() else {
            panic!("it is a response");
        };
        let set: Vec<_> = response.headers().get_all(SET_COOKIE).iter().collect();
        assert_eq!(set, ["a=1; Path=/; Secure", "b=2; Path=/"]);
        for invalid in [json!({}), json!({"uri": "a"}), json!({"statusCode": 7}), json!({"statusCode": "200"})] {
            effect(invalid).unwrap_err();
        }
    }
}
