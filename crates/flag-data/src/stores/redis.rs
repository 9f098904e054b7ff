//! Redis.
//!
//! | key | type | value |
//! |---|---|---|
//! | `<prefix>:features` | hash | per flag's key, its JSON |
//! | `<prefix>:segments` | hash | per segment's key, its JSON |
//! | `<prefix>:$inited` | string | empty |
//! | `<prefix>:$synced` | string | milliseconds since 1970 |
//!
//! The last is this crate's own. Everything is replaced in one transaction. A Redis Cluster would need all four keys in
//! one slot, which the other SDKs' names do not give, so none of them supports it.
//! <https://launchdarkly.com/docs/sdk/features/storing-data/redis>
//!
//! A conditional write is one Lua script, so that condition and write are one request: it happens as a whole or not at
//! all, and nothing of it stays on the connection. LaunchDarkly's other SDKs WATCH the hash instead, which takes a
//! connection per writer and starts again whenever any item of the hash changes. The price: the Redis user of a writer
//! needs the permission for `EVAL`. That of a reader, such as the edge function, needs `EXISTS`, `GET` and `HMGET`.

use super::{
    Condition, Contents, DEFAULT_TIMEOUT, DataStore, Everything, INITED, Marks, SYNCED, Store, StoreError, Stored,
    from_millis, namespace, to_millis,
};
use crate::clock::{Clock, Moment};
use crate::items::{ItemKey, ItemKind};
use crate::transport::MAX_IDLE;
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
const DEFAULT_PREFIX: &str = "launchdarkly";

/// Writes a field of a hash if it has the text that was seen, or is missing as seen: field, new text, seen text.
const PUT_IF_UNCHANGED: &str = r"
if redis.call('HGET', KEYS[1], ARGV[1]) ~= (ARGV[3] or false) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1";

/// Writes a field of a hash unless it holds this version or a newer one: field, new text, version. What is not an item
/// has no version, as in [`Stored::parse`].
const PUT_IF_NEWER: &str = r"
local seen = redis.call('HGET', KEYS[1], ARGV[1])
if seen then
    local is_json, item = pcall(cjson.decode, seen)
    local version = is_json and type(item) == 'table' and item.version
    if type(version) == 'number' and version >= tonumber(ARGV[3]) then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1";

/// Writes a number unless it is there or a larger one.
const SET_IF_LARGER: &str = r"
local seen = tonumber(redis.call('GET', KEYS[1]) or '')
if seen and seen >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1";

/// How each certificate of a PEM file starts.
const PEM_START: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// What HMGET gives.
type Found = Vec<Option<String>>;

/// Flag data in Redis.
pub struct Redis {
    client: Client,
    prefix: String,
    clock: Clock,
    timeout: Duration,
    connection: Mutex<Option<(MultiplexedConnection, Moment)>>,
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
            prefix: DEFAULT_PREFIX.to_owned(),
            root_certificate: None,
            clock: Clock::default(),
            timeout: DEFAULT_TIMEOUT,
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
    timeout: Duration,
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
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The clock that sees a freeze.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
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
                let why = "the root certificate is not a certificate in PEM form".to_owned();
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
            timeout: self.timeout,
            connection: Mutex::default(),
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
        let (warm, used) = connection.as_mut().filter(|(_, used)| self.clock.since(*used) <= MAX_IDLE)?;
        *used = self.clock.now();
        Some(warm.clone())
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        // The limit is that of the whole request; the client's own default is shorter.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let new = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        *self.connection.lock() = Some((new.clone(), self.clock.now()));
        Ok(new)
    }

    /// Runs an operation, for at most the timeout; once more on a new connection if the present one turns out to be
    /// dead. A connection on which anything failed, or whose caller gave up, is not used again: an answer may still be
    /// on its way, or the connection may have died without notice.
    async fn run<T, F>(&self, operation: impl Fn(MultiplexedConnection) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let attempt = async {
            if let Some(connection) = self.warm() {
                match operation(connection).await {
                    Err(error) if error.is_connection_dropped() => *self.connection.lock() = None,
                    outcome => return outcome,
                }
            }
            operation(self.connect().await?).await
        };
        let mut in_flight = InFlight { connection: &self.connection, is_answered: false };
        let outcome = tokio::time::timeout(self.timeout, attempt).await;
        in_flight.is_answered = matches!(outcome, Ok(Ok(_)));
        drop(in_flight);
        let why = || format!("no answer within {:?}", self.timeout);
        let outcome = outcome.map_err(|_| StoreError::Unreachable { store: self.place.clone(), why: why() })?;
        outcome.map_err(|error| self.failed(&error))
    }

    async fn command<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, StoreError> {
        self.run(|mut connection| async move { command.query_async(&mut connection).await }).await
    }

    async fn query<T: FromRedisValue>(&self, pipe: &redis::Pipeline) -> Result<T, StoreError> {
        self.run(|mut connection| async move { pipe.query_async(&mut connection).await }).await
    }

    /// Runs a script on one key; it returns whether it wrote.
    async fn write_if(&self, script: &str, key: &str, arguments: &[&str]) -> Result<bool, StoreError> {
        let mut eval = redis::cmd("EVAL");
        eval.arg(script).arg(1).arg(key).arg(arguments);
        self.command(&eval).await
    }

    fn failed(&self, error: &RedisError) -> StoreError {
        let store = self.place.clone();
        let why = error.to_string();
        match error.kind() {
            ErrorKind::AuthenticationFailed => StoreError::Refused { store, why },
            _ if matches!(error.code(), Some("NOAUTH" | "NOPERM" | "WRONGPASS")) => StoreError::Refused { store, why },
            _ if error.is_io_error() || error.is_timeout() => StoreError::Unreachable { store, why },
            _ => StoreError::Failed { store, why },
        }
    }
}

/// A call on its way. Dropped without an answer, it takes the connection along.
struct InFlight<'a> {
    connection: &'a Mutex<Option<(MultiplexedConnection, Moment)>>,
    is_answered: bool,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            *self.connection.lock() = None;
        }
    }
}

impl Store for Redis {
    async fn read(&self, wanted: &[ItemKey]) -> Result<Contents, StoreError> {
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

    async fn put(
        &self,
        kind: ItemKind,
        key: &str,
        item: &Stored,
        condition: Condition<'_>,
    ) -> Result<bool, StoreError> {
        let hash = self.key(namespace(kind));
        let version = item.version.to_string();
        match condition {
            Condition::Newer => self.write_if(PUT_IF_NEWER, &hash, &[key, &item.json, &version]).await,
            Condition::Unchanged(None) => self.write_if(PUT_IF_UNCHANGED, &hash, &[key, &item.json]).await,
            Condition::Unchanged(Some(seen)) => {
                self.write_if(PUT_IF_UNCHANGED, &hash, &[key, &item.json, &seen.json]).await
            }
        }
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
        self.query(&transaction).await
    }

    async fn mark_initialized(&self) -> Result<(), StoreError> {
        let mut set = redis::cmd("SET");
        set.arg(self.key(INITED)).arg("");
        self.command(&set).await
    }

    async fn mark_synced(&self, at: SystemTime) -> Result<(), StoreError> {
        self.write_if(SET_IF_LARGER, &self.key(SYNCED), &[&to_millis(at).to_string()]).await.map(drop)
    }
}
