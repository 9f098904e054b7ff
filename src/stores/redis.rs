//! Redis.
//!
//! | key | type | value |
//! |---|---|---|
//! | `<prefix>:features` | hash | per flag's key, its JSON |
//! | `<prefix>:segments` | hash | per segment's key, its JSON |
//! | `<prefix>:$inited` | string | empty |
//! | `<prefix>:$synced` | string | milliseconds since 1970 |
//!
//! The last is this crate's own. Everything is replaced in one transaction. A single item is written in one that
//! watches its hash, and anew when another writer came first. A Redis Cluster would need all four keys in one slot,
//! which the other SDKs' names do not give, so none of them supports it.
//! <https://launchdarkly.com/docs/sdk/features/storing-data/redis>

use super::{
    Condition, Contents, DataStore, Everything, INITED, Marks, SYNCED, Store, StoreError, Stored, USUAL_TIME_OUT,
    from_millis, namespace, to_millis,
};
use crate::flags::{Clock, Moment};
use crate::sources::{ItemKind, Wanted};
use crate::transport::LONGEST_IDLE;
use launchdarkly_server_sdk::{PersistentDataStore, PersistentDataStoreFactory};
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError, RedisResult,
    TlsCertificates,
};
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// What LaunchDarkly's SDKs use when no prefix is given.
const USUAL_PREFIX: &str = "launchdarkly";

/// How often a transaction is tried that other writers keep overtaking.
const MOST_TRIES: u32 = 100;

/// How each certificate of a PEM file starts.
const PEM_START: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// What HMGET gives.
type Found = Vec<Option<String>>;

/// Flag data in Redis.
pub struct Redis {
    client: Client,
    prefix: String,
    clock: Clock,
    time_out: Duration,
    connection: Mutex<Option<(MultiplexedConnection, Moment)>>,
    /// One transaction at a time: what a connection watches is forgotten at the end of any transaction on it.
    transaction: tokio::sync::Mutex<()>,
    /// For errors: without user and password.
    place: String,
}

/// A Redis for LaunchDarkly's SDK.
///
/// ```ignore
/// let redis = RedisDataStore::builder("rediss://flags.example.com");
/// let store = PersistentDataStoreBuilder::new(Arc::new(redis));
/// let config = ConfigBuilder::new(&sdk_key).daemon_mode(true).data_store(&store).build()?;
/// ```
pub type RedisDataStore = DataStore<Redis>;

impl RedisDataStore {
    /// Begins with the address: `redis://[[user]:password@]host[:port][/database]`, `rediss://` for TLS, or `unix://`.
    pub fn builder(url: impl Into<String>) -> RedisBuilder {
        RedisBuilder {
            url: url.into(),
            prefix: USUAL_PREFIX.to_owned(),
            root_certificate: None,
            clock: Clock::default(),
            time_out: USUAL_TIME_OUT,
        }
    }
}

/// Makes a [`RedisDataStore`], or a [`Redis`] without the SDK's part.
#[derive(Clone)]
pub struct RedisBuilder {
    url: String,
    prefix: String,
    root_certificate: Option<Vec<u8>>,
    clock: Clock,
    time_out: Duration,
}

impl RedisBuilder {
    /// The environment's prefix, for several environments in one Redis; `launchdarkly` by default.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The certificate of your own authority (PEM), when the server's is not signed by a public one.
    #[must_use]
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificate = Some(pem.into());
        self
    }

    /// How long one request may take.
    #[must_use]
    pub fn time_out(mut self, time_out: Duration) -> Self {
        self.time_out = time_out;
        self
    }

    /// The clock that sees a freeze.
    #[must_use]
    pub(crate) fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The store for the SDK. Connects when it is first used.
    ///
    /// # Errors
    /// [`StoreError::Settings`] for an address or a certificate that is none, or where no thread can be started.
    pub fn build(&self) -> Result<RedisDataStore, StoreError> {
        let store = self.build_async()?;
        let place = store.place.clone();
        let settings = |error: std::io::Error| StoreError::Settings { store: place, why: error.to_string() };
        DataStore::new(store).map_err(settings)
    }

    /// The store with asynchronous calls.
    ///
    /// # Errors
    /// [`StoreError::Settings`] for an address or a certificate that is none.
    pub fn build_async(&self) -> Result<Redis, StoreError> {
        // The address may hold a password, so no error shows it.
        let settings = |store: String| move |error: RedisError| StoreError::Settings { store, why: error.to_string() };
        let info = self.url.as_str().into_connection_info().map_err(settings("the address of Redis".to_owned()))?;
        let place = format!("Redis at {}", info.addr());
        let client = match &self.root_certificate {
            None => Client::open(info),
            // The client would take it, and then trust nobody.
            Some(pem) if !pem.windows(PEM_START.len()).any(|text| text == PEM_START) => {
                let why = "the root certificate is no certificate in the form of PEM".to_owned();
                return Err(StoreError::Settings { store: place, why });
            }
            Some(pem) => {
                let certificates = TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) };
                Client::build_with_tls(info, certificates)
            }
        };
        Ok(Redis {
            client: client.map_err(settings(place.clone()))?,
            prefix: self.prefix.clone(),
            clock: self.clock.clone(),
            time_out: self.time_out,
            connection: Mutex::default(),
            transaction: tokio::sync::Mutex::default(),
            place,
        })
    }
}

impl PersistentDataStoreFactory for RedisBuilder {
    fn create_persistent_data_store(&self) -> Result<Box<dyn PersistentDataStore>, std::io::Error> {
        let store = self.build().map_err(std::io::Error::other)?;
        Ok(Box::new(store))
    }
}

impl Redis {
    fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.prefix)
    }

    /// The connection, if it was used a moment ago.
    fn warm(&self) -> Option<MultiplexedConnection> {
        let mut connection = self.connection.lock();
        let (warm, used) = connection.as_mut().filter(|(_, used)| self.clock.since(*used) <= LONGEST_IDLE)?;
        *used = self.clock.now();
        Some(warm.clone())
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.time_out))
            .set_response_timeout(Some(self.time_out));
        let new = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        *self.connection.lock() = Some((new.clone(), self.clock.now()));
        Ok(new)
    }

    /// Runs an operation; once more on a new connection if the one at hand turns out to be dead.
    async fn run<T, F>(&self, operation: impl Fn(MultiplexedConnection) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        if let Some(connection) = self.warm() {
            match operation(connection).await {
                Err(error) if error.is_connection_dropped() => *self.connection.lock() = None,
                outcome => return outcome.map_err(|error| self.told(&error)),
            }
        }
        let outcome = match self.connect().await {
            Ok(connection) => operation(connection).await,
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            *self.connection.lock() = None;
        }
        outcome.map_err(|error| self.told(&error))
    }

    async fn command<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, StoreError> {
        self.run(|mut connection| async move { command.query_async(&mut connection).await }).await
    }

    async fn query<T: FromRedisValue>(&self, pipe: &redis::Pipeline) -> Result<T, StoreError> {
        self.run(|mut connection| async move { pipe.query_async(&mut connection).await }).await
    }

    /// Changes what a key holds, if `change` says so after a look at it: a transaction that is repeated while others
    /// overtake it. Says whether it was changed.
    async fn change<T: FromRedisValue + Send>(
        &self,
        key: &str,
        look: &redis::Cmd,
        change: impl Fn(T) -> Option<redis::Cmd> + Sync,
    ) -> Result<bool, StoreError> {
        let _one_at_a_time = self.transaction.lock().await;
        for _ in 0..MOST_TRIES {
            let change = &change;
            let tried = self.run(|mut connection| async move {
                let mut watched = redis::pipe();
                watched.cmd("WATCH").arg(key).ignore().add_command(look.clone());
                let (seen,): (T,) = watched.query_async(&mut connection).await?;
                let Some(change) = change(seen) else {
                    return redis::cmd("UNWATCH").query_async::<()>(&mut connection).await.map(|()| Some(false));
                };
                let mut transaction = redis::pipe();
                transaction.atomic().add_command(change);
                let done: Option<(redis::Value,)> = transaction.query_async(&mut connection).await?;
                Ok(done.map(|_| true))
            });
            if let Some(changed) = tried.await? {
                return Ok(changed);
            }
        }
        Err(StoreError::Throttled {
            store: self.place.clone(),
            why: format!("other writers of {key} came first {MOST_TRIES} times"),
        })
    }

    fn told(&self, error: &RedisError) -> StoreError {
        let store = self.place.clone();
        let why = error.to_string();
        match error.kind() {
            ErrorKind::AuthenticationFailed => StoreError::Refused { store, why },
            ErrorKind::Extension if matches!(error.code(), Some("NOAUTH" | "NOPERM" | "WRONGPASS")) => {
                StoreError::Refused { store, why }
            }
            _ if error.is_io_error() || error.is_timeout() => StoreError::Unreachable { store, why },
            _ => StoreError::Failed { store, why },
        }
    }
}

impl Store for Redis {
    async fn read(&self, wanted: &[Wanted]) -> Result<Contents, StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("EXISTS").arg(self.key(INITED)).cmd("GET").arg(self.key(SYNCED));
        let of = |kind: ItemKind| wanted.iter().filter(move |wanted| wanted.0 == kind).map(|(_, key)| key);
        for kind in [ItemKind::Flag, ItemKind::Segment] {
            // HMGET without fields is an error, so it always has one; no item has an empty key.
            pipe.cmd("HMGET").arg(self.key(namespace(kind))).arg("").arg(of(kind).collect::<Vec<_>>());
        }
        let (initialized, synced, flags, segments): (bool, Option<String>, Found, Found) = self.query(&pipe).await?;
        let (mut flags, mut segments) = (flags.into_iter().skip(1), segments.into_iter().skip(1));
        let items = wanted.iter().map(|(kind, _)| {
            let found = match kind {
                ItemKind::Flag => flags.next(),
                ItemKind::Segment => segments.next(),
            };
            found.flatten().map(Stored::parse)
        });
        Ok(Contents {
            items: items.collect(),
            marks: Marks { initialized, synced: synced.as_deref().and_then(from_millis) },
        })
    }

    async fn all(&self, kind: ItemKind) -> Result<HashMap<String, Stored>, StoreError> {
        let mut all = redis::cmd("HGETALL");
        all.arg(self.key(namespace(kind)));
        let found: HashMap<String, String> = self.command(&all).await?;
        Ok(found.into_iter().map(|(key, json)| (key, Stored::parse(json))).collect())
    }

    async fn put(&self, kind: ItemKind, key: &str, item: &Stored, condition: Condition) -> Result<bool, StoreError> {
        let hash = self.key(namespace(kind));
        let mut look = redis::cmd("HGET");
        look.arg(&hash).arg(key);
        self.change(&hash, &look, |seen: Option<String>| {
            let seen = seen.map(|json| Stored::parse(json).version);
            let holds = match condition {
                Condition::Newer => seen.is_none_or(|version| version < item.version),
                Condition::Unchanged(expected) => seen == expected,
            };
            holds.then(|| {
                let mut set = redis::cmd("HSET");
                set.arg(&hash).arg(key).arg(&item.json);
                set
            })
        })
        .await
    }

    async fn replace(&self, everything: &Everything) -> Result<(), StoreError> {
        let mut transaction = redis::pipe();
        transaction.atomic();
        for (kind, items) in everything.kinds() {
            let hash = self.key(namespace(kind));
            transaction.cmd("DEL").arg(&hash).ignore();
            for (key, item) in items {
                transaction.cmd("HSET").arg(&hash).arg(key).arg(&item.json).ignore();
            }
        }
        transaction.cmd("SET").arg(self.key(INITED)).arg("").ignore();
        let _one_at_a_time = self.transaction.lock().await;
        self.query(&transaction).await
    }

    async fn mark_initialized(&self) -> Result<(), StoreError> {
        let mut set = redis::cmd("SET");
        set.arg(self.key(INITED)).arg("");
        self.command(&set).await
    }

    async fn mark_synced(&self, at: SystemTime) -> Result<(), StoreError> {
        let key = self.key(SYNCED);
        let mut look = redis::cmd("GET");
        look.arg(&key);
        self.change(&key, &look, |seen: Option<String>| {
            let later = seen.as_deref().and_then(from_millis).is_none_or(|seen| seen < at);
            later.then(|| {
                let mut set = redis::cmd("SET");
                set.arg(&key).arg(to_millis(at));
                set
            })
        })
        .await
        .map(drop)
    }
}
