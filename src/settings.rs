//! The settings of the function: `redirect.toml`, compiled in, and the environment, which wins where there is one.
//!
//! `build.rs` includes this module to check `redirect.toml` when the function is built; the function uses it to
//! read what was compiled in. A setting is read and checked in one place, [`Settings::read`], wherever it came from.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What Lambda keeps for itself at the end of an invocation: nothing of ours runs in the last 500 ms.
pub const DEADLINE_RESERVE: Duration = Duration::from_millis(500);

/// The fields of `redirect.toml`, each of which must be there.
pub const FIELDS: [&str; 22] = [
    "flag_key",
    "source",
    "store_table",
    "store_regions",
    "store_redis_url",
    "store_prefix",
    "launchdarkly_base_uri",
    "launchdarkly_stream_uri",
    "launchdarkly_events_uri",
    "fetch",
    "updates",
    "refresh_after_seconds",
    "max_staleness_seconds",
    "bundled_max_age_hours",
    "viewer_budget_ms",
    "init_budget_ms",
    "between_budget_ms",
    "function_timeout_seconds",
    "events",
    "flush_after_seconds",
    "log",
    "log_client_ip",
];

/// How the flag data is kept fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updates {
    /// Fetched after a response, while no viewer waits; nothing goes on in a frozen environment.
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
    /// The flag and what it names, each by an endpoint of its own.
    Items,
    /// The whole environment, from `/sdk/latest-all`.
    Environment,
}

/// What LaunchDarkly is told of the evaluations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Events {
    /// What the SDK sends by itself: contexts, which hold the viewers' addresses, and counts.
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
    /// Only what went wrong.
    Problems,
}

/// The checked settings. `redirect.toml` documents each field.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Settings {
    pub flag_key: String,
    pub source: Source,
    pub store_table: String,
    pub store_regions: Vec<String>,
    pub store_redis_url: String,
    pub store_prefix: String,
    pub launchdarkly_base_uri: String,
    pub launchdarkly_stream_uri: String,
    pub launchdarkly_events_uri: String,
    pub fetch: Fetch,
    pub updates: Updates,
    pub refresh_after: Duration,
    pub max_staleness: Duration,
    pub bundled_max_age: Duration,
    pub viewer_budget: Duration,
    pub init_budget: Duration,
    pub between_budget: Duration,
    pub function_timeout: Duration,
    pub events: Events,
    pub flush_after: Duration,
    pub log: Log,
    pub log_client_ip: bool,
}

/// A setting that cannot be used: which one, where it stands, its value, and what would be right.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {name} {fault}; expected {expected}")]
pub struct SettingError {
    name: String,
    place: Place,
    fault: String,
    expected: String,
}

/// Where a setting was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `redirect.toml`, or what was compiled in from it.
    File,
    /// An environment variable.
    Environment,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Place::File => "redirect.toml",
            Place::Environment => "environment",
        })
    }
}

/// The name of the environment variable that wins over a field of `redirect.toml`.
pub fn variable(field: &str) -> String {
    let name = field.to_uppercase();
    if name.starts_with("LAUNCHDARKLY_") { name } else { format!("REDIRECT_{name}") }
}

/// A value as it was given, before it is checked.
struct Given<'a> {
    field: &'a str,
    place: Place,
    value: String,
}

impl Given<'_> {
    fn refuse(&self, expected: impl Into<String>) -> SettingError {
        SettingError {
            name: match self.place {
                Place::File => self.field.to_owned(),
                Place::Environment => variable(self.field),
            },
            place: self.place,
            fault: format!("is {:?}", self.value),
            expected: expected.into(),
        }
    }

    fn number(&self, unit: &str, range: RangeInclusive<u64>) -> Result<u64, SettingError> {
        self.value
            .parse()
            .ok()
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.refuse(format!("a whole number of {unit} from {} to {}", range.start(), range.end())))
    }

    fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, SettingError> {
        choices.iter().find(|(name, _)| *name == self.value).map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
            self.refuse(format!("one of {}", names.join(", ")))
        })
    }

    fn uri(&self) -> Result<String, SettingError> {
        let uri = self.value.trim_end_matches('/');
        let rest = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://")).unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if is_authority(authority) && path.chars().all(|c| c.is_ascii_alphanumeric() || "/-._~".contains(c)) {
            return Ok(uri.to_owned());
        }
        Err(self.refuse("an address such as https://sdk.launchdarkly.com, without query or user"))
    }

    fn source(&self) -> Result<Source, SettingError> {
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

    /// DynamoDB's rule for names of tables, or nothing.
    /// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.NamingRulesDataTypes.html>
    fn table(self) -> Result<String, SettingError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if self.value.is_empty() || ((3..=255).contains(&self.value.len()) && self.value.chars().all(fits)) {
            return Ok(self.value);
        }
        Err(self.refuse("the name of a DynamoDB table: 3 to 255 letters, digits, '.', '_' and '-'"))
    }

    fn regions(&self) -> Result<Vec<String>, SettingError> {
        let regions: Vec<_> =
            self.value.split(',').map(str::trim).filter(|region| !region.is_empty()).map(str::to_owned).collect();
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if regions.iter().all(|region| region.contains('-') && region.chars().all(fits)) {
            return Ok(regions);
        }
        Err(self.refuse("names of AWS Regions with commas between them, such as us-east-1,eu-central-1"))
    }

    /// A password belongs into the environment; the file is checked in.
    fn redis_url(self) -> Result<String, SettingError> {
        let rest = ["redis://", "rediss://", "unix://"].iter().find_map(|scheme| self.value.strip_prefix(scheme));
        let refuse = |given: Self, fault: &str, expected: &str| {
            let Self { field, place, .. } = given;
            let hidden = Self { field, place, value: String::new() };
            SettingError { fault: format!("{fault} (its value is not shown)"), ..hidden.refuse(expected) }
        };
        match rest {
            _ if self.value.is_empty() => Ok(self.value),
            Some(rest) if self.place == Place::File && rest.contains('@') => Err(refuse(
                self,
                "names a user",
                "an address without user and password; with them it comes from the environment, REDIRECT_STORE_REDIS_URL",
            )),
            Some(rest) if !rest.is_empty() => Ok(self.value),
            _ => Err(refuse(self, "is no address of a Redis", "an address such as rediss://flags.example.com:6379")),
        }
    }

    /// What LaunchDarkly's SDKs take as a prefix, or nothing.
    fn prefix(self) -> Result<String, SettingError> {
        if self.value.len() <= 256 && self.value.chars().all(|c| c.is_ascii_graphic()) {
            return Ok(self.value);
        }
        Err(self.refuse("a prefix of at most 256 visible ASCII characters, or nothing"))
    }

    /// LaunchDarkly's rule for keys: letters, digits, `.`, `_` and `-`.
    fn key(self) -> Result<String, SettingError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let right = !self.value.is_empty() && self.value.len() <= 256 && self.value.chars().all(fits);
        let dots = self.value.chars().all(|c| c == '.');
        if right && !dots {
            return Ok(self.value);
        }
        Err(self.refuse("a LaunchDarkly flag key: letters, digits, '.', '_' and '-'"))
    }
}

/// A host name or address, with a port or without. Stricter than a URI need be: LaunchDarkly's SDK panics on one that
/// it cannot read.
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
    /// Reads and checks every setting. `file` and `environment` give the text of a field, if they have it.
    ///
    /// # Errors
    /// The first setting that is missing or wrong, or the budgets together, when they leave the function's time-out
    /// no room.
    pub fn read(
        file: impl Fn(&str) -> Option<String>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingError> {
        let given = |field: &'static str| match environment(&variable(field)) {
            Some(value) => Ok(Given { field, place: Place::Environment, value }),
            None => match file(field) {
                Some(value) => Ok(Given { field, place: Place::File, value }),
                None => Err(SettingError {
                    name: field.to_owned(),
                    place: Place::File,
                    fault: "is missing".to_owned(),
                    expected: "every field of the file that comes with redirect".to_owned(),
                }),
            },
        };
        let seconds = |field, range| given(field)?.number("seconds", range).map(Duration::from_secs);
        let millis = |field, range| given(field)?.number("milliseconds", range).map(Duration::from_millis);

        let settings = Self {
            flag_key: given("flag_key")?.key()?,
            source: given("source")?.source()?,
            store_table: given("store_table")?.table()?,
            store_regions: given("store_regions")?.regions()?,
            store_redis_url: given("store_redis_url")?.redis_url()?,
            store_prefix: given("store_prefix")?.prefix()?,
            launchdarkly_base_uri: given("launchdarkly_base_uri")?.uri()?,
            launchdarkly_stream_uri: given("launchdarkly_stream_uri")?.uri()?,
            launchdarkly_events_uri: given("launchdarkly_events_uri")?.uri()?,
            fetch: given("fetch")?.one_of(&[("items", Fetch::Items), ("environment", Fetch::Environment)])?,
            updates: given("updates")?.one_of(&[
                ("between-invocations", Updates::BetweenInvocations),
                ("streaming", Updates::Streaming),
                ("polling", Updates::Polling),
            ])?,
            refresh_after: seconds("refresh_after_seconds", 0..=3_600)?,
            max_staleness: seconds("max_staleness_seconds", 0..=86_400)?,
            bundled_max_age: given("bundled_max_age_hours")?
                .number("hours", 0..=8_760)
                .map(|hours| Duration::from_secs(hours * 3_600))?,
            viewer_budget: millis("viewer_budget_ms", 0..=5_000)?,
            init_budget: millis("init_budget_ms", 0..=9_000)?,
            between_budget: millis("between_budget_ms", 0..=10_000)?,
            function_timeout: seconds("function_timeout_seconds", 1..=30)?,
            events: given("events")?.one_of(&[
                ("full", Events::Full),
                ("summary", Events::Summary),
                ("off", Events::Off),
            ])?,
            flush_after: seconds("flush_after_seconds", 0..=3_600)?,
            log: given("log")?.one_of(&[("all", Log::All), ("problems", Log::Problems)])?,
            log_client_ip: given("log_client_ip")?.one_of(&[("true", true), ("false", false)])?,
        };
        settings.fit_time_out(&given("function_timeout_seconds")?)?;
        settings.fit_source(&given)?;
        Ok(settings)
    }

    /// How long one request for flag data or with events may take.
    pub fn time_out(&self) -> Duration {
        self.init_budget.max(self.viewer_budget).max(self.between_budget).max(Duration::from_millis(1))
    }

    /// A store needs to be named, and is read between invocations: the SDK's own updates come from LaunchDarkly.
    fn fit_source<'a>(
        &self,
        given: &impl Fn(&'static str) -> Result<Given<'a>, SettingError>,
    ) -> Result<(), SettingError> {
        let needed: &[(&'static str, bool, &str)] = match self.source {
            Source::LaunchDarkly => &[],
            #[cfg(feature = "dynamodb")]
            Source::DynamoDb => &[
                ("store_table", self.store_table.is_empty(), "the name of the table, for the source \"dynamodb\""),
                ("store_regions", self.store_regions.is_empty(), "the Regions that have the table"),
            ],
            #[cfg(feature = "redis")]
            Source::Redis => &[(
                "store_redis_url",
                self.store_redis_url.is_empty(),
                "the address of the Redis, for the source \"redis\"",
            )],
        };
        for (field, is_missing, expected) in needed {
            if *is_missing {
                return Err(given(field)?.refuse(*expected));
            }
        }
        if self.source != Source::LaunchDarkly && self.updates != Updates::BetweenInvocations {
            return Err(given("updates")?.refuse("\"between-invocations\" with a store as the source"));
        }
        Ok(())
    }

    /// A cold start that Lambda repeats inside an invocation counts against the function's time-out, so it is the
    /// longer of the two waits that must fit, with what follows it.
    fn fit_time_out(&self, time_out: &Given<'_>) -> Result<(), SettingError> {
        let needed = self.viewer_budget.max(self.init_budget) + self.between_budget + DEADLINE_RESERVE;
        if needed <= self.function_timeout {
            return Ok(());
        }
        Err(time_out.refuse(format!(
            "at least {needed:?}: the longer of viewer_budget_ms ({:?}) and init_budget_ms ({:?}), between_budget_ms \
             ({:?}) and a reserve of {DEADLINE_RESERVE:?}",
            self.viewer_budget, self.init_budget, self.between_budget
        )))
    }
}
