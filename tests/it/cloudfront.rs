//! The event and the answer on the wire.

use redirect::cloudfront::{Event, Headers};
use redirect::redirect::Redirect;
use serde_json::Value;
use serde_json::value::RawValue;

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

#[track_caller]
fn check_error(payload: &str, expected: &str) {
    let error = Event::parse(&raw(payload)).unwrap_err().to_string();
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
fn check_other(cf: &str, expected: &str) {
    let payload = raw(&format!(r#"{{"Records":[{{"cf":{cf}}}]}}"#));
    match Event::parse(&payload).unwrap() {
        Event::Other(raw) => assert_eq!(raw.get(), expected),
        Event::ViewerRequest(request) => panic!("parsed as a viewer request: {request:?}"),
    }
}

#[test]
fn an_event_of_another_kind_is_returned_unchanged() {
    check_other(r#"{"response":{"status": "200"}}"#, r#"{"status": "200"}"#);
    check_other(r#"{"request":{},"response":{"a":1e400}}"#, r#"{"a":1e400}"#);
    check_other(r#"{"config":{"eventType":"origin-request"},"request":{"uri":"/"}}"#, r#"{"uri":"/"}"#);
    check_other(r#"{"config":{"eventType":"origin-response"},"request":{},"response":[]}"#, "[]");
    check_other(r#"{"config":{"eventType":"origin-request","requestId":"\ud800"},"request":{}}"#, "{}");
}

/// Checks a request's `uri`, `method` and `querystring`, and that it is passed through unchanged.
#[track_caller]
fn check_request(request: &str, expected: [Option<&str>; 3]) {
    let payload = raw(&format!(r#"{{"Records":[{{"cf":{{"config":7,"request": {request} }}}}]}}"#));
    let Event::ViewerRequest(read) = Event::parse(&payload).unwrap() else { panic!("not a viewer request") };
    assert_eq!([read.uri.as_deref(), read.method.as_deref(), read.querystring.as_deref()], expected, "{request}");
    assert_eq!((read.raw.get(), read.client_ip), (request, None));
}

#[test]
fn an_unreadable_field_does_not_affect_the_others() {
    check_request(r#"{"uri":5,"clientIp":null,"method":["GET"],"querystring":"a\u003db"}"#, [None, None, Some("a=b")]);
    check_request(r#"{"uri":1e400,"method":"GET"}"#, [None, Some("GET"), None]);
    check_request(r#"{"uri":"/site/a","querystring":"\ud800","method":"GET"}"#, [Some("/site/a"), Some("GET"), None]);
    check_request(r#"{"uri":"/a","uri":"/b"}"#, [None; 3]);
    check_request("7", [None; 3]);
}

#[test]
fn an_unreadable_header_does_not_affect_the_others() {
    let json = raw(
        r#"{"a":[{"key":"A","value":"1"},{"value":"2"}],"b":[{"key":"B"}],"c":7,"d":[],"e":[{"value":"\ud800"},7,{"value":"1"}],"f":[{"value":"\u0041"}]}"#,
    );
    let headers = Headers::parse(&json);
    for (name, expected) in [("a", vec!["1", "2"]), ("e", vec!["1"]), ("f", vec!["A"])] {
        assert_eq!(headers.values(name), expected);
    }
    for name in ["b", "c", "d", "none"] {
        assert!(headers.values(name).is_empty(), "{name}");
    }
    assert!(Headers::parse(&raw("7")).values("a").is_empty());
}

#[test]
fn a_redirect_is_a_response_that_cloudfront_accepts() {
    let json = |location: &str, cookies: &[&str]| {
        let cookies: Vec<_> = cookies.iter().map(|cookie| (*cookie).to_owned()).collect();
        Redirect::new(307, location.to_owned()).to_json(&cookies).unwrap().get().to_owned()
    };
    let start = r#"{"status":"307","headers":{"location":[{"key":"Location","value":"/site/a?b"}],"cache-control":[{"key":"Cache-Control","value":"no-store"}]"#;
    assert_eq!(json("/site/a?b", &[]), format!("{start}}}}}"));
    let cookies = r#","set-cookie":[{"key":"Set-Cookie","value":"a=b"},{"key":"Set-Cookie","value":"c=d"}]}}"#;
    assert_eq!(json("/site/a?b", &["a=b", "c=d"]), format!("{start}{cookies}"));
    let quoted: Value = serde_json::from_str(&json(r#"/site/a?""#, &[])).unwrap();
    assert_eq!(quoted["headers"]["location"][0]["value"], r#"/site/a?""#);
}
