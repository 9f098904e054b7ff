//! The decision: from a viewer's request and a verdict to an answer. Every rule about paths is here, except those of the
//! CloudFront Function in cloudformation/edge.yaml, which replaces this function while it is not attached.
//!
//! Pure: no I/O, no clock, no environment. Nothing that a viewer sends can lead a redirect out of the two sites' paths,
//! put a header into the response, or send them in a circle: without a preview, a path of the current site is never
//! redirected, except to its own index page, and a path of beta only to the current site. In root mode, pages of the current site are redirected
//! to beta, so a redirect from beta back to the current site sets a guard cookie that keeps the viewer there.

use std::fmt::Write as _;

/// A private S3 origin serves no directory index, so a redirect names the directory's page.
/// <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/DefaultRootObject.html>
const INDEX: &str = "index.html";

/// The longest address that CloudFront accepts: 8,192 bytes for the whole URL.
/// <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/cloudfront-limits.html>
const MAX_LOCATION: usize = 8_192 - "https://".len() - 253;

/// Paths that a site must serve itself, such as a certificate authority's challenge. They matter in root mode, where pages
/// of the current site can be redirected.
/// <https://www.rfc-editor.org/rfc/rfc8615>
const WELL_KNOWN: &str = "/.well-known";

/// The paths of the two sites: the settings `current_path` and `beta_path`.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Empty in root mode, so that it is a prefix in both modes.
    current: String,
    beta: String,
}

impl Paths {
    /// From checked settings. `/` as the current path means root mode.
    pub fn new(current: &str, beta: &str) -> Self {
        Self { current: current.trim_end_matches('/').to_owned(), beta: beta.to_owned() }
    }

    /// Root mode: the current site has no prefix.
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

    /// The answer to a request that cannot be read; `None` passes it through.
    pub fn fallback(&self) -> Option<Redirect> {
        (!self.is_root()).then(|| Redirect::new(302, [&self.current, "/", INDEX].concat()))
    }

    /// The verdict for a visitor without a key. In root mode every failure passes the request through.
    pub fn verdict_on_nobody(&self) -> Verdict {
        if self.is_root() { Verdict::NoData } else { Verdict::Current }
    }

    /// A page's path on the current site: without leading segments that would make it a page of beta, and in root mode
    /// without a second slash, which would make it another host.
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

/// The rest of a path below a prefix, which matches whole segments only.
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
    /// Ends the preview.
    PreviewOff,
    /// Keeps the viewer on the current site after a redirect from beta, so that they are not sent back at once.
    Guard,
}

/// Which site the viewer should see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The current site.
    Current,
    /// The new site.
    Beta,
    /// There is no flag data: the current site, except for a viewer on a page of beta, who stays there.
    NoData,
}

/// Whether a request belongs to a preview.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preview {
    /// It does not.
    #[default]
    Absent,
    /// It carries the preview cookie.
    Shown,
    /// It carries a preview cookie of another token.
    Outdated,
    /// It is a valid preview link.
    Begins,
    /// It is the link that ends a preview.
    Ends,
}

/// What a request's query, cookies and headers say. With the default settings none of them is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Signals {
    /// Whether it belongs to a preview.
    pub preview: Preview,
    /// It carries the guard cookie.
    pub is_guarded: bool,
    /// It is for something other than a document, such as an image or a script's data.
    pub is_subresource: bool,
    /// The viewer followed a link on this site.
    pub is_internal: bool,
}

/// A viewer's request, classified by its path.
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
    /// Served as it is for everyone; only a link that ends a preview redirects it.
    Served,
    /// A page of the current site, which is served as it is unless the request is a preview link.
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
        // A 302 may change the method to GET. Other methods than GET and HEAD get a 307, which keeps method and body.
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

    /// Whether a preview shows beta, whatever the flag says.
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

    /// Whether the viewer enters the site instead of continuing on it. LaunchDarkly counts entries.
    pub fn is_entry(&self) -> bool {
        self.kind == Kind::Entry && !(self.paths.is_root() && self.signals.is_internal)
    }

    /// Whether the redirect may give a new visitor an id. Only an entry may: not in root mode, where the answer depends on
    /// the id, and not for a POST. A POST from another site arrives without the `SameSite=Lax` cookie of a known visitor,
    /// and a new id would replace theirs.
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
        // The redirect to beta named the index page. An existing site's origin may not have a page of that name.
        let page = if page.strip_prefix('/') == Some(INDEX) { "/" } else { page };
        let home = self.redirect("", page, "").with(Cookie::Guard);
        // An environment with the other token would accept the preview cookie and ignore the guard.
        if self.signals.preview == Preview::Outdated { home.with(Cookie::PreviewOff) } else { home }
    }

    /// To its own address, without the preview link's parameter.
    fn to_itself(&self) -> Redirect {
        self.redirect("/", self.path.trim_start_matches('/'), "")
    }

    fn redirect(&self, prefix: &str, path: &str, index: &str) -> Redirect {
        let name = if path.ends_with('/') { index } else { "" };
        let mark = if self.query.is_empty() { "" } else { "?" };
        let mut location = [prefix, path, name, mark, &self.query].concat();
        if location.len() > MAX_LOCATION {
            // CloudFront would reject the next request. The front page is better than an error.
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

/// Decodes unreserved characters ([RFC 3986, 2.3](https://www.rfc-editor.org/rfc/rfc3986#section-2.3)) and slashes, as S3
/// does, and turns backslashes into slashes, as browsers do. A `%` without two hexadecimal digits becomes `%25`, so that it
/// cannot form a new encoding with the characters around it.
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
