//! The settings of the function: `redirect.toml`, compiled in, and the environment, which wins where there is one.
//!
//! `build.rs` includes this module to check `redirect.toml` when the function is built; the function uses it to
//! read what was compiled in. A setting is read and checked in one place, [`Settings::read`], wherever it came from.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The reserve at the end of an invocation: the function does nothing in the last 500 ms before the deadline.
pub const DEADLINE_RESERVE: Duration = Duration::from_millis(500);

/// The cookie that shows beta to a visitor with a preview link.
pub const PREVIEW_COOKIE: &str = "redirect-preview";
/// The cookie that keeps a viewer on the current site after a redirect from beta, in root mode.
pub const GUARD_COOKIE: &str = "redirect-guard";

/// Headers that hold secrets, and names that a LaunchDarkly context reserves.
const REFUSED_HEADERS: [&str; 7] = ["cookie", "authorization", "key", "kind", "anonymous", "name", "_meta"];

/// How the flag data is kept fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updates {
    /// Fetched after a response, while no viewer waits and the environment is not frozen.
    BetweenInvocations,
    /// The SDK's own streaming connection.
    Streaming,
    /// The SDK's own polling, every 30 seconds.
    Polling,
}

/// Where the flag data comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// LaunchDarkly's service, or a Relay Proxy.
    LaunchDarkly,
    /// A DynamoDB table.
    #[cfg(feature = "dynamodb")]
    DynamoDb,
    /// A Redis.
    #[cfg(feature = "redis")]
    Redis,
}

/// How much is fetched from LaunchDarkly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// The flag and its references, each from its own endpoint.
    Items,
    /// The whole environment, from `/sdk/latest-all`.
    Environment,
}

/// What LaunchDarkly learns of the evaluations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Events {
    /// The SDK's own events: contexts, which hold the viewers' addresses, and counts.
    Full,
    /// Counts only; no viewer's address leaves AWS.
    Summary,
    /// Nothing.
    Off,
}

/// What the log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// One line per decision.
    All,
    /// Only problems.
    Problems,
}

/// Declares the settings: name, type, field of `redirect.toml`, and the parser that checks it.
macro_rules! settings {
    ($($name:ident: $type:ty = $field:literal, $parser:expr;)*) => {
        /// The checked settings. `redirect.toml` documents each field. No `Debug`: the address of a Redis may hold a password.
        #[derive(Clone)]
        #[allow(missing_docs)]
        pub struct Settings {
            $(pub $name: $type,)*
        }

        /// The fields of `redirect.toml`, all of which must be there.
        pub const FIELDS: &[&str] = &[$($field),*];

        impl Settings {
            fn parse<'a>(
                given: &impl Fn(&'static str) -> Result<Given<'a>, SettingError>,
            ) -> Result<Self, SettingError> {
                $(
                    let parser: fn(Given<'a>) -> Result<$type, SettingError> = $parser;
                    let $name = parser(given($field)?)?;
                )*
                Ok(Self { $($name),* })
            }
        }
    };
}

settings! {
    flag_key: String = "flag_key", Given::key;
    current_path: String = "current_path", |given| if given.value == "/" { Ok(given.value) } else { given.path() };
    beta_path: String = "beta_path", Given::path;
    visitor_cookie: String = "visitor_cookie", Given::cookie;
    visitor_cookie_days: u64 = "visitor_cookie_days", |given| given.number("days", 0..=400);
    context_headers: Vec<String> = "context_headers", Given::headers;
    source: Source = "source", Given::source;
    store_table: String = "store_table", Given::table;
    store_regions: Vec<String> = "store_regions", Given::regions;
    store_redis_url: String = "store_redis_url", Given::redis_url;
    store_prefix: String = "store_prefix", Given::prefix;
    launchdarkly_base_uri: String = "launchdarkly_base_uri", Given::uri;
    launchdarkly_stream_uri: String = "launchdarkly_stream_uri", Given::uri;
    launchdarkly_events_uri: String = "launchdarkly_events_uri", Given::uri;
    fetch: Fetch = "fetch", |given| given.one_of(&[("items", Fetch::Items), ("environment", Fetch::Environment)]);
    updates: Updates = "updates", |given| given.one_of(&[
        ("between-invocations", Updates::BetweenInvocations),
        ("streaming", Updates::Streaming),
        ("polling", Updates::Polling),
    ]);
    refresh_after: Duration = "refresh_after_seconds", |given| given.seconds(0..=3_600);
    max_staleness: Duration = "max_staleness_seconds", |given| given.seconds(0..=86_400);
    bundled_max_age: Duration = "bundled_max_age_hours",
        |given| given.number("hours", 0..=8_760).map(|hours| Duration::from_secs(hours * 3_600));
    viewer_budget: Duration = "viewer_budget_ms", |given| given.millis(0..=5_000);
    init_budget: Duration = "init_budget_ms", |given| given.millis(0..=9_000);
    between_budget: Duration = "between_budget_ms", |given| given.millis(0..=10_000);
    function_timeout: Duration = "function_timeout_seconds", |given| given.seconds(1..=30);
    events: Events = "events",
        |given| given.one_of(&[("full", Events::Full), ("summary", Events::Summary), ("off", Events::Off)]);
    flush_after: Duration = "flush_after_seconds", |given| given.seconds(0..=3_600);
    log: Log = "log", |given| given.one_of(&[("all", Log::All), ("problems", Log::Problems)]);
    log_client_ip: bool = "log_client_ip", |given| given.one_of(&[("true", true), ("false", false)]);
}

/// An invalid setting: which one, where it was given, its value, and what is expected.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SettingError(String);

/// The name of the environment variable that wins over a field of `redirect.toml`.
pub fn variable(field: &str) -> String {
    let name = field.to_uppercase();
    if name.starts_with("LAUNCHDARKLY_") { name } else { format!("REDIRECT_{name}") }
}

/// A value as it was given, before it is checked.
struct Given<'a> {
    field: &'a str,
    is_of_environment: bool,
    value: String,
}

impl Given<'_> {
    fn refuse(&self, expected: impl fmt::Display) -> SettingError {
        self.fault(&format!("is {:?}", self.value), expected)
    }

    fn fault(&self, fault: &str, expected: impl fmt::Display) -> SettingError {
        let field = self.field;
        SettingError(if self.is_of_environment {
            format!("environment: {} {fault}; expected {expected}", variable(field))
        } else {
            format!("redirect.toml: {field} {fault}; expected {expected}")
        })
    }

    fn accept_if(self, fits: bool, expected: &str) -> Result<String, SettingError> {
        if fits { Ok(self.value) } else { Err(self.refuse(expected)) }
    }

    fn number(&self, unit: &str, range: RangeInclusive<u64>) -> Result<u64, SettingError> {
        self.value
            .parse()
            .ok()
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.refuse(format!("a whole number of {unit} from {} to {}", range.start(), range.end())))
    }

    fn seconds(&self, range: RangeInclusive<u64>) -> Result<Duration, SettingError> {
        self.number("seconds", range).map(Duration::from_secs)
    }

    fn millis(&self, range: RangeInclusive<u64>) -> Result<Duration, SettingError> {
        self.number("milliseconds", range).map(Duration::from_millis)
    }

    fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, SettingError> {
        choices.iter().find(|(name, _)| *name == self.value).map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
            self.refuse(format!("one of {}", names.join(", ")))
        })
    }

    /// Only segments that every server and browser reads alike, encoded or not. Not `index.html`: `/site/index.html` as beta
    /// of `/site` would be the front page of both sites.
    fn path(self) -> Result<String, SettingError> {
        let is_name = |segment: &str| !segment.is_empty() && segment != "index.html" && !segment.starts_with('.');
        let fits = |segment: &str| is_name(segment) && is_plain(segment, "._~-");
        let segments = self.value.strip_prefix('/').filter(|path| path.len() < 100);
        let is_path = segments.is_some_and(|path| path.split('/').all(fits));
        self.accept_if(
            is_path,
            "a path such as /site/beta: segments of letters, digits, '.', '_', '~' and '-' that do not start with '.', \
             none of them index.html, and no slash at the end",
        )
    }

    fn cookie(self) -> Result<String, SettingError> {
        let is_ours = [PREVIEW_COOKIE, GUARD_COOKIE].contains(&self.value.as_str());
        let is_name = self.value.len() <= 64 && is_plain(&self.value, "._-") && !is_ours;
        self.accept_if(
            is_name,
            "the name of a cookie, up to 64 letters, digits, '.', '_' and '-', other than redirect-preview and \
             redirect-guard; or nothing",
        )
    }

    fn headers(self) -> Result<Vec<String>, SettingError> {
        let names = listed(&self.value.to_ascii_lowercase());
        if names.iter().all(|name| is_plain(name, "_-") && !REFUSED_HEADERS.contains(&name.as_str())) {
            return Ok(names);
        }
        Err(self.refuse(format!(
            "a comma-separated list of request headers, such as user-agent,accept-language; none of {}",
            REFUSED_HEADERS.join(", ")
        )))
    }

    fn uri(self) -> Result<String, SettingError> {
        let uri = self.value.trim_end_matches('/');
        let rest = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://")).unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if is_authority(authority) && is_plain(path, "/-._~") {
            return Ok(uri.to_owned());
        }
        Err(self.refuse("an address such as https://sdk.launchdarkly.com, without query or user"))
    }

    fn source(self) -> Result<Source, SettingError> {
        match self.value.as_str() {
            #[cfg(not(feature = "dynamodb"))]
            "dynamodb" => Err(self.refuse("a build with it: just build, or cargo build --features dynamodb")),
            #[cfg(not(feature = "redis"))]
            "redis" => Err(self.refuse("a build with it: just build, or cargo build --features redis")),
            _ => self.one_of(&[
                ("launchdarkly", Source::LaunchDarkly),
                #[cfg(feature = "dynamodb")]
                ("dynamodb", Source::DynamoDb),
                #[cfg(feature = "redis")]
                ("redis", Source::Redis),
            ]),
        }
    }

    /// DynamoDB's rule for table names, or nothing.
    /// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.NamingRulesDataTypes.html>
    fn table(self) -> Result<String, SettingError> {
        let fits = self.value.is_empty() || ((3..=255).contains(&self.value.len()) && is_plain(&self.value, "._-"));
        self.accept_if(fits, "the name of a DynamoDB table: 3 to 255 letters, digits, '.', '_' and '-'")
    }

    fn regions(self) -> Result<Vec<String>, SettingError> {
        let regions = listed(&self.value);
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if regions.iter().all(|region| region.contains('-') && region.chars().all(fits)) {
            return Ok(regions);
        }
        Err(self.refuse("a comma-separated list of AWS Regions, such as us-east-1,eu-central-1"))
    }

    /// A password belongs in the environment: the file is checked in.
    fn redis_url(self) -> Result<String, SettingError> {
        let rest = ["redis://", "rediss://", "unix://"].iter().find_map(|scheme| self.value.strip_prefix(scheme));
        match rest.unwrap_or_default() {
            _ if self.value.is_empty() => Ok(self.value),
            "" => Err(self.fault(
                "is not the address of a Redis (its value is not shown)",
                "an address such as rediss://flags.example.com:6379",
            )),
            rest if rest.contains('@') && !self.is_of_environment => Err(self.fault(
                "names a user (its value is not shown)",
                "an address without user and password; with them it comes from the environment, REDIRECT_STORE_REDIS_URL",
            )),
            _ => Ok(self.value),
        }
    }

    /// What LaunchDarkly's SDKs accept as a prefix, or nothing.
    fn prefix(self) -> Result<String, SettingError> {
        let fits = self.value.len() <= 256 && self.value.chars().all(|c| c.is_ascii_graphic());
        self.accept_if(fits, "a prefix of at most 256 visible ASCII characters, or nothing")
    }

    /// LaunchDarkly's rule for keys: letters, digits, `.`, `_` and `-`.
    fn key(self) -> Result<String, SettingError> {
        // A key of dots would be a relative path.
        let is_key = self.value.len() <= 256 && is_plain(&self.value, "._-") && self.value.chars().any(|c| c != '.');
        self.accept_if(is_key, "a LaunchDarkly flag key: letters, digits, '.', '_' and '-'")
    }
}

/// Whether a text consists of ASCII letters, digits and `others`.
fn is_plain(text: &str, others: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

/// The entries of a list with commas.
fn listed(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(str::to_owned).collect()
}

/// A host name or address, with or without a port. Stricter than a URI needs to be: LaunchDarkly's SDK panics on one
/// that it cannot read.
fn is_authority(authority: &str) -> bool {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let name = |host: &str| !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c));
    let is_host = address.map_or_else(|| name(host), |address| address.parse::<std::net::Ipv6Addr>().is_ok());
    is_host && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
}

impl Settings {
    /// Reads and checks every setting. `file` and `environment` return the text of a field, if they have it.
    ///
    /// # Errors
    /// The first setting that is missing, invalid, or does not fit the others.
    pub fn read(
        file: impl Fn(&str) -> Option<String>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingError> {
        let given = |field: &'static str| match (environment(&variable(field)), file(field)) {
            (Some(value), _) => Ok(Given { field, is_of_environment: true, value }),
            (None, Some(value)) => Ok(Given { field, is_of_environment: false, value }),
            (None, None) => {
                let given = Given { field, is_of_environment: false, value: String::new() };
                Err(given.fault("is missing", "redirect.toml to set every field"))
            }
        };
        let settings = Self::parse(&given)?;
        match settings.conflict() {
            Some((field, expected)) => Err(given(field)?.refuse(expected)),
            None => Ok(settings),
        }
    }

    /// How long one request for flag data or with events may take.
    pub fn request_timeout(&self) -> Duration {
        self.init_budget.max(self.viewer_budget).max(self.between_budget).max(Duration::from_millis(1))
    }

    /// A field that does not fit the others, and what is expected of it.
    fn conflict(&self) -> Option<(&'static str, String)> {
        let Self { current_path, beta_path, viewer_budget, init_budget, between_budget, .. } = self;
        let is_fetched_here = self.updates == Updates::BetweenInvocations;
        // A cold start that Lambda repeats inside an invocation counts against the function's timeout, so the longer of the
        // two waits must fit, with the work after the response.
        let needed = *viewer_budget.max(init_budget) + *between_budget + DEADLINE_RESERVE;
        if needed > self.function_timeout {
            let expected = format!(
                "at least {needed:?}: the longer of viewer_budget_ms ({viewer_budget:?}) and init_budget_ms \
                 ({init_budget:?}), between_budget_ms ({between_budget:?}) and a reserve of {DEADLINE_RESERVE:?}"
            );
            return Some(("function_timeout_seconds", expected));
        }
        if is_fetched_here && viewer_budget.is_zero() && between_budget.is_zero() {
            let expected = "more than 0, because viewer_budget_ms is 0 too and no fetch could ever finish";
            return Some(("between_budget_ms", expected.to_owned()));
        }
        // If beta were above the current site, each page of the current site would be a page of beta too.
        if current_path.strip_prefix(beta_path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            return Some(("beta_path", format!("a path other than current_path ({current_path}), and not above it")));
        }
        if self.source == Source::LaunchDarkly {
            return None;
        }
        let (field, expected) = match self.source {
            #[cfg(feature = "dynamodb")]
            Source::DynamoDb if self.store_table.is_empty() => {
                ("store_table", "the name of the table, for the source \"dynamodb\"")
            }
            #[cfg(feature = "dynamodb")]
            Source::DynamoDb if self.store_regions.is_empty() => ("store_regions", "the Regions that have the table"),
            #[cfg(feature = "redis")]
            Source::Redis if self.store_redis_url.is_empty() => {
                ("store_redis_url", "the address of the Redis, for the source \"redis\"")
            }
            // The SDK's own updates come from LaunchDarkly.
            _ if !is_fetched_here => ("updates", "\"between-invocations\" with a store as the source"),
            _ => return None,
        };
        Some((field, expected.to_owned()))
    }
}
