//! The SDK key of a LaunchDarkly environment. The build script of the edge function includes this file too.

use std::fmt;

/// The environment variable that holds the SDK key.
pub const SDK_KEY_VARIABLE: &str = "LAUNCHDARKLY_SDK_KEY";

/// A text that cannot be an SDK key. The error never holds the text.
#[derive(Debug, thiserror::Error)]
#[error(
    "{SDK_KEY_VARIABLE} {0} (its value is not shown); expected the SDK key of a LaunchDarkly environment, which starts \
     with \"sdk-\""
)]
pub struct SdkKeyError(&'static str);

/// A LaunchDarkly SDK key. It has no `Display`, and its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct SdkKey(String);

impl SdkKey {
    /// Checks a key; an empty text, or white space alone, means that there is none.
    ///
    /// # Errors
    /// A text that cannot be an SDK key. The error never holds the text.
    pub fn parse(text: &str) -> Result<Option<Self>, SdkKeyError> {
        let text = text.trim();
        if text.is_empty() {
            Ok(None)
        } else if !text.chars().all(|c| c.is_ascii_graphic()) {
            Err(SdkKeyError("contains characters that are not allowed in a key"))
        } else if text.starts_with("mob-") {
            Err(SdkKeyError("is a mobile key"))
        } else if text.starts_with("api-") {
            Err(SdkKeyError("is an API access token"))
        } else {
            Ok(Some(Self(text.to_owned())))
        }
    }

    /// The key itself, for LaunchDarkly's SDK, an `Authorization` header, or to compile it in. Never log it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SdkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SdkKey(not shown)")
    }
}
