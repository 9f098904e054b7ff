//! What the tests share: LaunchDarkly as flag-sync reads it, and a run.

use flag_data::clock::Clock;
use flag_data::sdk_key::SdkKey;
use flag_data::sources::LaunchDarkly;
use flag_data::stores::Store;
use flag_data::transport::Transport;
use flag_sync::writer::{MassChange, Report, SyncError};
use std::time::Duration;

/// A LaunchDarkly as flag-sync reads it.
pub(crate) fn source(standin: &standins::LaunchDarkly) -> LaunchDarkly {
    let key = SdkKey::parse("sdk-test").unwrap().unwrap();
    let transport = Transport::new(Clock::default(), Duration::from_secs(10));
    LaunchDarkly::new(transport, &standin.uri(), &key)
}

pub(crate) async fn sync(store: &impl Store, launchdarkly: &LaunchDarkly) -> Result<Report, SyncError> {
    let pause = Duration::from_millis(1);
    flag_sync::writer::sync(store, launchdarkly, pause, MassChange::Unconfirmed, |_, _| ()).await
}
