//! 5,000 flags written and read back, with the time and the number of requests.

use crate::data::{data, flag};
use crate::servers;
use crate::sync::{source, sync};
use redirect::sources::ItemKind::Flag;
use redirect::standins::{DynamoDbProxy, LaunchDarkly};
use redirect::stores::{DynamoDbDataStore, Everything, RedisDataStore, Store, Stored};
use std::cell::RefCell;
use std::time::{Duration, Instant};

const FLAGS: usize = 5_000;

async fn environment() -> (LaunchDarkly, Everything) {
    let flags: Vec<_> = (0..FLAGS).map(|n| flag(&format!("flag-{n}"), 1)).collect();
    let data = data(&flags, &[]);
    let stored = data.flags.iter().map(|(key, flag)| (key.clone(), Stored::parse(flag.to_string()))).collect();
    let everything = Everything { flags: stored, ..Everything::default() };
    (LaunchDarkly::start("sdk-test", data).await.unwrap(), everything)
}

async fn measured<T>(what: &str, requests: impl Fn() -> usize, work: impl Future<Output = T>) -> (T, Duration) {
    let (started, before) = (Instant::now(), requests());
    let result = work.await;
    let took = started.elapsed();
    println!("{what:<45} {:>7.2} s {:>6} requests or commands", took.as_secs_f64(), requests() - before);
    (result, took)
}

async fn written_and_read(name: &str, store: impl Store, requests: impl Fn() -> usize) {
    let (launchdarkly, everything) = environment().await;
    let source = source(&launchdarkly);
    let (report, _) = measured(&format!("{name}: first sync"), &requests, sync(&store, &source)).await;
    assert_eq!(report.unwrap().written, FLAGS);
    let (report, unchanged) =
        measured(&format!("{name}: sync, nothing changed"), &requests, sync(&store, &source)).await;
    assert_eq!(report.unwrap().written, 0);
    launchdarkly.set_flag(&flag("flag-77", 2));
    let (report, _) = measured(&format!("{name}: sync, one flag changed"), &requests, sync(&store, &source)).await;
    assert_eq!(report.unwrap().written, 1);
    let (replaced, _) = measured(&format!("{name}: replace, as SDKs do"), &requests, store.replace(&everything)).await;
    replaced.unwrap();
    let (all, _) = measured(&format!("{name}: read all"), &requests, store.all(Flag)).await;
    assert!(all.unwrap() == everything.flags, "what was read is not what was written");
    assert!(unchanged < Duration::from_secs(30), "{unchanged:?}");
}

#[tokio::test]
async fn five_thousand_flags_in_dynamodb() {
    let proxy = DynamoDbProxy::start(&servers::dynamodb_uri()).await.unwrap();
    let store = DynamoDbDataStore::builder(servers::new_table().await).config(servers::config(&proxy.uri()));
    written_and_read("dynalite", store.build_async().unwrap(), || proxy.seen().len()).await;
}

#[tokio::test]
async fn five_thousand_flags_in_redis() {
    let server = servers::start_redis(None);
    let url = format!("redis://127.0.0.1:{}", server.port);
    let store = RedisDataStore::builder(&url).build_async().unwrap();
    let mut counter = redis::Client::open(url).unwrap().get_connection().unwrap();
    let commands = RefCell::new(|| {
        let info: String = redis::cmd("INFO").arg("stats").query(&mut counter).unwrap();
        let count = info.lines().find_map(|line| line.strip_prefix("total_commands_processed:")).unwrap();
        count.trim().parse::<usize>().unwrap()
    });
    written_and_read("redis", store, || commands.borrow_mut()()).await;
}
