//! Tells the SDK's event sender of evaluations, after the viewers have their answers.
//!
//! The client that decides sends no events: the SDK starts six threads and a runtime for them, which is a third of what a
//! cold start takes, and each event costs its viewer a context's copy and a thread's wake-up. So what was decided is
//! evaluated once more between invocations, from the same data, by a client that sends events; that one is started when
//! the first viewer has his answer.

use super::client::{StartError, client};
use super::events::EventSender;
use super::snapshot::{Data, Snapshot};
use crate::settings::Settings;
use flag_data::sdk_key::SdkKey;
use launchdarkly_server_sdk::{Client, Context, PersistentDataStoreBuilder};
use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use std::sync::Arc;

/// How many evaluations wait at most; an environment makes one at a time.
const MOST_WAITING: usize = 100;

/// Evaluates again, for the events.
pub(super) struct Reporter {
    settings: Arc<Settings>,
    key: SdkKey,
    events: EventSender,
    client: OnceCell<Client>,
    /// What the client evaluates from: in turn the data that each evaluation was made from.
    snapshot: Snapshot,
    waiting: Mutex<Vec<(Context, Data)>>,
}

impl Reporter {
    pub(super) fn new(settings: Arc<Settings>, key: SdkKey, events: EventSender) -> Self {
        let (client, snapshot, waiting) = (OnceCell::new(), Snapshot::default(), Mutex::default());
        Self { settings, key, events, client, snapshot, waiting }
    }

    /// Takes note of an evaluation that was just made from the snapshot.
    pub(super) fn evaluated(&self, context: Context, snapshot: &Snapshot) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < MOST_WAITING {
            waiting.push((context, snapshot.data()));
        }
    }

    /// Makes the events of what waits, and says how many evaluations that were.
    pub(super) fn report(&self) -> Result<usize, StartError> {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        if waiting.is_empty() {
            return Ok(0);
        }
        let client = self.client.get_or_try_init(|| {
            let mut store = PersistentDataStoreBuilder::new(Arc::new(self.snapshot.clone()));
            // Any cache of the SDK's would hide a change of the data.
            store.no_caching();
            client(&self.settings, Some(&self.key), &store, Some(&self.events))
        })?;
        let count = waiting.len();
        for (context, data) in waiting {
            self.snapshot.set(data);
            client.bool_variation_detail(&context, &self.settings.flag_key, false);
        }
        Ok(count)
    }

    /// The client that has the events, if there were any.
    pub(super) fn client(&self) -> Option<&Client> {
        self.client.get()
    }
}
