//! The decision: from a viewer's request and a verdict to an answer. Every rule about paths is here, but for those of the
//! CloudFront Function in cloudformation/edge.yaml, which stands in while this function is not attached.
//!
//! Pure: no I/O, no clock, no environment. Nothing that a viewer sends can lead a redirect out of the two sites' paths,
//! put a header into the response, or send them in a circle: a path of the current site is never redirected, except to
//! its own index page, and a path of beta only to the current site. In root mode, where pages of the current site are
//! redirected to beta, whoever was led home carries a cookie that keeps them there.

use std::fmt::Write as _;

/// A private S3 origin serves no directory index, so a directory's page is named.
/// <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/DefaultRootObject.html>
const INDEX: &str = "index.html";

/// The longest address that CloudFront accepts: 8,192 bytes for the whole URL.
/// <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/cloudfront-limits.html>
const MAX_LOCATION: usize = 8_192 - "https://".len() - 253;

/// What a site must serve itself, such as a certificate authority's challenge.
/// <https://www.rfc-editor.org/rfc/rfc8615>
const WELL_KNOWN: &str = "/.well-known";

/// Where the two sites are, as `current_path` and `beta_path` name them.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Empty in root mode, so that it is a prefix in both modes.
    current: String,
    beta: String,
}

impl Paths {
    /// The paths of checked settings; `/` as the current one is root mode.
    pub fn new(current: &str, beta: &str) -> Self {
        Self { current: current.trim_end_matches('/').to_owned(), beta: beta.to_owned() }
    }

    /// Whether the current site has the addresses that it always had, and not a prefix.
    pub fn is_root(&self) -> bool {
        self.current.is_empty()
    }

    /// The path of the site that a redirect leads to.
    pub fn site(&self, redirect: &Redirect) -> &str {
        match below(&redirect.location, &self.beta) {
            Some(_) => &self.beta,
            None if self.is_root() => "/",
            None => &self.current,
        }
    }

    /// The answer when a request cannot be read at all; `None` passes it through.
    pub fn fallback(&self) -> Option<Redirect> {
        (!self.is_root()).then(|| Redirect::new(302, [&self.current, "/", INDEX].concat()))
    }

    /// The verdict on a visitor of whom nothing is known. In root mode every failure passes.
    pub fn verdict_on_nobody(&self) -> Verdict {
        if self.is_root() { Verdict::NoData } else { Verdict::Current }
    }

    /// The path of a page of the current site: without the segments that would make it one of beta, and in root mode
    /// without the second slash that would make it another host.
    fn outside_beta<'a>(&self, mut path: &'a str) -> &'a str {
        let segments = below(&self.beta, &self.current).filter(|segments| !segments.is_empty());
        loop {
            path = match segments.and_then(|segments| below(path, segments)) {
                Some("") => return "/",
                Some(rest) => rest,
                None if self.is_root() && path.starts_with("//") => path.strip_prefix('/').unwrap_or_default(),
                None => return path,
            };
        }
    }
}

/// The rest of a path below a prefix of whole segments.
fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A redirect to another path of the same host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The HTTP status, 302 or 307.
    pub status: u16,
    /// The path and query for the `Location` header: printable ASCII.
    pub location: String,
    /// The cookies that it sets.
    pub cookies: Vec<Cookie>,
}

impl Redirect {
    /// A redirect that sets no cookie.
    pub fn new(status: u16, location: String) -> Self {
        Self { status, location, cookies: Vec::new() }
    }

    /// The same redirect, which also sets this cookie.
    #[must_use]
    pub fn with(mut self, cookie: Cookie) -> Self {
        self.cookies.push(cookie);
        self
    }
}

/// A cookie that a redirect sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cookie {
    /// The id of a new visitor.
    Visitor(String),
    /// Shows beta, whatever the flag says.
    Preview,
    /// Ends that.
    PreviewOff,
    /// Keeps whoever was led home from beta from being sent there again.
    Guard,
}

/// Which site a viewer is to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The current site.
    Current,
    /// The new site.
    Beta,
    /// There is no flag data: the current site, but whoever is on a page of the new one stays there.
    NoData,
}

/// What a request says of a preview.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preview {
    /// Nothing.
    #[default]
    Absent,
    /// It has the preview's cookie.
    Shown,
    /// It has the cookie of another token.
    Outdated,
    /// It is a valid preview link.
    Begins,
    /// It asks for the end of the preview.
    Ends,
}

/// What the query, cookies and headers of a request say. As it comes, none is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Signals {
    /// Of a preview.
    pub preview: Preview,
    /// It has the cookie of whoever was led home from beta.
    pub is_guarded: bool,
    /// It is for something other than a document, such as an image or a script's data.
    pub is_subresource: bool,
    /// A page of this site led to it.
    pub is_internal: bool,
}

/// A viewer's request, classified by what it asks for.
#[derive(Debug)]
pub struct Visit<'a> {
    paths: &'a Paths,
    kind: Kind,
    status: u16,
    /// With a leading `/`, and where its part below the site's prefix begins.
    path: String,
    page: usize,
    query: String,
    signals: Signals,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// CloudFront serves it as it is, whoever asks.
    Served,
    /// A page of the current site that is served as it is, except to who brings a preview link.
    CurrentPage,
    /// The current site itself.
    CurrentHome,
    /// Beta itself.
    BetaHome,
    /// A page of beta.
    BetaPage,
    /// An address of neither site; in root mode, a page of the current site.
    Entry,
}

impl<'a> Visit<'a> {
    /// Classifies a request. `uri` and `query` may hold anything; an absent `uri` stands for `/`.
    pub fn new(
        paths: &'a Paths,
        method: Option<&str>,
        uri: Option<&str>,
        query: Option<&str>,
        signals: Signals,
    ) -> Self {
        let path = normalized(uri.unwrap_or_default());
        // Only GET and HEAD may change into a GET on the way; everything else keeps method and body with a 307.
        // https://www.rfc-editor.org/rfc/rfc9110#name-302-found
        let status = if matches!(method, None | Some("GET" | "HEAD")) { 302 } else { 307 };
        let (current, beta) = (below(&path, &paths.current), below(&path, &paths.beta));
        let kind = match (current, beta) {
            (_, Some("" | "/")) => Kind::BetaHome,
            (_, Some(rest)) if is_page(rest) => Kind::BetaPage,
            (_, Some(_)) => Kind::Served,
            (Some(rest), _) if !is_page(rest) => Kind::Served,
            (Some(_), _) if paths.is_root() => {
                if status == 307 || signals.is_subresource || below(&path, WELL_KNOWN).is_some() {
                    Kind::Served
                } else if signals.is_guarded && signals.preview != Preview::Shown {
                    Kind::CurrentPage
                } else {
                    Kind::Entry
                }
            }
            (Some("" | "/"), _) => Kind::CurrentHome,
            (Some(_), _) => Kind::CurrentPage,
            (None, _) => Kind::Entry,
        };
        let page = path.len() - beta.or(current).unwrap_or(&path).len();
        let query = query.map(|query| encoded(query, "#")).unwrap_or_default();
        Self { paths, kind, status, path, page, query, signals }
    }

    /// Whether it shows beta by a preview, whatever the flag says.
    pub fn is_preview(&self) -> bool {
        match self.signals.preview {
            Preview::Begins => self.kind != Kind::Served,
            Preview::Shown => matches!(self.kind, Kind::BetaHome | Kind::BetaPage | Kind::Entry),
            Preview::Absent | Preview::Outdated | Preview::Ends => false,
        }
    }

    /// Whether the answer depends on the viewer.
    pub fn needs_verdict(&self) -> bool {
        !self.is_preview() && matches!(self.kind, Kind::BetaHome | Kind::BetaPage | Kind::Entry)
    }

    /// Whether the viewer enters the site, as opposed to continuing in it: what LaunchDarkly counts.
    pub fn is_entry(&self) -> bool {
        self.kind == Kind::Entry && !(self.paths.is_root() && self.signals.is_internal)
    }

    /// Whether its answer is a redirect that can give a new visitor an id: an entry, but not in root mode, where the
    /// answer depends on the id, and not by POST: from another site, that comes without the `SameSite=Lax` cookie of a
    /// known visitor, and the new id would replace theirs.
    pub fn accepts_id(&self) -> bool {
        self.kind == Kind::Entry && self.status == 302 && !self.paths.is_root()
    }

    /// The redirect, or `None` when the request passes through unchanged.
    pub fn answer(&self, verdict: Verdict) -> Option<Redirect> {
        match self.signals.preview {
            Preview::Begins if self.is_preview() => Some(self.to_beta().with(Cookie::Preview)),
            Preview::Shown if self.is_preview() => self.decided(Verdict::Beta),
            Preview::Ends => {
                let redirect = self.decided(verdict).unwrap_or_else(|| self.to_itself());
                Some(redirect.with(Cookie::PreviewOff))
            }
            _ => self.decided(verdict),
        }
    }

    fn decided(&self, verdict: Verdict) -> Option<Redirect> {
        match (self.kind, verdict) {
            (Kind::Served | Kind::CurrentPage, _) => None,
            (_, Verdict::NoData) if self.paths.is_root() => None,
            (Kind::CurrentHome, _) => Some(self.to_current()),
            (Kind::BetaHome | Kind::Entry, Verdict::Beta) => Some(self.to_beta()),
            (Kind::BetaPage, Verdict::Current) | (Kind::BetaHome, _) => Some(self.to_current()),
            // S3 has no page of that name; the index page of the directory has one.
            (Kind::BetaPage, _) if self.path.ends_with('/') => Some(self.to_beta()),
            (Kind::BetaPage, _) => None,
            (Kind::Entry, _) if self.paths.is_root() => None,
            (Kind::Entry, _) => Some(self.to_current()),
        }
    }

    /// The path below the site's prefix.
    fn page(&self) -> &str {
        match self.path.get(self.page..) {
            None | Some("") => "/",
            Some(page) => page,
        }
    }

    fn to_beta(&self) -> Redirect {
        self.redirect(&self.paths.beta, self.page(), INDEX)
    }

    fn to_current(&self) -> Redirect {
        let page = self.paths.outside_beta(self.page());
        if !self.paths.is_root() {
            return self.redirect(&self.paths.current, page, INDEX);
        }
        // The way out named it; not every origin of a site that was there before has it under that name.
        let page = if page.strip_prefix('/') == Some(INDEX) { "/" } else { page };
        let home = self.redirect("", page, "").with(Cookie::Guard);
        // To an environment that has the other token, the preview would win over the guard.
        if self.signals.preview == Preview::Outdated { home.with(Cookie::PreviewOff) } else { home }
    }

    /// To its own address, without what was removed from the query.
    fn to_itself(&self) -> Redirect {
        self.redirect("/", self.path.trim_start_matches('/'), "")
    }

    fn redirect(&self, prefix: &str, path: &str, index: &str) -> Redirect {
        let name = if path.ends_with('/') { index } else { "" };
        let mark = if self.query.is_empty() { "" } else { "?" };
        let mut location = [prefix, path, name, mark, &self.query].concat();
        if location.len() > MAX_LOCATION {
            // CloudFront would refuse the next request; the front page is better than an error.
            location = [prefix.trim_end_matches('/'), "/", index].concat();
        }
        Redirect::new(self.status, location)
    }
}

/// A page, as opposed to an asset: a directory, a name without an extension, or HTML.
fn is_page(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    match name.rsplit_once('.') {
        None => true,
        Some((_, extension)) => extension.eq_ignore_ascii_case("html") || extension.eq_ignore_ascii_case("htm"),
    }
}

/// The path with a leading `/`, in printable ASCII, without dot segments and backslashes, also percent-encoded ones,
/// so that a rule sees the same path that a browser or an origin would.
fn normalized(uri: &str) -> String {
    let plain = encoded(&decoded(uri), "?#");
    let mut segments: Vec<&str> = Vec::new();
    let parts: Vec<&str> = plain.strip_prefix('/').unwrap_or(&plain).split('/').collect();
    let last = parts.len() - 1;
    for (index, part) in parts.into_iter().enumerate() {
        match part {
            "." => {}
            ".." => {
                segments.pop();
            }
            _ => {
                segments.push(part);
                continue;
            }
        }
        if index == last {
            segments.push("");
        }
    }
    let mut path = String::with_capacity(plain.len() + 1);
    for segment in segments {
        path.push('/');
        path.push_str(segment);
    }
    path
}

/// Decodes what needs no percent-encoding ([RFC 3986, 2.3](https://www.rfc-editor.org/rfc/rfc3986#section-2.3)), encoded
/// slashes, as S3 does, and turns backslashes into slashes, as browsers do. A `%` that encodes nothing becomes `%25`, so that what is decoded
/// cannot form a new encoding with it.
fn decoded(uri: &str) -> String {
    let mut plain = String::with_capacity(uri.len());
    let mut rest = uri;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        rest = after;
        match after.split_at_checked(2).and_then(|(digits, tail)| Some((digits, hex_byte(digits)?, tail))) {
            None => plain.push_str("%25"),
            Some((digits, byte, tail)) => {
                rest = tail;
                match char::from(byte) {
                    '/' | '\\' => plain.push('/'),
                    c if c.is_ascii_alphanumeric() || "-._~".contains(c) => plain.push(c),
                    _ => {
                        plain.push('%');
                        plain.push_str(digits);
                    }
                }
            }
        }
    }
    plain.push_str(rest);
    plain.replace('\\', "/")
}

fn hex_byte(digits: &str) -> Option<u8> {
    let both = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    both.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// Percent-encodes what is not printable ASCII, the space, and `reserved`.
fn encoded(text: &str, reserved: &str) -> String {
    let mut ascii = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_graphic() && !reserved.contains(c) {
            ascii.push(c);
        } else {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a String cannot fail.
                let _ = write!(ascii, "%{byte:02X}");
            }
        }
    }
    ascii
}
