//! Any bytes as an event get a valid answer or a clear error, never a panic, never a redirect out of the site.

#![no_main]
#![allow(dead_code)]

#[path = "../../src/cloudfront.rs"]
mod cloudfront;
#[path = "../../src/redirect.rs"]
mod redirect;

use cloudfront::{Event, Headers, ViewerRequest};
use libfuzzer_sys::fuzz_target;
use redirect::{Paths, Signals, Verdict, Visit};
use serde_json::value::RawValue;

fuzz_target!(|bytes: &[u8]| {
    let Ok(payload) = serde_json::from_slice::<&RawValue>(bytes) else { return };
    let request = match Event::parse(payload) {
        Ok(Event::ViewerRequest(request)) => request,
        Ok(Event::Other(raw)) => {
            assert!(payload.get().contains(raw.get()));
            return;
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    if let Some(headers) = request.headers.map(Headers::parse) {
        headers.values("cookie");
    }
    for (current, beta) in [("/site", "/site/beta"), ("/", "/beta")] {
        check(payload, &request, &Paths::new(current, beta));
    }
});

fn check(payload: &RawValue, request: &ViewerRequest<'_>, paths: &Paths) {
    let (method, uri, query) = (&request.method, &request.uri, &request.querystring);
    let visit = Visit::new(paths, method.as_deref(), uri.as_deref(), query.as_deref(), Signals::default());
    for verdict in [Verdict::Current, Verdict::Beta, Verdict::NoData] {
        let Some(redirect) = visit.answer(verdict) else {
            assert!(payload.get().contains(request.raw.get()));
            // A value that is only skipped may be invalid JSON. A list in place of an object is read by position.
            let read: serde_json::Value = serde_json::from_str(payload.get()).unwrap_or_default();
            if let Some(cf) = read["Records"][0]["cf"].as_object() {
                let passed: serde_json::Value = serde_json::from_str(request.raw.get()).expect("a part of valid JSON");
                assert_eq!(passed, cf["request"]);
            }
            continue;
        };
        let location = redirect.location.clone();
        let is_below_a_site = location.starts_with("/site/") || (paths.is_root() && !location.starts_with("//"));
        assert!(is_below_a_site && location.starts_with('/'), "{location}");
        assert!(location.bytes().all(|byte| byte.is_ascii_graphic()), "{location}");
        assert!(location.len() < 8_192);
        let (path, query) = location.split_once('?').unwrap_or((&location, ""));
        let dots = |segment: &str| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
        assert!(!path.contains('\\') && !path.split('/').any(dots), "{path}");
        let next = Visit::new(paths, Some("GET"), Some(path), Some(query), Signals::default());
        assert_eq!(next.answer(verdict), None, "{location}");
        let answer = redirect.to_json(&[]).expect("an answer is JSON");
        let answer: serde_json::Value = serde_json::from_str(answer.get()).expect("the answer is valid JSON");
        assert_eq!(answer["headers"]["location"][0]["value"], location.as_str());
    }
}
