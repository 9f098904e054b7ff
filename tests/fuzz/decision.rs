//! Any bytes as an event: a valid answer or a clear error, never a panic, never a way out of the site.

#![no_main]
#![allow(dead_code)]

#[path = "../../src/cloudfront.rs"]
mod cloudfront;
#[path = "../../src/redirect.rs"]
mod redirect;

use cloudfront::{Answer, Event};
use libfuzzer_sys::fuzz_target;
use redirect::{Verdict, Visit};
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
            assert!(error.to_string().starts_with("not a CloudFront event: "));
            return;
        }
    };
    let visit = Visit::new(request.method.as_deref(), request.uri.as_deref(), request.querystring.as_deref());
    for verdict in [Verdict::Current, Verdict::Beta, Verdict::NoData] {
        let Some(redirect) = visit.answer(verdict) else {
            let raw = request.raw;
            // A value that is no more than skipped may be one that cannot be read.
            if let Ok(read) = serde_json::from_str::<serde_json::Value>(payload.get()) {
                let passed: serde_json::Value = serde_json::from_str(raw.get()).expect("a part of what was read");
                assert_eq!(passed, read["Records"][0]["cf"]["request"]);
            }
            continue;
        };
        let location = redirect.location.clone();
        assert!(location.starts_with("/site/"), "{location}");
        assert!(location.bytes().all(|byte| byte.is_ascii_graphic()), "{location}");
        assert!(location.len() < 8_192);
        let (path, query) = location.split_once('?').unwrap_or((&location, ""));
        let dots = |segment: &str| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
        assert!(!path.contains('\\') && !path.split('/').any(dots), "{path}");
        assert_eq!(Visit::new(Some("GET"), Some(path), Some(query)).answer(verdict), None, "{location}");
        let answer = Answer::Redirect(redirect).to_json().expect("an answer is JSON");
        let answer: serde_json::Value = serde_json::from_str(answer.get()).expect("it can be read again");
        assert_eq!(answer["headers"]["location"][0]["value"], location.as_str());
    }
});
