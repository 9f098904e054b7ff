//! Makes the events of evaluations, after the response.
//!
//! The deciding client sends no events. For events the SDK starts six threads and a runtime, a third of a cold start's CPU
//! time, and each event costs a copy of the context and a thread's wake-up while the viewer waits. So a second client
//! evaluates each visit again between invocations, from the same data. It starts after the first response.

use super::client::{StartError, client};
use super::events::EventTransport;
use super::snapshot::{Data, Snapshot};
use crate::settings::Settings;
use flag_data::sdk_key::SdkKey;
use launchdarkly_server_sdk::{Client, Context, PersistentDataStoreBuilder};
use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use std::sync::Arc;

/// Evaluates visits again, to make their events.
pub(super) struct Reporter {
    settings: Arc<Settings>,
    key: SdkKey,
    events: EventTransport,
    client: OnceCell<Client>,
    /// The data of the evaluation that is reported.
    snapshot: Snapshot,
    /// The evaluation that has no event yet, and its data. There is one at most: an environment handles one request at a
    /// time.
    waiting: Mutex<Option<(Context, Data)>>,
}

impl Reporter {
    pub(super) fn new(settings: Arc<Settings>, key: SdkKey, events: EventTransport) -> Self {
        let (client, snapshot, waiting) = (OnceCell::new(), Snapshot::default(), Mutex::default());
        Self { settings, key, events, client, snapshot, waiting }
    }

    /// Records an evaluation that was just made from this data.
    pub(super) fn evaluated(&self, context: Context, data: Data) {
        *self.waiting.lock() = Some((context, data));
    }

    /// Makes the event of the recorded evaluation; returns whether there was one.
    pub(super) fn report(&self) -> Result<bool, StartError> {
        let Some((context, data)) = self.waiting.lock().take() else { return Ok(false) };
        let client = self.client.get_or_try_init(|| {
            let mut store = PersistentDataStoreBuilder::new(Arc::new(self.snapshot.clone()));
            // A cache of the SDK would hide changes of the data.
            store.no_caching();
            client(&self.settings, Some(&self.key), &store, Some(&self.events))
        })?;
        self.snapshot.set(data);
        client.bool_variation_detail(&context, &self.settings.flag_key, false);
        Ok(true)
    }

    /// The client that holds the events, if there were any.
    pub(super) fn client(&self) -> Option<&Client> {
        self.client.get()
    }
}
