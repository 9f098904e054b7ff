//! The token of preview links, a secret. The build script of the edge function includes this file too.

use std::fmt;

/// The environment variable that holds the token.
pub const PREVIEW_TOKEN_VARIABLE: &str = "REDIRECT_PREVIEW_TOKEN";

/// A text that cannot be a token. The error never holds the text.
#[derive(Debug, thiserror::Error)]
#[error(
    "{PREVIEW_TOKEN_VARIABLE} is not a preview token (its value is not shown); expected 16 to 128 letters, digits, '.', \
     '_' and '-'. Run `just preview-link` to make one"
)]
pub struct PreviewTokenError;

/// The token of preview links. It has no `Display`, and its `Debug` does not show it.
#[derive(Clone)]
pub struct PreviewToken(String);

impl PreviewToken {
    /// Checks a token; an empty text, or white space alone, means that there is none.
    ///
    /// # Errors
    /// A text that cannot be a token.
    pub fn parse(text: &str) -> Result<Option<Self>, PreviewTokenError> {
        let text = text.trim();
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        match text.len() {
            0 => Ok(None),
            16..=128 if text.chars().all(fits) => Ok(Some(Self(text.to_owned()))),
            _ => Err(PreviewTokenError),
        }
    }

    /// The token itself, to compile it in and to compare with it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PreviewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PreviewToken(not shown)")
    }
}
