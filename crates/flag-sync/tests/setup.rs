//! Shared by the tests: LaunchDarkly as flag-sync reads it, and a run.

use flag_data::clock::Clock;
use flag_data::sdk_key::SdkKey;
use flag_data::sources::LaunchDarkly;
use flag_data::stores::Store;
use flag_data::transport::Transport;
use flag_sync::writer::{Report, SyncError, SyncRules};
use std::time::Duration;

/// A LaunchDarkly as flag-sync reads it.
pub(crate) fn source(standin: &standins::LaunchDarkly) -> LaunchDarkly {
    let key = SdkKey::parse("sdk-test").unwrap().unwrap();
    let transport = Transport::new(Clock::default(), Duration::from_secs(10));
    LaunchDarkly::new(transport, &standin.uri(), &key)
}

pub(crate) async fn sync(store: &impl Store, launchdarkly: &LaunchDarkly) -> Result<Report, SyncError> {
    let rules = SyncRules { cache_wait: Duration::from_millis(1), confirm_mass_change: false };
    flag_sync::writer::sync(store, launchdarkly, rules, |_, _| ()).await
}

/// The same where a mass change is confirmed.
pub(crate) async fn sync_confirmed(store: &impl Store, launchdarkly: &LaunchDarkly) -> Result<Report, SyncError> {
    let rules = SyncRules { cache_wait: Duration::from_millis(1), confirm_mass_change: true };
    flag_sync::writer::sync(store, launchdarkly, rules, |_, _| ()).await
}
