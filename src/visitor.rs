//! Who the visitor is, and what their cookies, headers and preview link say. Only this module reads them, and only if a
//! setting needs them. Viewers can send any header and cookie they like.

use crate::cloudfront::{Headers, ViewerRequest};
use crate::preview_token::PreviewToken;
use crate::redirect::{Cookie, Preview, Signals};
use crate::settings::{GUARD_COOKIE, PREVIEW_COOKIE, Settings};
use launchdarkly_server_sdk::{Context, ContextBuilder, Reference};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The query parameter of a preview link.
pub const PREVIEW_PARAMETER: &str = "redirect-preview";

/// The shortest life of the guard cookie. With less, environments that disagree could redirect a visitor in a circle.
const MIN_GUARD: Duration = Duration::from_secs(10);

/// The longest value of an attribute, in bytes; the rest is cut. Rules look for words, and each byte is copied.
const MAX_ATTRIBUTE: usize = 1_024;

/// How visitors are recognized, according to the settings.
pub struct Visitors {
    settings: Arc<Settings>,
    secret: Option<PreviewSecret>,
    reads_headers: bool,
}

impl Visitors {
    /// `token` is that of preview links, if there are any.
    pub fn new(settings: Arc<Settings>, token: Option<&PreviewToken>) -> Self {
        let reads_headers = token.is_some()
            || settings.current_path == "/"
            || !settings.visitor_cookie.is_empty()
            || !settings.context_headers.is_empty();
        Self { settings, secret: token.map(PreviewSecret::new), reads_headers }
    }

    /// Reads the parts of a request that the settings need.
    pub fn viewer<'a>(&'a self, request: &'a ViewerRequest<'_>) -> Viewer<'a> {
        let headers = request.headers.filter(|_| self.reads_headers).map(Headers::parse).unwrap_or_default();
        let cookies = headers.values("cookie");
        Viewer { visitors: self, request, headers, cookies }
    }

    /// The value of a `Set-Cookie` header. `Secure`, because the site is on HTTPS; the id is not `HttpOnly`, so that the
    /// page's analytics can use it too.
    pub fn set_cookie(&self, cookie: &Cookie) -> String {
        let Settings { visitor_cookie, visitor_cookie_days, max_staleness, .. } = &*self.settings;
        let (name, value, age) = match cookie {
            Cookie::Visitor(id) => {
                let age = visitor_cookie_days * 86_400;
                return format!("{visitor_cookie}={id}; Max-Age={age}; Path=/; Secure; SameSite=Lax");
            }
            Cookie::Preview => (PREVIEW_COOKIE, self.secret.as_ref().map_or("", |secret| &secret.cookie), None),
            Cookie::PreviewOff => (PREVIEW_COOKIE, "", Some(0)),
            Cookie::Guard => (GUARD_COOKIE, "1", Some(MIN_GUARD.max(*max_staleness).as_secs())),
        };
        let age = age.map(|age| format!(" Max-Age={age};")).unwrap_or_default();
        format!("{name}={value};{age} Path=/; Secure; HttpOnly; SameSite=Lax")
    }
}

/// The parts of a request that identify the viewer.
pub struct Viewer<'a> {
    visitors: &'a Visitors,
    request: &'a ViewerRequest<'a>,
    headers: Headers<'a>,
    /// The values of the `Cookie` headers.
    cookies: Vec<Cow<'a, str>>,
}

impl Viewer<'_> {
    /// The signals for the decision, and the query without a preview link's parameter.
    pub fn signals(&self) -> (Signals, Option<Cow<'_, str>>) {
        let query = self.request.querystring.as_deref();
        if !self.visitors.reads_headers {
            return (Signals::default(), query.map(Cow::Borrowed));
        }
        let (preview, query) = match query.and_then(|query| self.preview_parameter(query)) {
            Some((preview, rest)) => (preview, Some(Cow::Owned(rest))),
            None => (self.preview_cookie(), query.map(Cow::Borrowed)),
        };
        let is_guarded = self.cookie(GUARD_COOKIE, |value| value == "1").is_some();
        let is_subresource = self.headers.values("sec-fetch-dest").iter().any(|value| value != "document");
        (Signals { preview, is_guarded, is_subresource, is_internal: self.is_internal() }, query)
    }

    /// The visitor: by their cookie, else by a new id if the answer `accepts_id`, else by the client IP. `None` if that is
    /// not valid either.
    pub fn visitor(&self, accepts_id: bool) -> Option<Visitor<'_>> {
        let Settings { visitor_cookie, visitor_cookie_days, context_headers, .. } = &*self.visitors.settings;
        let by_cookie = !visitor_cookie.is_empty();
        let known = by_cookie.then(|| self.cookie(visitor_cookie, is_id)).flatten();
        let mints = by_cookie && known.is_none() && accepts_id && *visitor_cookie_days > 0;
        let minted = mints.then(new_id).flatten();
        let is_new = minted.is_some();
        let address = self.request.client_ip.as_deref().filter(|ip| ip.parse::<IpAddr>().is_ok());
        let key = known.map(Cow::Borrowed).or(minted.map(Cow::Owned)).or(address.map(Cow::Borrowed))?;
        let attributes = context_headers.iter().filter_map(|name| Some((name.as_str(), self.attribute(name)?)));
        Some(Visitor { key, is_new, attributes: attributes.collect() })
    }

    /// The first valid value of a cookie.
    fn cookie(&self, name: &str, is_valid: impl Fn(&str) -> bool) -> Option<&str> {
        let pairs = self.cookies.iter().flat_map(|header| header.split(';'));
        let values = pairs.filter_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='));
        values.into_iter().find(|value| is_valid(value))
    }

    /// The meaning of the query's preview parameter, and the rest of the query. An invalid or repeated parameter stays in
    /// the query.
    fn preview_parameter(&self, query: &str) -> Option<(Preview, String)> {
        let secret = self.visitors.secret.as_ref()?;
        let is_preview = |part: &&str| part.split('=').next() == Some(PREVIEW_PARAMETER);
        let mut parameters = query.split('&').filter(is_preview);
        let (Some(parameter), None) = (parameters.next(), parameters.next()) else { return None };
        let (_, value) = parameter.split_once('=')?;
        let preview = match value {
            "off" => Preview::Ends,
            _ if secret.is_token(value) => Preview::Begins,
            _ => return None,
        };
        let rest: Vec<_> = query.split('&').filter(|part| !is_preview(part)).collect();
        Some((preview, rest.join("&")))
    }

    fn preview_cookie(&self) -> Preview {
        let secret = self.visitors.secret.as_ref();
        let is_shown = |value: &str| secret.is_some_and(|secret| secret.is_cookie(value));
        if self.cookie(PREVIEW_COOKIE, is_shown).is_some() {
            Preview::Shown
        } else if self.cookie(PREVIEW_COOKIE, |_| true).is_some() {
            Preview::Outdated
        } else {
            Preview::Absent
        }
    }

    /// Whether the viewer followed a link on this host: by `Sec-Fetch-Site`, or by the `Referer` of older browsers.
    /// <https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header>
    fn is_internal(&self) -> bool {
        let sites = self.headers.values("sec-fetch-site");
        if !sites.is_empty() {
            return sites.iter().any(|site| site == "same-origin");
        }
        let (referers, hosts) = (self.headers.values("referer"), self.headers.values("host"));
        let (Some(referer), Some(host)) = (referers.first(), hosts.first()) else { return false };
        let from = referer.split_once("://").and_then(|(_, rest)| rest.split(['/', '?', '#']).next());
        from.is_some_and(|from| from.eq_ignore_ascii_case(host))
    }

    /// A header's values, joined as HTTP does.
    /// <https://www.rfc-editor.org/rfc/rfc9110#section-5.3>
    fn attribute(&self, name: &str) -> Option<String> {
        let values = self.headers.values(name);
        let mut text = values.join(", ");
        text.truncate(text.floor_char_boundary(MAX_ATTRIBUTE));
        (!values.is_empty()).then_some(text)
    }
}

/// The visitor that the flag is evaluated for.
pub struct Visitor<'a> {
    /// An id from a cookie, or the address exactly as CloudFront gives it: two spellings of one address would be two
    /// contexts.
    key: Cow<'a, str>,
    is_new: bool,
    attributes: Vec<(&'a str, String)>,
}

impl<'a> Visitor<'a> {
    /// The visitor with this key, without attributes.
    pub fn of_key(key: &'a str) -> Self {
        Self { key: Cow::Borrowed(key), is_new: false, attributes: Vec::new() }
    }

    /// The cookie that a new visitor gets.
    pub fn cookie(&self) -> Option<Cookie> {
        self.is_new.then(|| Cookie::Visitor(self.key.as_ref().to_owned()))
    }

    /// The context, of kind `user`. The values of private attributes never leave AWS.
    ///
    /// # Errors
    /// A key that LaunchDarkly's SDK refuses.
    pub fn context(&self) -> Result<Context, String> {
        let mut builder = ContextBuilder::new(self.key.as_ref());
        for (name, value) in &self.attributes {
            builder.set_string(name, value).add_private_attribute(Reference::new(name));
        }
        builder.build()
    }
}

/// Whether a cookie's value can be a visitor's id.
pub fn is_id(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// A random UUID, or `None` if the system's random number generator fails, where most libraries panic.
fn new_id() -> Option<String> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(uuid::Builder::from_random_bytes(bytes).into_uuid().to_string())
}

/// The token of preview links, and the cookie derived from it, a keyed hash that does not show the token. Tokens and cookies
/// are compared by their hashes, in constant time.
struct PreviewSecret {
    key: hmac::Key,
    token: hmac::Tag,
    cookie: String,
    cookie_tag: hmac::Tag,
}

impl PreviewSecret {
    fn new(token: &PreviewToken) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, token.reveal().as_bytes());
        let hash = hmac::sign(&key, PREVIEW_COOKIE.as_bytes());
        let cookie = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        let tag = |text: &str| hmac::sign(&key, text.as_bytes());
        Self { token: tag(token.reveal()), cookie_tag: tag(&cookie), cookie, key }
    }

    fn is_token(&self, text: &str) -> bool {
        hmac::verify(&self.key, text.as_bytes(), self.token.as_ref()).is_ok()
    }

    fn is_cookie(&self, text: &str) -> bool {
        hmac::verify(&self.key, text.as_bytes(), self.cookie_tag.as_ref()).is_ok()
    }
}
