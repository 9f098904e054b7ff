//! LaunchDarkly's webhook: a signed notice that something changed.
//!
//! Only its signature is looked at. Nothing in the body is needed, and nothing that a stranger sent is ever parsed:
//! deliveries come late, twice and out of order, so what changed is fetched from LaunchDarkly itself.
//! <https://launchdarkly.com/docs/integrations/webhooks>

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use http::HeaderMap;
use ring::hmac;

/// The header with the HMAC-SHA256 of the raw body, in hexadecimal.
const SIGNATURE: &str = "x-ld-signature";

/// The key that LaunchDarkly signs with.
#[derive(Debug)]
pub struct WebhookSecret(hmac::Key);

impl WebhookSecret {
    /// Takes the secret of the webhook; `None` when there is none, which nothing can be signed with.
    pub fn new(secret: &str) -> Option<Self> {
        let secret = secret.trim();
        (!secret.is_empty()).then(|| Self(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())))
    }

    /// Whether LaunchDarkly sent this. Compares in constant time.
    pub fn signed(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let Some(signature) = headers.get(SIGNATURE) else { return false };
        let Ok(signature) = HEXLOWER_PERMISSIVE.decode(signature.as_bytes()) else { return false };
        hmac::verify(&self.0, body, &signature).is_ok()
    }
}

/// The raw body of a request, as it was before API Gateway packed it; `None` if that is unknown.
pub fn raw_body(body: Option<String>, is_base64: bool) -> Option<Vec<u8>> {
    let body = body.unwrap_or_default();
    if is_base64 { BASE64.decode(body.as_bytes()).ok() } else { Some(body.into_bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    /// RFC 4231, test case 2.
    const SECRET: &str = "Jefe";
    const BODY: &[u8] = b"what do ya want for nothing?";
    const RIGHT: &str = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";

    #[track_caller]
    fn check(name: &'static str, signature: &str, body: &[u8], expected: bool) {
        let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        let headers = HeaderMap::from_iter([(name, HeaderValue::from_str(signature).unwrap())]);
        assert_eq!(WebhookSecret::new(SECRET).unwrap().signed(&headers, body), expected, "{signature}");
    }

    #[test]
    fn only_the_right_signature_of_this_body_is_taken() {
        check("X-LD-Signature", RIGHT, BODY, true);
        check("x-ld-signature", &RIGHT.to_uppercase(), BODY, true);
        check("X-LD-Signature", RIGHT, b"what do ya want for nothing!", false);
        check("X-LD-Signature", RIGHT, b"", false);
        check("X-LD-Signature", &RIGHT.replace('5', "6"), BODY, false);
        check("X-LD-Signature", RIGHT.split_at(32).0, BODY, false);
        check("X-LD-Signature", "", BODY, false);
        check("X-LD-Signature", "not hexadecimal", BODY, false);
        check("X-Other", RIGHT, BODY, false);
    }

    #[test]
    fn an_empty_secret_is_none() {
        assert!(WebhookSecret::new(" \n").is_none());
        assert!(!format!("{:?}", WebhookSecret::new(SECRET)).contains(SECRET));
    }

    #[test]
    fn a_packed_body_is_unpacked() {
        assert_eq!(raw_body(Some("eyJhIjoxfQ==".to_owned()), true).as_deref(), Some(br#"{"a":1}"#.as_slice()));
        assert_eq!(raw_body(Some("{}".to_owned()), false).as_deref(), Some(b"{}".as_slice()));
        assert_eq!(raw_body(None, false).as_deref(), Some(b"".as_slice()));
        assert_eq!(raw_body(Some("{}".to_owned()), true), None);
    }
}
