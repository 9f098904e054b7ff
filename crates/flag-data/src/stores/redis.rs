//! Redis.
//!
//! | key | type | value |
//! |---|---|---|
//! | `<prefix>:features` | hash | per flag's key, its JSON |
//! | `<prefix>:segments` | hash | per segment's key, its JSON |
//! | `<prefix>:$inited` | string | empty |
//! | `<prefix>:$synced` | string | milliseconds since 1970 |
//!
//! Only this crate knows the last key. One transaction replaces everything. A Redis Cluster would need all four keys in
//! one slot, which these names do not have, so no LaunchDarkly SDK supports it.
//! <https://launchdarkly.com/docs/sdk/features/storing-data/redis>
//!
//! A conditional write is one Lua script, so that condition and write are atomic and leave no state on the connection.
//! LaunchDarkly's other SDKs WATCH the hash instead, which needs a connection per writer and a retry whenever any item
//! of the hash changes. So the Redis user of a writer needs permission for `EVAL`. The user of a reader, such as the
//! edge function, needs `EXISTS`, `GET` and `HMGET`.

use super::{
    Condition, Contents, DEFAULT_TIMEOUT, Everything, INITED, SYNCED, Store, StoreError, Stored, from_millis,
    namespace, to_millis,
};
use crate::clock::{Clock, Moment};
use crate::items::{ItemKey, ItemKind};
use crate::transport::MAX_IDLE;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, TlsCertificates,
    ToRedisArgs,
};
use scopeguard::ScopeGuard;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// Writes a field of a hash if it still has the text that was read, or is still missing: field, new text, read text.
const PUT_IF_UNCHANGED: &str = r"
if redis.call('HGET', KEYS[1], ARGV[1]) ~= (ARGV[3] or false) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1";

/// Writes a field of a hash unless it holds this version or a newer one: field, new text, version. A text that is not an
/// item has no version, as in [`Stored::parse`].
const PUT_IF_NEWER: &str = r"
local seen = redis.call('HGET', KEYS[1], ARGV[1])
if seen then
    local is_json, item = pcall(cjson.decode, seen)
    local version = is_json and type(item) == 'table' and item.version
    if type(version) == 'number' and version >= tonumber(ARGV[3]) then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1";

/// Writes a number unless the key holds it or a larger one.
const SET_IF_LARGER: &str = r"
local seen = tonumber(redis.call('GET', KEYS[1]) or '')
if seen and seen >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1";

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

impl Redis {
    /// The Redis at this address: `redis://[[user]:password@]host[:port][/database]`, `rediss://` for TLS, or `unix://`.
    /// It connects when it is first used.
    ///
    /// # Errors
    /// [`StoreError::Settings`] for an invalid address.
    pub fn new(url: impl Into<String>) -> Result<Self, StoreError> {
        // The address may hold a password, so no error shows it.
        let client = Client::open(url.into()).map_err(|error| StoreError::Settings {
            store: "the address of Redis".to_owned(),
            why: error.to_string(),
        })?;
        Ok(Self {
            place: format!("Redis at {}", client.get_connection_info().addr()),
            client,
            // The default of LaunchDarkly's SDKs.
            prefix: "launchdarkly".to_owned(),
            clock: Clock::default(),
            timeout: DEFAULT_TIMEOUT,
            connection: Mutex::default(),
        })
    }

    /// The certificate (PEM) of a private authority. Default: the public authorities.
    ///
    /// # Errors
    /// [`StoreError::Settings`] for an invalid certificate.
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Result<Self, StoreError> {
        let pem = pem.into();
        let invalid = |why| StoreError::Settings { store: self.place.clone(), why };
        // The client accepts it, and then trusts no server.
        let start = b"-----BEGIN CERTIFICATE-----";
        if !pem.windows(start.len()).any(|text| text == start) {
            return Err(invalid("the root certificate is not a certificate in PEM format".to_owned()));
        }
        let certificates = TlsCertificates { client_tls: None, root_cert: Some(pem) };
        let client = Client::build_with_tls(self.client.get_connection_info().clone(), certificates);
        self.client = client.map_err(|error| invalid(error.to_string()))?;
        Ok(self)
    }

    /// The environment's prefix, for several environments in one Redis. Default: `launchdarkly`.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The limit of one request. Default: 5 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// A clock that sees freezes.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.prefix)
    }

    /// The connection, unless a freeze may have broken it.
    fn warm(&self) -> Option<MultiplexedConnection> {
        let mut connection = self.connection.lock();
        let (warm, used) = connection.as_mut().filter(|(_, used)| self.clock.since(*used) <= MAX_IDLE)?;
        *used = self.clock.now();
        Some(warm.clone())
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        // `query` limits the whole request; the client's own defaults are shorter.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let new = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        *self.connection.lock() = Some((new.clone(), self.clock.now()));
        Ok(new)
    }

    /// Sends commands within the timeout, and again on a new connection if the present one is dead. A connection is not
    /// used again after a failure or after its caller gave up: a late reply may still arrive on it.
    async fn query<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, StoreError> {
        let attempt = async {
            if let Some(mut connection) = self.warm() {
                match commands.query_async(&mut connection).await {
                    Err(error) if error.is_connection_dropped() => {}
                    outcome => return outcome,
                }
            }
            commands.query_async(&mut self.connect().await?).await
        };
        let suspect = scopeguard::guard((), |()| *self.connection.lock() = None);
        let Ok(outcome) = tokio::time::timeout(self.timeout, attempt).await else {
            let why = format!("no answer within {:?}", self.timeout);
            return Err(StoreError::Unreachable { store: self.place.clone(), why });
        };
        let reply = outcome.map_err(|error| self.error(&error))?;
        ScopeGuard::into_inner(suspect);
        Ok(reply)
    }

    /// Runs a script on one key, and returns whether it wrote.
    async fn write_if(&self, script: &str, key: &str, arguments: impl ToRedisArgs) -> Result<bool, StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("EVAL").arg(script).arg(1).arg(key).arg(arguments);
        let (is_written,) = self.query(&pipe).await?;
        Ok(is_written)
    }

    fn error(&self, error: &RedisError) -> StoreError {
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

impl Store for Redis {
    async fn read(&self, keys: &[ItemKey]) -> Result<Contents, StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("EXISTS").arg(self.key(INITED)).cmd("GET").arg(self.key(SYNCED));
        let of = |kind: ItemKind| keys.iter().filter(move |item| item.0 == kind).map(|(_, key)| key);
        for kind in [ItemKind::Flag, ItemKind::Segment] {
            // HMGET without fields is an error, so it always has one: no item has an empty key.
            pipe.cmd("HMGET").arg(self.key(namespace(kind))).arg("").arg(of(kind).collect::<Vec<_>>());
        }
        let (initialized, synced, flags, segments): (_, Option<String>, _, _) = self.query(&pipe).await?;
        let [mut flags, mut segments] = [flags, segments].map(|found: Vec<_>| found.into_iter().skip(1));
        let items = keys.iter().map(|(kind, _)| {
            let found = match kind {
                ItemKind::Flag => flags.next(),
                ItemKind::Segment => segments.next(),
            };
            found.flatten().map(Stored::parse)
        });
        Ok(Contents { items: items.collect(), initialized, synced: synced.as_deref().and_then(from_millis) })
    }

    async fn all(&self, kind: ItemKind) -> Result<HashMap<String, Stored>, StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("HGETALL").arg(self.key(namespace(kind)));
        let (found,): (HashMap<String, String>,) = self.query(&pipe).await?;
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
        match condition {
            Condition::Newer => self.write_if(PUT_IF_NEWER, &hash, (key, &item.json, item.version)).await,
            Condition::Unchanged(seen) => {
                let seen = seen.map(|seen| &seen.json);
                self.write_if(PUT_IF_UNCHANGED, &hash, (key, &item.json, seen)).await
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
        let mut pipe = redis::pipe();
        pipe.cmd("SET").arg(self.key(INITED)).arg("").ignore();
        self.query(&pipe).await
    }

    async fn mark_synced(&self, at: SystemTime) -> Result<(), StoreError> {
        self.write_if(SET_IF_LARGER, &self.key(SYNCED), to_millis(at)).await.map(drop)
    }
}
