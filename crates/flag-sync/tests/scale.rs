//! 5,000 flags written and read back, with the time and the number of requests. The table is that of `just bench`.

use crate::setup::{source, sync};
use flag_data::items::ItemKind::Flag;
use flag_data::items::{Everything, Stored};
use flag_data::stores::{DynamoDbDataStore, RedisDataStore, Store};
use serde::Serialize;
use standins::samples::{data, flag};
use standins::servers;
use standins::{Aws, LaunchDarkly};
use std::cell::RefCell;
use std::time::Instant;

pub(crate) const FLAGS: usize = 5_000;

/// The cost of a step. A request to Redis is a command; many of them share a round trip.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) what: &'static str,
    pub(crate) seconds: f64,
    pub(crate) requests: usize,
}

async fn environment() -> (LaunchDarkly, Everything) {
    let flags: Vec<_> = (0..FLAGS).map(|n| flag(&format!("flag-{n}"), 1)).collect();
    let data = data(&flags, &[]);
    let stored = data.flags.iter().map(|(key, flag)| (key.clone(), Stored::parse(flag.to_string()))).collect();
    let everything = Everything { flags: stored, ..Everything::default() };
    (LaunchDarkly::start("sdk-test", data).await.unwrap(), everything)
}

async fn measured<T>(what: &'static str, requests: impl Fn() -> usize, work: impl Future<Output = T>) -> (T, Step) {
    let (started, before) = (Instant::now(), requests());
    let result = work.await;
    (result, Step { what, seconds: started.elapsed().as_secs_f64(), requests: requests() - before })
}

async fn written_and_read(store: impl Store, requests: impl Fn() -> usize) -> [Step; 5] {
    let (launchdarkly, everything) = environment().await;
    let source = source(&launchdarkly);
    let (report, first) = measured("first synchronization", &requests, sync(&store, &source)).await;
    assert_eq!(report.unwrap().written, FLAGS);
    let (report, unchanged) = measured("synchronization, nothing changed", &requests, sync(&store, &source)).await;
    assert_eq!(report.unwrap().written, 0);
    launchdarkly.set_flag(&flag("flag-77", 2));
    let (report, one) = measured("synchronization, one flag changed", &requests, sync(&store, &source)).await;
    assert_eq!(report.unwrap().written, 1);
    let (replaced, replace) = measured("replace, as SDKs do", &requests, store.replace(&everything)).await;
    replaced.unwrap();
    let (all, read) = measured("read all", &requests, store.all(Flag)).await;
    assert!(all.unwrap() == everything.flags, "the store returned other data than was written");
    [first, unchanged, one, replace, read]
}

pub(crate) async fn dynamodb() -> [Step; 5] {
    let proxy = Aws::start().await.unwrap();
    let store = DynamoDbDataStore::builder(servers::new_table().await).config(crate::databases::config(&proxy.uri()));
    Box::pin(written_and_read(store.build().unwrap(), || proxy.seen().len())).await
}

pub(crate) async fn redis() -> [Step; 5] {
    let server = servers::start_redis(None);
    let url = format!("redis://127.0.0.1:{}", server.port);
    let store = RedisDataStore::builder(&url).build().unwrap();
    let mut counter = redis::Client::open(url).unwrap().get_connection().unwrap();
    let mut own = 0;
    let commands = RefCell::new(|| {
        let info: String = redis::cmd("INFO").arg("stats").query(&mut counter).unwrap();
        let count = info.lines().find_map(|line| line.strip_prefix("total_commands_processed:")).unwrap();
        // It counts the INFO commands before this one.
        own += 1;
        count.trim().parse::<usize>().unwrap() + 1 - own
    });
    Box::pin(written_and_read(store, || commands.borrow_mut()())).await
}

/// At least this many requests, and few more: marks, and retries on a busy machine.
#[track_caller]
fn check(steps: &[Step], least: [usize; 5]) {
    for (step, least) in steps.iter().zip(least) {
        assert!((least..=least + 20).contains(&step.requests), "{step:?}: expected {least} or a few more");
    }
}

#[tokio::test]
async fn five_thousand_flags_in_dynamodb() {
    // Batches of 25 replace them, pages of 1 MB are read.
    check(&dynamodb().await, [5 + FLAGS, 5, 6, FLAGS / 25, 2]);
}

#[tokio::test]
async fn five_thousand_flags_in_redis() {
    // Each conditional write is a script, whose two commands are counted too.
    check(&redis().await, [9 + 3 * FLAGS, 9, 9 + 3, FLAGS + 5, 1]);
}
