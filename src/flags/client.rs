//! LaunchDarkly's SDK clients: how one is configured and started.

use super::events::{EventTransport, processor};
use super::snapshot::{Data, Snapshot};
use crate::settings::{Events, Settings, Updates};
use bytes::Bytes;
use flag_data::sdk_key::SdkKey;
use flag_data::sources::SourceError;
use http::{Request, StatusCode};
use launchdarkly_sdk_transport::{HttpTransport, HyperTransport, ResponseFuture};
use launchdarkly_server_sdk::{
    Client, ConfigBuilder, NullEventProcessorBuilder, PersistentDataStoreBuilder, PollingDataSourceBuilder,
    ServiceEndpointsBuilder, StreamingDataSourceBuilder,
};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Why the client did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// LaunchDarkly's SDK rejected its configuration.
    #[error("the LaunchDarkly client did not start: {0}")]
    Client(String),
    /// The HTTP transport was not built.
    #[error("no HTTP transport: {0}")]
    Transport(#[from] std::io::Error),
}

/// The deciding client and its data, which never changes, so that the SDK parses it once. It is empty if the SDK streams or
/// polls.
pub(super) struct Decider {
    pub(super) client: Client,
    pub(super) data: Data,
}

impl Decider {
    pub(super) fn new(
        settings: &Settings,
        key: Option<&SdkKey>,
        data: Data,
        events: Option<&EventTransport>,
    ) -> Result<Self, StartError> {
        let snapshot = Snapshot::default();
        snapshot.set(data.clone());
        let mut store = PersistentDataStoreBuilder::new(Arc::new(snapshot));
        store.cache_forever();
        Ok(Self { client: client(settings, key, &store, events)?, data })
    }
}

/// Starts a client. Without a sender it sends no events. In daemon mode it reads the store.
pub(super) fn client(
    settings: &Settings,
    key: Option<&SdkKey>,
    store: &PersistentDataStoreBuilder,
    events: Option<&EventTransport>,
) -> Result<Client, StartError> {
    let mut endpoints = ServiceEndpointsBuilder::new();
    endpoints
        .polling_base_url(&settings.launchdarkly_base_uri)
        .streaming_base_url(&settings.launchdarkly_stream_uri)
        .events_base_url(&settings.launchdarkly_events_uri);
    let config = ConfigBuilder::new(key.map_or("offline", SdkKey::reveal)).service_endpoints(&endpoints);
    let config = match events.filter(|_| settings.events != Events::Off) {
        Some(sender) => config.event_processor(&processor(sender)),
        None => config.event_processor(&NullEventProcessorBuilder::new()),
    };
    let config = match settings.updates {
        Updates::Streaming if key.is_some() => {
            // LaunchDarkly sends a heartbeat every 3 minutes; without a read timeout a dead stream is never noticed.
            let read = Duration::from_secs(300);
            config.data_source(StreamingDataSourceBuilder::new().transport(updates_transport(read)?))
        }
        Updates::Polling if key.is_some() => {
            let read = Duration::from_secs(10);
            config.data_source(PollingDataSourceBuilder::new().transport(updates_transport(read)?))
        }
        _ => config.daemon_mode(true).data_store(store),
    };
    let config = config.build().map_err(|error| StartError::Client(error.to_string()))?;
    let client = Client::build(config).map_err(|error| StartError::Client(error.to_string()))?;
    client.start_with_default_executor();
    Ok(client)
}

/// The transport of the SDK's own streaming and polling.
#[derive(Clone)]
struct UpdatesTransport<T> {
    https: T,
    /// The problem that was logged last.
    logged: Arc<Mutex<Option<StatusCode>>>,
}

fn updates_transport(read_timeout: Duration) -> Result<UpdatesTransport<impl HttpTransport>, StartError> {
    let connect = Duration::from_secs(3);
    let https = HyperTransport::builder().connect_timeout(connect).read_timeout(read_timeout).build_https()?;
    Ok(UpdatesTransport { https, logged: Arc::default() })
}

impl<T: HttpTransport> HttpTransport for UpdatesTransport<T> {
    /// After any 4xx except 400, 408 and 429 the SDK stops requesting for good, and a flag that is switched off would reach
    /// nobody. But a rejected key may be accepted a moment later.
    fn request(&self, request: Request<Option<Bytes>>) -> ResponseFuture {
        let (uri, logged) = (request.uri().to_string(), self.logged.clone());
        let response = self.https.request(request);
        Box::pin(async move {
            let mut response = response.await?;
            let status = response.status();
            let problem = status.is_client_error().then_some(status);
            let before = std::mem::replace(&mut *logged.lock(), problem);
            match problem {
                Some(status) => {
                    if before != problem {
                        log::error!("flag data not fetched: {}", SourceError::of_status(uri, status.as_u16()));
                    }
                    *response.status_mut() = StatusCode::BAD_REQUEST;
                }
                None if before.is_some() => log::warn!("fetching flag data works again"),
                None => {}
            }
            Ok(response)
        })
    }
}
