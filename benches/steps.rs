//! The steps of a decision, each measured separately in this process.

#![allow(missing_docs, clippy::expect_used)] // A bench fails by panicking; criterion's macro documents nothing.

use criterion::{Criterion, criterion_group, criterion_main};
use flag_data::clock::Clock;
use flag_data::sdk_key::SdkKey;
use redirect::cloudfront::Event;
use redirect::flags::{DataState, Flags};
use redirect::redirect::{Paths, Redirect, Signals, Verdict, Visit};
use redirect::settings::Settings;
use redirect::start;
use redirect::visitor::Visitor;
use serde_json::json;
use serde_json::value::RawValue;
use standins::{Data, LaunchDarkly};
use std::hint::black_box;
use std::sync::Arc;
use tokio::runtime::Runtime;

const KEY: &str = "sdk-00000000-1111-4222-8333-444444444444";
const EVENT: &str = include_str!("../events/deep-path-with-query.json");

fn parse(criterion: &mut Criterion) {
    let event = RawValue::from_string(EVENT.to_owned()).expect("a sample event is JSON");
    criterion.bench_function("parse", |bencher| bencher.iter(|| Event::parse(black_box(&event)).is_ok()));
}

fn decide(criterion: &mut Criterion) {
    let paths = Paths::new("/site", "/site/beta");
    criterion.bench_function("decide", |bencher| {
        bencher.iter(|| {
            let (uri, query) = (black_box("/shop/bicycles/city/"), black_box("size=54&color=red"));
            Visit::new(&paths, Some("GET"), Some(uri), Some(query), Signals::default()).answer(Verdict::Beta)
        });
    });
}

fn evaluate(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("tokio starts");
    for (name, targets) in [("evaluate, small flag", 0), ("evaluate, 10,000 targets", 10_000)] {
        let flags = runtime.block_on(flags(targets));
        let _context = runtime.enter();
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| flags.evaluate(&Visitor::of_key(black_box("203.0.113.24")), true).verdict);
        });
    }
}

fn serialize(criterion: &mut Criterion) {
    let redirect = Redirect::new(302, "/site/beta/shop/bicycles/city/index.html?size=54".to_owned());
    criterion.bench_function("serialize", |bencher| bencher.iter(|| black_box(&redirect).to_json(&[]).is_ok()));
}

/// Flags with an environment whose flag has this many individual targets.
async fn flags(targets: usize) -> Flags {
    let viewers: Vec<_> = (0..targets).map(|number| format!("10.0.{}.{}", number / 256, number % 256)).collect();
    let flag = json!({
        "key": "rebrand", "version": 7, "on": true, "prerequisites": [], "rules": [],
        "targets": [{"variation": 1, "values": viewers}],
        "fallthrough": {"rollout": {"variations": [{"variation": 0, "weight": 50_000}, {"variation": 1, "weight": 50_000}]}},
        "offVariation": 1, "variations": [true, false], "salt": "0123456789abcdef",
    });
    let mut data = Data::default();
    data.flags.insert("rebrand".to_owned(), flag);
    let launchdarkly = LaunchDarkly::start(KEY, data).await.expect("a free port");
    let settings = Settings::read(in_redirect_toml, |variable| match variable {
        "LAUNCHDARKLY_BASE_URI" => Some(launchdarkly.uri()),
        "REDIRECT_EVENTS" => Some("off".to_owned()),
        _ => None,
    });
    let settings = Arc::new(settings.expect("redirect.toml is valid"));
    let key = SdkKey::parse(KEY).expect("a key");
    let flags = start::flags(settings, key.as_ref(), Clock::default()).await.expect("the client starts");
    assert_eq!(flags.evaluate(&Visitor::of_key("203.0.113.24"), true).data, DataState::Fresh);
    flags
}

/// The file has one `field = value` per line.
fn in_redirect_toml(field: &str) -> Option<String> {
    let lines = include_str!("../redirect.toml").lines();
    let value = lines.into_iter().find_map(|line| line.strip_prefix(field)?.strip_prefix(" = "));
    value.map(|value| value.trim_matches('"').to_owned())
}

criterion_group!(steps, parse, decide, evaluate, serialize);
criterion_main!(steps);
