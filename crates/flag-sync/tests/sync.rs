//! flag-sync's writer: its writes, and that runs that overlap end in the newest data.

use crate::databases::one;
use crate::memory::Memory;
use crate::setup::{self, source, sync};
use flag_data::clock::Clock;
use flag_data::items::ItemKey;
use flag_data::items::ItemKind::{self, Flag, Segment};
use flag_data::items::{Everything, State, Stored};
use flag_data::sources::{LaunchDarkly, SourceError};
use flag_data::stores::{AwsTransport, Condition, Contents, DynamoDbDataStore, RedisDataStore, Store, StoreError};
use flag_data::transport::Transport;
use flag_sync::comparison::{Comparison, Difference};
use flag_sync::writer::{Report, SyncError};
use serde_json::{Value, json};
use standins::samples::{data, flag, segment};
use standins::{Aws, DynamoDbFault, Fault};
use standins::{samples, servers};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;

async fn launchdarkly(flags: &[Value], segments: &[Value]) -> (standins::LaunchDarkly, LaunchDarkly) {
    let standin = standins::LaunchDarkly::start("sdk-test", data(flags, segments)).await.unwrap();
    let source = source(&standin);
    (standin, source)
}

fn done(report: &Report) -> (usize, usize) {
    (report.written, report.deleted)
}

async fn version(store: &impl Store, key: &str) -> (State, u64) {
    let item = one(store, Flag, key).await.unwrap();
    (item.state, item.version)
}

async fn everything_is_written_once_and_verbatim(store: impl Store) {
    let (standin, source) = launchdarkly(&[flag("a", 1), flag("b", 1)], &[segment("s", 1, &[])]).await;
    assert_eq!(done(&sync(&store, &source).await.unwrap()), (3, 0));
    let marks = store.read(&[]).await.unwrap().marks;
    assert!(marks.initialized && marks.synced.unwrap() <= SystemTime::now());
    assert_eq!(one(&store, Flag, "a").await.unwrap().json, flag("a", 1).to_string());
    assert_eq!(one(&store, Segment, "s").await.unwrap().json, segment("s", 1, &[]).to_string());

    assert_eq!(done(&sync(&store, &source).await.unwrap()), (0, 0));
    assert!(store.read(&[]).await.unwrap().marks.synced > marks.synced);
    standin.set_flag(&flag("b", 2));
    assert_eq!(done(&sync(&store, &source).await.unwrap()), (1, 0));
    assert_eq!(version(&store, "b").await, (State::Live, 2));
}

async fn a_deletion_leaves_a_tombstone_that_a_new_flag_replaces(store: impl Store) {
    let (standin, source) = launchdarkly(&[flag("a", 5), flag("b", 1)], &[]).await;
    sync(&store, &source).await.unwrap();
    standin.change(|data| drop(data.flags.remove("a")));
    assert_eq!(done(&sync(&store, &source).await.unwrap()), (0, 1));
    assert_eq!(one(&store, Flag, "a").await, Some(Stored::tombstone(6)));
    assert_eq!(done(&sync(&store, &source).await.unwrap()), (0, 0));
    // LaunchDarkly does not say where a new flag of the same key begins to count.
    standin.set_flag(&flag("a", 1));
    assert_eq!(done(&sync(&store, &source).await.unwrap()), (1, 0));
    assert_eq!(version(&store, "a").await, (State::Live, 1));
}

async fn items_that_another_writer_broke_or_lost_are_repaired(store: impl Store) {
    let (_standin, source) = launchdarkly(&[flag("a", 5), flag("b", 1), flag("c", 1)], &[]).await;
    sync(&store, &source).await.unwrap();
    let broken = Stored { version: 5, ..Stored::parse("{\"key\":".to_owned()) };
    let flags = HashMap::from([("a".to_owned(), broken), ("b".to_owned(), Stored::tombstone(9))]);
    store.replace(&Everything { flags, segments: HashMap::new() }).await.unwrap();
    assert_eq!(done(&sync(&store, &source).await.unwrap()), (3, 0));
    for key in ["a", "b", "c"] {
        assert_eq!(version(&store, key).await.0, State::Live, "{key}");
    }
}

/// The race that the conditions prevent. A run reads the store, fetches, and then pauses, as a Lambda function may for
/// seconds. Meanwhile everything changes, and a second run writes the changes. The first run resumes with old data:
/// without conditions it would restore deleted flags, delete new ones and revert changes.
async fn a_late_run_does_not_turn_back_the_clock(store: impl Store) {
    let before = [flag("changed", 1), flag("deleted", 4), flag("remade", 7), flag("new-to-store", 1)];
    let (standin, source) = launchdarkly(&before[..3], &[]).await;
    let store = Arc::new(store);
    sync(&*store, &source).await.unwrap();
    // What the first run sees: something to write for each kind of change.
    standin.change(|data| {
        data.flags.insert("changed".to_owned(), flag("changed", 2));
        data.flags.insert("deleted".to_owned(), flag("deleted", 5));
        data.flags.insert("new-to-store".to_owned(), flag("new-to-store", 1));
        data.flags.remove("remade");
    });
    let held = Arc::new(Held::new(store.clone()));
    let late = {
        let (held, source) = (held.clone(), setup::source(&standin));
        tokio::spawn(async move { sync(&*held, &source).await })
    };
    held.reached.notified().await;
    // What the second run sees.
    standin.change(|data| {
        data.flags.insert("changed".to_owned(), flag("changed", 3));
        data.flags.remove("deleted");
        data.flags.insert("remade".to_owned(), flag("remade", 1));
        data.flags.remove("new-to-store");
        data.flags.insert("newer".to_owned(), flag("newer", 1));
    });
    sync(&*store, &source).await.unwrap();
    held.go_on.notify_one();
    let report = late.await.unwrap().unwrap();
    assert!(report.repeated >= 1, "the first run was overtaken, or this test shows nothing: {report:?}");
    assert!(Comparison::make(&*store, &source).await.unwrap().differences.is_empty());
    assert_eq!(version(&*store, "changed").await, (State::Live, 3));
    assert_eq!(version(&*store, "deleted").await.0, State::Deleted);
    assert_eq!(version(&*store, "remade").await, (State::Live, 1));
    assert_eq!(version(&*store, "newer").await, (State::Live, 1));
}

/// The same for content that has no order by versions: both runs write version 4.
async fn a_late_run_does_not_turn_back_content_of_the_same_version(store: impl Store) {
    let with = |salt: &str| {
        let mut flag = flag("a", 4);
        flag["salt"] = json!(salt);
        flag
    };
    let (standin, source) = launchdarkly(&[with("first")], &[]).await;
    let store = Arc::new(store);
    sync(&*store, &source).await.unwrap();
    standin.set_flag(&with("second"));
    let held = Arc::new(Held::new(store.clone()));
    let late = {
        let (held, source) = (held.clone(), setup::source(&standin));
        tokio::spawn(async move { sync(&*held, &source).await })
    };
    held.reached.notified().await;
    standin.set_flag(&with("third"));
    assert_eq!(done(&sync(&*store, &source).await.unwrap()), (1, 0));
    held.go_on.notify_one();
    let report = late.await.unwrap().unwrap();
    assert_eq!((done(&report), report.repeated), ((0, 0), 3), "two more requests, and one for the other run's write");
    assert_eq!(one(&*store, Flag, "a").await.unwrap().json, with("third").to_string());
}

/// A store whose first write waits.
struct Held<S> {
    store: Arc<S>,
    is_first: AtomicBool,
    reached: Notify,
    go_on: Notify,
}

impl<S> Held<S> {
    fn new(store: Arc<S>) -> Self {
        Self { store, is_first: AtomicBool::new(true), reached: Notify::new(), go_on: Notify::new() }
    }
}

impl<S: Store> Store for Held<S> {
    async fn read(&self, wanted: &[ItemKey]) -> Result<Contents, StoreError> {
        self.store.read(wanted).await
    }

    async fn all(&self, kind: ItemKind) -> Result<HashMap<String, Stored>, StoreError> {
        self.store.all(kind).await
    }

    async fn put(
        &self,
        kind: ItemKind,
        key: &str,
        item: &Stored,
        condition: Condition<'_>,
    ) -> Result<bool, StoreError> {
        if self.is_first.swap(false, Ordering::SeqCst) {
            self.reached.notify_one();
            self.go_on.notified().await;
        }
        self.store.put(kind, key, item, condition).await
    }

    async fn replace(&self, everything: &Everything) -> Result<(), StoreError> {
        self.store.replace(everything).await
    }

    async fn mark_initialized(&self) -> Result<(), StoreError> {
        self.store.mark_initialized().await
    }

    async fn mark_synced(&self, at: SystemTime) -> Result<(), StoreError> {
        self.store.mark_synced(at).await
    }
}

async fn many_runs_at_once_end_in_the_newest(store: impl Store) {
    let keys: Vec<String> = (0..20).map(|n| format!("flag-{n}")).collect();
    let flags: Vec<_> = keys.iter().map(|key| flag(key, 1)).collect();
    let (standin, source) = launchdarkly(&flags, &[]).await;
    let (store, standin) = (Arc::new(store), Arc::new(standin));
    let mut runs = Vec::new();
    for version in 2..=8 {
        for (n, key) in keys.iter().enumerate() {
            match (n as u64 + version) % 3 {
                0 => standin.change(|data| drop(data.flags.remove(key))),
                _ => standin.set_flag(&flag(key, version)),
            }
        }
        let (store, source) = (store.clone(), setup::source(&standin));
        runs.push(tokio::spawn(async move { sync(&*store, &source).await }));
        tokio::task::yield_now().await;
    }
    for run in runs {
        // A run that was overtaken too often leaves it to the next.
        match run.await.unwrap() {
            Ok(_) | Err(SyncError::Overtaken) => {}
            Err(error) => panic!("{error}"),
        }
    }
    sync(&*store, &source).await.unwrap();
    assert!(Comparison::make(&*store, &source).await.unwrap().differences.is_empty());
}

async fn an_older_answer_is_requested_again_and_believed_only_if_it_stays(store: impl Store) {
    let (standin, source) = launchdarkly(&[flag("a", 9)], &[]).await;
    sync(&store, &source).await.unwrap();
    standin.set_flag(&flag("a", 8));
    let comparison = Comparison::make(&store, &source).await.unwrap();
    assert_eq!(comparison.differences[0].difference, Difference::Newer);
    let report = sync(&store, &source).await.unwrap();
    assert_eq!((report.written, report.repeated), (1, 2));
    assert_eq!(version(&store, "a").await, (State::Live, 8));
}

/// A flag that was deleted and made again, an environment that Terraform made again, another SDK key: LaunchDarkly counts
/// from the start, and so can come to the version that the store has.
async fn other_content_of_the_same_version_is_a_difference_and_is_written(store: impl Store) {
    let before = segment("s", 2, &["192.0.2.1"]);
    let (standin, source) = launchdarkly(&[flag("a", 3), flag("b", 1)], &[before]).await;
    sync(&store, &source).await.unwrap();
    let mut flag_again = flag("a", 3);
    flag_again["on"] = json!(false);
    let segment_again = segment("s", 2, &[]);
    standin.change(|data| {
        data.flags.insert("a".to_owned(), flag_again.clone());
        data.segments.insert("s".to_owned(), segment_again.clone());
    });
    let found = serde_json::to_value(Comparison::make(&store, &source).await.unwrap().differences).unwrap();
    let differing = |kind, key, version| json!({"kind": kind, "key": key, "difference": "changed", "launchdarkly": version, "store": version});
    assert_eq!(found, json!([differing("segment", "s", 2), differing("flag", "a", 3)]));
    assert_eq!(done(&sync(&store, &source).await.unwrap()), (2, 0));
    assert_eq!(one(&store, Flag, "a").await.unwrap().json, flag_again.to_string());
    assert_eq!(one(&store, Segment, "s").await.unwrap().json, segment_again.to_string());
    assert!(Comparison::make(&store, &source).await.unwrap().differences.is_empty());
}

/// Two rounds go to another writer; in the third, one of LaunchDarkly's caches is old. That it was asked three times by
/// then proves nothing: older data has to be its answer each time.
async fn rounds_that_another_writer_won_are_not_counted_as_answers(store: impl Store) {
    let (standin, source) = launchdarkly(&[flag("a", 9)], &[]).await;
    sync(&store, &source).await.unwrap();
    standin.set_flag(&flag("b", 1));
    let standin = Arc::new(standin);
    let store = Overtaken { store, standin: standin.clone(), puts: parking_lot::Mutex::default() };
    assert_eq!(done(&sync(&store, &source).await.unwrap()), (1, 0));
    assert_eq!(*store.puts.lock(), ["b", "b", "b"], "the older data of \"a\" was LaunchDarkly's answer once");
    assert_eq!(version(&store.store, "a").await, (State::Live, 9));
}

/// A store whose first two writes come too late; an old answer of LaunchDarkly follows, once.
struct Overtaken<S> {
    store: S,
    standin: Arc<standins::LaunchDarkly>,
    puts: parking_lot::Mutex<Vec<String>>,
}

impl<S: Store> Store for Overtaken<S> {
    async fn read(&self, wanted: &[ItemKey]) -> Result<Contents, StoreError> {
        self.store.read(wanted).await
    }

    async fn all(&self, kind: ItemKind) -> Result<HashMap<String, Stored>, StoreError> {
        self.store.all(kind).await
    }

    async fn put(
        &self,
        kind: ItemKind,
        key: &str,
        item: &Stored,
        condition: Condition<'_>,
    ) -> Result<bool, StoreError> {
        let times = {
            let mut puts = self.puts.lock();
            puts.push(key.to_owned());
            puts.len()
        };
        match times {
            1 => return Ok(false),
            2 => {
                self.standin.set_flag(&flag("a", 8));
                return Ok(false);
            }
            _ => self.standin.set_flag(&flag("a", 9)),
        }
        self.store.put(kind, key, item, condition).await
    }

    async fn replace(&self, everything: &Everything) -> Result<(), StoreError> {
        self.store.replace(everything).await
    }

    async fn mark_initialized(&self) -> Result<(), StoreError> {
        self.store.mark_initialized().await
    }

    async fn mark_synced(&self, at: SystemTime) -> Result<(), StoreError> {
        self.store.mark_synced(at).await
    }
}

/// One of LaunchDarkly's caches knows nothing of most flags, another does: nothing is lost, and nobody has to confirm.
async fn an_item_that_is_missing_from_one_answer_stays(store: impl Store) {
    let flags: Vec<_> = (0..12).map(|n| flag(&format!("flag-{n}"), 5)).collect();
    let (standin, source) = launchdarkly(&flags, &[]).await;
    sync(&store, &source).await.unwrap();
    standin.change(|data| *data = samples::data(&[flag("flag-0", 6)], &[]));
    let healed = Arc::new(standin);
    let store = Healing {
        store,
        reads: AtomicU32::new(0),
        standin: healed,
        data: data(&[&[flag("flag-0", 6)], &flags[1..]].concat(), &[]),
    };
    let report = sync(&store, &source).await.unwrap();
    assert_eq!((done(&report), report.repeated), ((1, 0), 1));
    let all = store.store.all(Flag).await.unwrap();
    assert!(all.len() == 12 && all.values().all(|item| item.state == State::Live));
}

/// A store that is read for the second time when LaunchDarkly has its data again.
struct Healing<S> {
    store: S,
    reads: AtomicU32,
    standin: Arc<standins::LaunchDarkly>,
    data: standins::Data,
}

impl<S: Store> Store for Healing<S> {
    async fn read(&self, wanted: &[ItemKey]) -> Result<Contents, StoreError> {
        if self.reads.fetch_add(1, Ordering::SeqCst) == 1 {
            self.standin.change(|data| *data = self.data.clone());
        }
        self.store.read(wanted).await
    }

    async fn all(&self, kind: ItemKind) -> Result<HashMap<String, Stored>, StoreError> {
        self.store.all(kind).await
    }

    async fn put(
        &self,
        kind: ItemKind,
        key: &str,
        item: &Stored,
        condition: Condition<'_>,
    ) -> Result<bool, StoreError> {
        self.store.put(kind, key, item, condition).await
    }

    async fn replace(&self, everything: &Everything) -> Result<(), StoreError> {
        self.store.replace(everything).await
    }

    async fn mark_initialized(&self) -> Result<(), StoreError> {
        self.store.mark_initialized().await
    }

    async fn mark_synced(&self, at: SystemTime) -> Result<(), StoreError> {
        self.store.mark_synced(at).await
    }
}

async fn a_mass_change_needs_confirmation(store: impl Store) {
    let many = |versions: std::ops::Range<u64>| -> Vec<Value> {
        versions.clone().map(|n| flag(&format!("flag-{n}"), 5)).collect()
    };
    let (standin, source) = launchdarkly(&many(0..20), &[]).await;
    sync(&store, &source).await.unwrap();
    let synced = store.read(&[]).await.unwrap().marks.synced;
    let set = |flags: Vec<Value>| standin.change(|data| *data = samples::data(&flags, &[]));
    // Ten of twenty go: half is not more than half.
    set(many(0..10));
    assert_eq!(done(&sync(&store, &source).await.unwrap()), (0, 10));
    // Of the ten that are left all may go: so few are a small store, and the ten tombstones are nothing to lose.
    set(vec![]);
    assert_eq!(done(&sync(&store, &source).await.unwrap()), (0, 10));
    // An item that replaces its own tombstone is not a loss.
    set(many(0..20));
    assert_eq!(done(&sync(&store, &source).await.unwrap()), (20, 0));

    let synced = store.read(&[]).await.unwrap().marks.synced.max(synced);
    let mut other = many(9..20);
    for flag in &mut other {
        flag["salt"] = json!("another environment's");
    }
    other[0] = flag("flag-9", 6);
    set(other);
    let error = sync(&store, &source).await.unwrap_err();
    assert!(matches!(error, SyncError::MassChange { written: 1, losses: 19, items: 20 }), "{error}");
    assert_eq!(version(&store, "flag-9").await, (State::Live, 6), "a kill switch is never delayed");
    let all = store.all(Flag).await.unwrap();
    assert!(all.values().all(|item| item.state == State::Live && !item.json.contains("another environment's")));
    assert_eq!(store.read(&[]).await.unwrap().marks.synced, synced, "the alarm depends on it");

    let report = setup::sync_confirmed(&store, &source).await.unwrap();
    assert_eq!(done(&report), (10, 9));
    assert!(Comparison::make(&store, &source).await.unwrap().differences.is_empty());
}

async fn an_error_of_launchdarkly_changes_nothing(store: impl Store) {
    let (standin, source) = launchdarkly(&[flag("a", 1)], &[]).await;
    sync(&store, &source).await.unwrap();
    let synced = store.read(&[]).await.unwrap().marks.synced;
    for fault in [
        Fault::Status(401, None),
        Fault::Status(500, None),
        Fault::Status(429, Some(1)),
        Fault::TruncatedJson,
        Fault::CutBody,
        Fault::Text("text/html", "<html>"),
        Fault::Text("application/json", "{}"),
    ] {
        standin.fail(fault.clone());
        let error = sync(&store, &source).await.unwrap_err();
        assert!(
            matches!(&error, SyncError::Read(error) if !matches!(error, SourceError::Store(_))),
            "{fault:?}: {error}"
        );
    }
    assert_eq!(version(&store, "a").await, (State::Live, 1));
    assert_eq!(store.read(&[]).await.unwrap().marks.synced, synced);
}

macro_rules! each_store {
    ($($test:ident),* $(,)?) => {
        mod to_memory {
            $(#[tokio::test] async fn $test() { super::$test(super::Memory::default()).await; })*
        }
        mod to_redis {
            $(#[tokio::test] async fn $test() { super::$test(crate::databases::redis()).await; })*
        }
        mod to_dynamodb {
            $(#[tokio::test] async fn $test() { super::$test(crate::databases::dynamodb().await).await; })*
        }
    };
}

each_store!(
    everything_is_written_once_and_verbatim,
    a_deletion_leaves_a_tombstone_that_a_new_flag_replaces,
    items_that_another_writer_broke_or_lost_are_repaired,
    a_late_run_does_not_turn_back_the_clock,
    a_late_run_does_not_turn_back_content_of_the_same_version,
    many_runs_at_once_end_in_the_newest,
    an_older_answer_is_requested_again_and_believed_only_if_it_stays,
    other_content_of_the_same_version_is_a_difference_and_is_written,
    rounds_that_another_writer_won_are_not_counted_as_answers,
    an_item_that_is_missing_from_one_answer_stays,
    a_mass_change_needs_confirmation,
    an_error_of_launchdarkly_changes_nothing,
);

#[tokio::test]
async fn an_item_that_is_too_large_is_reported_by_name_and_the_rest_is_written() {
    let mut large = flag("large", 1);
    large["text"] = json!("x".repeat(400_000));
    let (_standin, source) = launchdarkly(&[flag("a", 1), large], &[]).await;
    let store = crate::databases::dynamodb().await;
    let error = sync(&store, &source).await.unwrap_err();
    assert!(
        matches!(error, SyncError::Incomplete(_)) && error.to_string().contains("the flag \"large\" was not written"),
        "{error}"
    );
    assert_eq!(version(&store, "a").await, (State::Live, 1));
    let marks = store.read(&[]).await.unwrap().marks;
    assert!(marks.initialized && marks.synced.is_none());
}

/// The limit is on what the table keeps, so it does not depend on what is there already.
#[tokio::test]
async fn a_full_table_rejects_the_same_items_as_an_empty_one() {
    let with = |version: u64, bytes: usize| {
        let mut flag = flag("large", version);
        flag["text"] = json!("x".repeat(bytes));
        flag
    };
    let (standin, source) = launchdarkly(&[with(1, 300_000)], &[]).await;
    let (empty, full) = (crate::databases::dynamodb().await, crate::databases::dynamodb().await);
    sync(&full, &source).await.unwrap();
    standin.set_flag(&with(2, 400_000));
    let reason = |error: SyncError| match error {
        SyncError::Incomplete(reasons) => reasons[0].split_once("it has").unwrap().1.to_owned(),
        error => panic!("{error}"),
    };
    for _ in 0..2 {
        let reasons = [sync(&empty, &source).await, sync(&full, &source).await].map(|run| reason(run.unwrap_err()));
        assert_eq!(reasons[0], reasons[1]);
        let differences = Comparison::make(&full, &source).await.unwrap().differences;
        assert_eq!(differences[0].difference, Difference::Older, "check still shows it");
    }
    assert_eq!(version(&full, "large").await, (State::Live, 1), "the old item stays");
    standin.set_flag(&with(3, 300_000));
    for store in [&empty, &full] {
        sync(store, &source).await.unwrap();
        assert_eq!(version(store, "large").await, (State::Live, 3));
    }
}

#[tokio::test]
async fn a_row_of_dynamodb_without_version_or_item_is_repaired() {
    use flag_data::stores::aws_sdk_dynamodb::types::AttributeValue::{N, S};
    let (_standin, source) = launchdarkly(&[flag("a", 1), flag("b", 1), flag("c", 1)], &[]).await;
    let table = servers::new_table().await;
    let config = crate::databases::config(&servers::dynamodb_uri());
    let store = DynamoDbDataStore::builder(&table).config(config.clone()).build().unwrap();
    let transport = Transport::new(Clock::default(), Duration::from_secs(20));
    let client = flag_data::stores::aws_sdk_dynamodb::Client::from_conf(
        config.to_builder().http_client(AwsTransport(transport)).build(),
    );
    for (key, attribute, value) in [
        ("a", "other", S("x".to_owned())),
        ("b", "item", N("7".to_owned())),
        ("c", "item", S(flag("c", 1).to_string())),
    ] {
        let put = client.put_item().table_name(&table).item("namespace", S("features".to_owned()));
        put.item("key", S(key.to_owned())).item(attribute, value).send().await.unwrap();
    }
    assert_eq!(done(&sync(&store, &source).await.unwrap()), (3, 0));
    for key in ["a", "b", "c"] {
        assert_eq!(one(&store, Flag, key).await.unwrap(), Stored::parse(flag(key, 1).to_string()));
    }
}

#[tokio::test]
async fn a_first_run_that_fails_marks_nothing() {
    let flags: Vec<_> = (0..40).map(|n| flag(&format!("flag-{n}"), 1)).collect();
    let (_standin, source) = launchdarkly(&flags, &[segment("s", 1, &[])]).await;
    let proxy = Aws::start().await.unwrap();
    let table = servers::new_table().await;
    let store = DynamoDbDataStore::builder(&table).config(crate::databases::config(&proxy.uri())).build().unwrap();
    proxy.fail("PutItem", 20, usize::MAX, DynamoDbFault::Refuse);
    let error = sync(&store, &source).await.unwrap_err();
    assert!(error.to_string().contains("denied access: AccessDeniedException"), "{error}");
    proxy.heal();
    let marks = store.read(&[]).await.unwrap().marks;
    assert!(!marks.initialized && marks.synced.is_none());
    let report = sync(&store, &source).await.unwrap();
    assert!((1..=21).contains(&report.written), "it resumes where the first failed: {report:?}");
    assert!(store.read(&[]).await.unwrap().marks.initialized);
}

#[tokio::test]
async fn a_redis_that_lost_its_data_is_refilled() {
    let mut server = servers::start_redis(None);
    let store = RedisDataStore::builder(format!("redis://127.0.0.1:{}", server.port)).build().unwrap();
    let (_standin, source) = launchdarkly(&[flag("a", 1)], &[]).await;
    sync(&store, &source).await.unwrap();
    server.kill();
    let error = sync(&store, &source).await.unwrap_err();
    assert!(matches!(error, SyncError::Read(SourceError::Store(StoreError::Unreachable { .. }))), "{error}");
    let _again = servers::start_redis(Some(server.port));
    assert!(!store.read(&[]).await.unwrap().marks.initialized);
    assert_eq!(done(&sync(&store, &source).await.unwrap()), (1, 0));
    assert!(store.read(&[]).await.unwrap().marks.initialized);
}
