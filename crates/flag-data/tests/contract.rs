//! The contract of a store: the same tests for each.

use crate::databases::one;
use crate::memory::Memory;
use flag_data::items::ItemKind::{Flag, Segment};
use flag_data::items::{Everything, State, Stored};
use flag_data::stores::{Condition, DynamoDb, Redis, Store};
use standins::servers;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// An item as LaunchDarkly sends it, whose spaces and order must stay.
pub(crate) fn item(key: &str, version: u64) -> Stored {
    Stored::parse(format!(r#"{{ "version":{version}, "key":"{key}","text":"ä€ \"quoted\" \n" }}"#))
}

pub(crate) fn items(keys: &[(&str, u64)]) -> HashMap<String, Stored> {
    keys.iter().map(|(key, version)| ((*key).to_owned(), item(key, *version))).collect()
}

async fn is_initialized(store: &impl Store) -> bool {
    store.read(&[]).await.unwrap().initialized
}

async fn a_new_store_is_empty(store: impl Store) {
    assert!(!is_initialized(&store).await);
    assert_eq!(one(&store, Flag, "a").await, None);
    assert!(store.all(Flag).await.unwrap().is_empty());
    assert_eq!(store.read(&[]).await.unwrap().synced, None);
}

async fn an_item_is_read_verbatim(store: impl Store) {
    let everything = Everything { flags: items(&[("a", 1), ("b", 2)]), segments: items(&[("a", 7)]) };
    store.replace(&everything).await.unwrap();
    assert!(is_initialized(&store).await);
    assert_eq!(store.all(Flag).await.unwrap(), everything.flags);
    assert_eq!(store.all(Segment).await.unwrap(), everything.segments);
    assert_eq!(one(&store, Segment, "a").await, Some(item("a", 7)));
    assert_eq!(one(&store, Segment, "b").await, None);
}

async fn several_are_read_at_once_in_their_order(store: impl Store) {
    let keys: Vec<String> = (0..230).map(|n| format!("flag-{n}")).collect();
    let flags = keys.iter().map(|key| (key.clone(), item(key, 1))).collect();
    store.replace(&Everything { flags, segments: items(&[("s", 1)]) }).await.unwrap();
    let mut wanted: Vec<_> = keys.iter().map(|key| (Flag, key.clone())).collect();
    wanted.insert(100, (Segment, "s".to_owned()));
    wanted.insert(7, (Flag, "missing".to_owned()));
    wanted.push((Flag, "flag-3".to_owned()));
    let contents = store.read(&wanted).await.unwrap();
    assert!(contents.initialized);
    for ((_, key), found) in wanted.iter().zip(&contents.items) {
        assert_eq!(*found, (key != "missing").then(|| item(key, 1)), "{key}");
    }
    assert_eq!(contents.items.len(), wanted.len());
}

async fn replacing_deletes_other_items_and_ignores_versions(store: impl Store) {
    let first = Everything { flags: items(&[("a", 5), ("b", 2)]), segments: items(&[("s", 1)]) };
    store.replace(&first).await.unwrap();
    let second = Everything { flags: items(&[("a", 3), ("c", 1)]), segments: HashMap::new() };
    store.replace(&second).await.unwrap();
    assert_eq!(store.all(Flag).await.unwrap(), second.flags);
    assert!(store.all(Segment).await.unwrap().is_empty());
}

async fn only_a_newer_version_is_written(store: impl Store) {
    for (version, is_written, then) in [(5, true, 5), (4, false, 5), (5, false, 5), (6, true, 6)] {
        let new = item("a", version);
        assert_eq!(store.put(Flag, "a", &new, Condition::Newer).await.unwrap(), is_written, "{version}");
        assert_eq!(one(&store, Flag, "a").await, Some(item("a", then)));
    }
    assert!(!is_initialized(&store).await, "one item is not complete data");
}

async fn a_tombstone_blocks_older_versions(store: impl Store) {
    store.put(Flag, "a", &item("a", 5), Condition::Newer).await.unwrap();
    assert!(!store.put(Flag, "a", &Stored::tombstone(5), Condition::Newer).await.unwrap());
    assert!(store.put(Flag, "a", &Stored::tombstone(6), Condition::Newer).await.unwrap());
    assert_eq!(one(&store, Flag, "a").await.unwrap().state, State::Deleted);
    assert!(!store.put(Flag, "a", &item("a", 6), Condition::Newer).await.unwrap());
    assert_eq!(store.all(Flag).await.unwrap().get("a"), Some(&Stored::tombstone(6)), "tombstones are read too");
    assert!(store.put(Flag, "a", &item("a", 7), Condition::Newer).await.unwrap());
}

async fn a_write_can_depend_on_the_text_that_was_read(store: impl Store) {
    let put = async |new: &Stored, seen: Option<&Stored>| {
        store.put(Segment, "s", new, Condition::Unchanged(seen)).await.unwrap()
    };
    let other_text = Stored { json: item("s", 5).json.replace("text", "other"), ..item("s", 5) };
    assert!(!put(&item("s", 9), Some(&item("s", 8))).await, "nothing is there");
    assert!(put(&item("s", 5), None).await);
    assert!(!put(&item("s", 6), None).await, "something is there");
    assert!(!put(&item("s", 6), Some(&item("s", 4))).await, "another version is there");
    assert!(!put(&item("s", 6), Some(&other_text)).await, "other content of that version is there");
    assert!(put(&other_text, Some(&item("s", 5))).await, "the same version");
    assert!(!put(&item("s", 6), Some(&item("s", 5))).await, "the text has changed since");
    assert!(put(&item("s", 3), Some(&other_text)).await, "an older version, as a flag that was created again may have");
    assert_eq!(one(&store, Segment, "s").await, Some(item("s", 3)));
    let empty = Stored::parse(String::new());
    assert!(put(&empty, Some(&item("s", 3))).await);
    assert!(put(&item("s", 1), Some(&empty)).await, "a text that is empty is a text");
    assert_eq!(one(&store, Segment, "s").await, Some(item("s", 1)));
}

async fn a_text_that_is_not_an_item_is_older_than_any_item(store: impl Store) {
    for text in ["", "[", "7", r#"{"key":"a"}"#, r#"{"version":null}"#, r#"{"version":"9"}"#] {
        let broken = Stored::parse(text.to_owned());
        assert_eq!((broken.version, broken.state), (0, State::Malformed), "{text:?}");
        let everything = Everything { flags: HashMap::from([("a".to_owned(), broken)]), ..Everything::default() };
        store.replace(&everything).await.unwrap();
        assert!(store.put(Flag, "a", &item("a", 1), Condition::Newer).await.unwrap(), "{text:?}");
        assert_eq!(one(&store, Flag, "a").await, Some(item("a", 1)));
    }
}

async fn concurrent_upserts_end_in_the_newest(store: impl Store) {
    let store = Arc::new(store);
    let mut order: Vec<u64> = (1..=64).collect();
    order.sort_by_key(|version| version * 37 % 64);
    let writers: Vec<_> = order
        .into_iter()
        .map(|version| {
            let store = store.clone();
            tokio::spawn(async move { store.put(Flag, "a", &item("a", version), Condition::Newer).await.unwrap() })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(one(&*store, Flag, "a").await, Some(item("a", 64)));
}

async fn of_many_writers_that_read_the_same_text_one_writes(store: impl Store) {
    let store = Arc::new(store);
    store.put(Flag, "a", &item("a", 1), Condition::Newer).await.unwrap();
    let writers: Vec<_> = (2..=32)
        .map(|version| {
            let store = store.clone();
            tokio::spawn(async move {
                let seen = item("a", 1);
                store.put(Flag, "a", &item("a", version), Condition::Unchanged(Some(&seen))).await.unwrap()
            })
        })
        .collect();
    let mut written = 0;
    for writer in writers {
        written += u32::from(writer.await.unwrap());
    }
    assert_eq!(written, 1);
}

async fn the_time_of_the_last_sync_never_goes_back(store: impl Store) {
    let time = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
    for (given, expected) in [(1_001, 1_001), (3_003, 3_003), (2_002, 3_003)] {
        store.mark_synced(time(given)).await.unwrap();
        assert_eq!(store.read(&[]).await.unwrap().synced, Some(time(expected)));
    }
    assert!(!is_initialized(&store).await);
    assert!(store.all(Flag).await.unwrap().is_empty(), "the mark is not a flag");
}

/// Runs each test for each store.
macro_rules! contract {
    ($($test:ident),* $(,)?) => {
        mod in_memory {
            $(#[tokio::test] async fn $test() { super::$test(super::Memory::default()).await; })*
        }
        mod in_redis {
            $(#[tokio::test] async fn $test() { super::$test(crate::databases::redis()).await; })*
        }
        mod in_dynamodb {
            $(#[tokio::test] async fn $test() { super::$test(crate::databases::dynamodb().await).await; })*
        }
    };
}

contract!(
    a_new_store_is_empty,
    an_item_is_read_verbatim,
    several_are_read_at_once_in_their_order,
    replacing_deletes_other_items_and_ignores_versions,
    only_a_newer_version_is_written,
    a_tombstone_blocks_older_versions,
    a_write_can_depend_on_the_text_that_was_read,
    a_text_that_is_not_an_item_is_older_than_any_item,
    concurrent_upserts_end_in_the_newest,
    of_many_writers_that_read_the_same_text_one_writes,
    the_time_of_the_last_sync_never_goes_back,
);

async fn prefixes_do_not_see_each_other(stores: [impl Store; 2]) {
    let [one_store, other_store] = stores;
    one_store.replace(&Everything { flags: items(&[("a", 1)]), ..Everything::default() }).await.unwrap();
    assert!(!is_initialized(&other_store).await);
    other_store.replace(&Everything { flags: items(&[("b", 2)]), ..Everything::default() }).await.unwrap();
    other_store.mark_synced(SystemTime::now()).await.unwrap();
    assert_eq!(one_store.all(Flag).await.unwrap(), items(&[("a", 1)]));
    assert_eq!(other_store.all(Flag).await.unwrap(), items(&[("b", 2)]));
    assert_eq!(one_store.read(&[]).await.unwrap().synced, None);
}

#[tokio::test]
async fn prefixes_do_not_see_each_other_in_redis() {
    let name = servers::unique("prefix");
    let store = |prefix: String| Redis::new(servers::redis_url()).unwrap().prefix(prefix);
    prefixes_do_not_see_each_other([store(name.clone()), store(format!("{name}-2"))]).await;
}

#[tokio::test]
async fn prefixes_do_not_see_each_other_in_dynamodb() {
    let table = servers::new_table().await;
    let store = || DynamoDb::new(&table, crate::databases::config(&servers::dynamodb_uri()));
    prefixes_do_not_see_each_other([store(), store().prefix("staging")]).await;
}

#[tokio::test]
async fn an_item_too_large_for_dynamodb_is_rejected_by_name_and_the_rest_is_written() {
    let store = crate::databases::dynamodb().await;
    let large = Stored::parse(format!(r#"{{"key":"large","version":2,"text":"{}"}}"#, "x".repeat(400_000)));
    let error = store.put(Flag, "large", &large, Condition::Newer).await.unwrap_err().to_string();
    assert!(error.contains("the flag \"large\" was not written") && error.contains("the limit is 400000"), "{error}");
    let mut flags = items(&[("a", 1)]);
    flags.insert("large".to_owned(), large);
    store.replace(&Everything { flags, segments: HashMap::new() }).await.unwrap();
    assert_eq!(store.all(Flag).await.unwrap(), items(&[("a", 1)]));
    assert!(is_initialized(&store).await);
}

#[tokio::test]
async fn an_item_of_the_maximum_size_is_written_to_dynamodb() {
    let store = crate::databases::dynamodb().await;
    // 100 bytes are counted for the row itself; the rest are the names and values of its four attributes.
    let rest = 100 + "namespacefeatureskeyfullversion2item".len();
    let json = |text: usize| format!(r#"{{"key":"full","version":2,"text":"{}"}}"#, "x".repeat(text));
    let text = 400_000 - rest - json(0).len();
    let is_written =
        async |text| store.put(Flag, "full", &Stored::parse(json(text)), Condition::Unchanged(None)).await.is_ok();
    assert!(!is_written(text + 1).await);
    assert!(is_written(text).await);
}
