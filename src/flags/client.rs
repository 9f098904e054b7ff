//! LaunchDarkly's SDK clients: how one is configured and started.

use super::events::{EventSender, processor};
use super::snapshot::{Data, Snapshot};
use crate::settings::{Settings, Updates};
use flag_data::sdk_key::SdkKey;
use launchdarkly_sdk_transport::HyperTransport;
use launchdarkly_server_sdk::{
    Client, ConfigBuilder, NullEventProcessorBuilder, PersistentDataStoreBuilder, PollingDataSourceBuilder,
    ServiceEndpointsBuilder, StreamingDataSourceBuilder,
};
use std::sync::Arc;
use std::time::Duration;

/// Why the client did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// LaunchDarkly's SDK did not take its configuration.
    #[error("the LaunchDarkly client did not start: {0}")]
    Client(String),
    /// No HTTP transport could be made.
    #[error("no HTTP transport: {0}")]
    Transport(#[from] std::io::Error),
}

/// The client that decides, and what it decides from: the SDK reads data that never changes only once. Where the SDK
/// keeps the data fresh itself, the snapshot stays empty.
pub(super) struct Decider {
    pub(super) client: Client,
    pub(super) snapshot: Snapshot,
}

impl Decider {
    pub(super) fn new(
        settings: &Settings,
        key: Option<&SdkKey>,
        data: Data,
        events: Option<&EventSender>,
    ) -> Result<Self, StartError> {
        let snapshot = Snapshot::default();
        snapshot.set(data);
        let mut store = PersistentDataStoreBuilder::new(Arc::new(snapshot.clone()));
        store.cache_forever();
        Ok(Self { client: client(settings, key, &store, events)?, snapshot })
    }
}

/// A started client; one that sends no events without an `events` sender. The store is that of daemon mode.
pub(super) fn client(
    settings: &Settings,
    key: Option<&SdkKey>,
    store: &PersistentDataStoreBuilder,
    events: Option<&EventSender>,
) -> Result<Client, StartError> {
    let mut endpoints = ServiceEndpointsBuilder::new();
    endpoints
        .polling_base_url(&settings.launchdarkly_base_uri)
        .streaming_base_url(&settings.launchdarkly_stream_uri)
        .events_base_url(&settings.launchdarkly_events_uri);
    let config = ConfigBuilder::new(key.map_or("offline", SdkKey::reveal)).service_endpoints(&endpoints);
    let config = match events.and_then(|events| processor(settings.events, events)) {
        Some(processor) => config.event_processor(&processor),
        None => config.event_processor(&NullEventProcessorBuilder::new()),
    };
    let connect = Duration::from_secs(3);
    let config = match settings.updates {
        Updates::Streaming if key.is_some() => {
            // LaunchDarkly sends a heartbeat every 3 minutes; without a read timeout a dead stream is never noticed.
            let read = Duration::from_secs(300);
            let transport = HyperTransport::builder().connect_timeout(connect).read_timeout(read).build_https()?;
            config.data_source(StreamingDataSourceBuilder::new().transport(transport))
        }
        Updates::Polling if key.is_some() => {
            let read = Duration::from_secs(10);
            let transport = HyperTransport::builder().connect_timeout(connect).read_timeout(read).build_https()?;
            config.data_source(PollingDataSourceBuilder::new().transport(transport))
        }
        _ => config.daemon_mode(true).data_store(store),
    };
    let config = config.build().map_err(|error| StartError::Client(error.to_string()))?;
    let client = Client::build(config).map_err(|error| StartError::Client(error.to_string()))?;
    client.start_with_default_executor();
    Ok(client)
}
