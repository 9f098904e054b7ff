//! Databases that fail: a clear error, and nothing half-written that is marked as complete.

use crate::contract::items;
use crate::databases::config;
use crate::databases::one;
use flag_data::items::ItemKind::Flag;
use flag_data::items::{Everything, Stored};
use flag_data::stores::{Condition, DynamoDb, DynamoDbDataStore, RedisDataStore, Store, StoreError};
use standins::servers;
use standins::{Aws, DynamoDbFault, Wire};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

async fn behind_a_proxy() -> (Aws, DynamoDb) {
    let proxy = Aws::start().await.unwrap();
    let store = DynamoDbDataStore::builder(servers::new_table().await)
        .config(config(&proxy.uri()))
        .timeout(Duration::from_millis(500));
    let store = store.build().unwrap();
    (proxy, store)
}

pub(crate) fn sixty() -> Everything {
    let flags = (0..60).map(|n| (format!("flag-{n}"), crate::contract::item("x", 1))).collect();
    Everything { flags, segments: items(&[("s", 1)]) }
}

fn count(proxy: &Aws, operation: &str) -> usize {
    proxy.seen().iter().filter(|(seen, _)| seen == operation).count()
}

#[tokio::test]
async fn the_unprocessed_items_of_a_batch_are_written_and_read_too() {
    let (proxy, store) = behind_a_proxy().await;
    proxy.fail("BatchWriteItem", 1, 3, DynamoDbFault::LeaveOver);
    store.replace(&sixty()).await.unwrap();
    assert_eq!(store.all(Flag).await.unwrap(), sixty().flags);
    assert_eq!(
        count(&proxy, "BatchWriteItem"),
        4 + 3,
        "one for the segment, three for the flags, and the unprocessed items"
    );

    proxy.fail("BatchGetItem", 0, 3, DynamoDbFault::LeaveOver);
    let wanted: Vec<_> = (0..60).map(|n| (Flag, format!("flag-{n}"))).collect();
    let contents = store.read(&wanted).await.unwrap();
    assert!(contents.marks.initialized && contents.items.iter().all(Option::is_some));
    assert_eq!(count(&proxy, "BatchGetItem"), 4);
}

#[tokio::test]
async fn a_batch_that_stays_unprocessed_is_an_error_and_nothing_is_marked() {
    let (proxy, store) = behind_a_proxy().await;
    for fault in [DynamoDbFault::LeaveAll, DynamoDbFault::Throttle] {
        proxy.fail("BatchWriteItem", 1, usize::MAX, fault);
        let error = store.replace(&sixty()).await.unwrap_err();
        assert!(matches!(&error, StoreError::Throttled { .. }), "{error}");
    }
    proxy.heal();
    assert!(!store.read(&[]).await.unwrap().marks.initialized);
    store.replace(&sixty()).await.unwrap();
    assert!(store.read(&[]).await.unwrap().marks.initialized);
}

#[tokio::test]
async fn a_throttled_request_is_retried() {
    let (proxy, store) = behind_a_proxy().await;
    proxy.fail("", 0, 2, DynamoDbFault::Throttle);
    assert!(store.put(Flag, "a", &Stored::tombstone(1), Condition::Newer).await.unwrap());
    assert_eq!(count(&proxy, "PutItem"), 3);
}

#[track_caller]
pub(crate) fn check(error: &StoreError, expected: &[&str]) {
    let text = error.to_string();
    for expected in expected {
        assert!(text.contains(expected), "{expected:?} is not in: {text}");
    }
}

#[tokio::test]
async fn an_error_names_the_table_and_the_cause() {
    let (proxy, store) = behind_a_proxy().await;
    proxy.fail("", 0, usize::MAX, DynamoDbFault::Refuse);
    let error = store.read(&[]).await.unwrap_err();
    check(&error, &["the DynamoDB table \"flags-", "in eu-central-1 denied access", "AccessDenied", "policy"]);
    proxy.heal();
    for fault in [DynamoDbFault::Cut, DynamoDbFault::Hang] {
        proxy.fail("", 0, usize::MAX, fault);
        let error = store.read(&[]).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{fault:?}: {error}");
        proxy.heal();
    }
    let missing = DynamoDbDataStore::builder("nowhere").config(config(&proxy.uri())).build().unwrap();
    check(&missing.read(&[]).await.unwrap_err(), &["\"nowhere\"", "does not exist", "flag-store.yaml"]);
}

#[tokio::test]
async fn a_redis_error_names_the_server_and_the_cause_but_no_password() {
    let port = servers::free_port();
    let gone = RedisDataStore::builder(format!("redis://user:hunter2@127.0.0.1:{port}")).build().unwrap();
    let error = gone.read(&[]).await.unwrap_err();
    check(&error, &[&format!("Redis at 127.0.0.1:{port} was not reached")]);
    assert!(!error.to_string().contains("hunter2"));
    let wrong = RedisDataStore::builder(servers::redis_url().replace("//", "//:hunter2@")).build().unwrap();
    let error = wrong.read(&[]).await.unwrap_err();
    check(&error, &["denied access"]);
    assert!(!error.to_string().contains("hunter2"), "{error}");
    let error = RedisDataStore::builder("http://user:hunter2@x").build().err().unwrap();
    check(&error, &["invalid settings for the address of Redis"]);
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

/// The users in docs/flag-store.md. A reader, such as the edge function, needs no permission for scripts.
#[tokio::test]
async fn redis_users_need_what_is_documented_and_no_more() {
    let documented = include_str!("../../../docs/flag-store.md");
    let server = servers::start_redis(None);
    let admin = redis::Client::open(format!("redis://127.0.0.1:{}", server.port)).unwrap();
    let mut admin = admin.get_connection().unwrap();
    let mut user = |name: &str| {
        let line = documented.lines().find(|line| line.starts_with(&format!("ACL SETUSER {name} ")));
        let rules = line.unwrap_or_else(|| panic!("no ACL for {name} in docs/flag-store.md"));
        let mut command = redis::cmd("ACL");
        let words: Vec<_> =
            rules.split_whitespace().skip(1).map(|word| if word == ">PASSWORD" { "nopass" } else { word }).collect();
        command.arg(&words).exec(&mut admin).unwrap();
        RedisDataStore::builder(format!("redis://{name}:any@127.0.0.1:{}", server.port)).build().unwrap()
    };
    let (reader, writer) = (user("redirect-reader"), user("redirect-writer"));
    let item = crate::contract::item("a", 1);
    assert!(writer.put(Flag, "a", &item, Condition::Newer).await.unwrap());
    assert!(!writer.put(Flag, "a", &item, Condition::Unchanged(None)).await.unwrap());
    writer.mark_initialized().await.unwrap();
    writer.mark_synced(std::time::SystemTime::now()).await.unwrap();
    assert_eq!(writer.all(Flag).await.unwrap().len(), 1);
    let contents = reader.read(&[(Flag, "a".to_owned())]).await.unwrap();
    assert!(contents.marks.initialized && contents.marks.synced.is_some());
    assert_eq!(contents.items, [Some(item.clone())]);
    let error = reader.put(Flag, "a", &item, Condition::Newer).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    check(&error, &["denied access", "no permissions to run the 'eval' command"]);
}

#[tokio::test]
async fn a_restarted_redis_is_used_again() {
    let mut server = servers::start_redis(None);
    let store = RedisDataStore::builder(format!("redis://127.0.0.1:{}", server.port)).build().unwrap();
    store.replace(&sixty()).await.unwrap();
    server.kill();
    assert!(matches!(store.read(&[]).await, Err(StoreError::Unreachable { .. })));
    let _again = servers::start_redis(Some(server.port));
    assert!(!store.read(&[]).await.unwrap().marks.initialized, "it lost its data");
    store.replace(&sixty()).await.unwrap();
    assert_eq!(store.all(Flag).await.unwrap().len(), 60);
}

/// The reply to a write that timed out must not be read as the reply to the next one.
#[tokio::test]
async fn a_redis_that_answers_late_leaves_nothing_behind() {
    let server = servers::start_redis(None);
    let wire = Wire::to(server.port).await;
    let store = RedisDataStore::builder(wire.url()).timeout(Duration::from_millis(200)).build().unwrap();
    let before = Everything { flags: items(&[("a", 1)]), segments: HashMap::new() };
    store.replace(&before).await.unwrap();
    assert_eq!(wire.connections(), 1);

    wire.is_held.send_replace(true);
    let error = store.put(Flag, "a", &crate::contract::item("a", 2), Condition::Newer).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    let directly = RedisDataStore::builder(format!("redis://127.0.0.1:{}", server.port)).build().unwrap();
    directly.put(Flag, "a", &crate::contract::item("a", 5), Condition::Newer).await.unwrap();
    wire.is_held.send_replace(false);

    store.replace(&sixty()).await.unwrap();
    assert_eq!(directly.all(Flag).await.unwrap(), sixty().flags, "a reported write is in the store");
    assert_eq!(store.all(Flag).await.unwrap(), sixty().flags, "each reply belongs to its own request");
    assert_eq!(wire.connections(), 2, "a connection that timed out is not used again");
}

/// A budget that is shorter than the store's timeout cancels the call.
#[tokio::test]
async fn a_connection_whose_call_was_canceled_is_not_used_again() {
    let server = servers::start_redis(None);
    let wire = Wire::to(server.port).await;
    let store = RedisDataStore::builder(wire.url()).build().unwrap();
    store.replace(&sixty()).await.unwrap();
    wire.is_held.send_replace(true);
    assert!(tokio::time::timeout(Duration::from_millis(50), store.read(&[])).await.is_err());
    wire.is_held.send_replace(false);
    assert!(store.read(&[]).await.unwrap().marks.initialized);
    assert_eq!(wire.connections(), 2);
    assert!(store.read(&[]).await.unwrap().marks.initialized);
    assert_eq!(wire.connections(), 2, "a connection that answers is kept");
}

#[tokio::test]
async fn a_transaction_that_is_cut_off_leaves_redis_as_it_was() {
    let server = servers::start_redis(None);
    let wire = Wire::to(server.port).await;
    let store = RedisDataStore::builder(wire.url()).build().unwrap();
    let before = Everything { flags: items(&[("a", 1)]), segments: HashMap::new() };
    store.replace(&before).await.unwrap();
    *wire.left.lock() = 2_000;
    let error = store.replace(&sixty()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    *wire.left.lock() = usize::MAX;
    assert_eq!(store.all(Flag).await.unwrap(), before.flags);
}

#[tokio::test]
async fn a_redis_that_is_killed_in_its_first_transaction_is_not_initialized() {
    let mut server = servers::start_redis(None);
    let wire = Wire::to(server.port).await;
    let store = RedisDataStore::builder(wire.url()).build().unwrap();
    assert!(!store.read(&[]).await.unwrap().marks.initialized);
    *wire.left.lock() = 2_000;
    assert!(store.replace(&sixty()).await.is_err());
    server.kill();
    let _again = servers::start_redis(Some(server.port));
    *wire.left.lock() = usize::MAX;
    assert!(!store.read(&[]).await.unwrap().marks.initialized);
    assert_eq!(one(&store, Flag, "flag-1").await, None);
}

#[tokio::test]
async fn a_redis_that_does_not_answer_costs_no_more_than_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let store = RedisDataStore::builder(format!("redis://127.0.0.1:{port}")).timeout(Duration::from_millis(100));
    let store = store.build().unwrap();
    let started = Instant::now();
    assert!(matches!(store.read(&[]).await, Err(StoreError::Unreachable { .. })));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}
