//! flag-sync's options. It is a Lambda function where Lambda starts it, and a command line elsewhere.

use crate::comparison::{Comparison, Differing, is_mass_change};
use crate::function::SyncFunction;
use crate::json_log;
use crate::secrets::SecretCache;
use crate::writer::{Report, SyncRules, sync};
use aws_config::BehaviorVersion;
use chrono::{DateTime, SecondsFormat, Utc};
use clap::builder::BoolishValueParser;
use clap::{Parser, Subcommand};
use comfy_table::{Cell, CellAlignment, Table, presets};
use flag_data::clock::Clock;
use flag_data::items::Stored;
use flag_data::sdk_key::{SDK_KEY_VARIABLE, SdkKey};
use flag_data::sources::LaunchDarkly;
use flag_data::stores::{AwsTransport, DynamoDbDataStore, RedisDataStore, Store};
use flag_data::transport::Transport;
use indicatif::{ProgressBar, ProgressStyle};
use lambda_runtime::{Error, service_fn};
use std::env;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// The limit of the request for everything in LaunchDarkly.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How many differences the table shows.
const MAX_ROWS: usize = 50;

/// Makes a flag store in DynamoDB or Redis equal to LaunchDarkly.
///
/// The SDK key comes from `LAUNCHDARKLY_SDK_KEY` or from `--sdk-key-parameter`; it is never an argument. Region and
/// credentials are those of the AWS CLI.
#[derive(Debug, Parser)]
#[command(name = "flag-sync", version)]
pub struct Options {
    /// The DynamoDB table.
    #[arg(long, env = "FLAG_SYNC_TABLE", global = true, conflicts_with = "redis")]
    table: Option<String>,

    /// A Redis instead: its address if it has no password, such as `rediss://flags.example.com`, or else the SSM
    /// parameter or the ARN of the secret that holds the address.
    #[arg(long, env = "FLAG_SYNC_REDIS", global = true)]
    redis: Option<String>,

    /// The environment's prefix in the store. Without it: none in DynamoDB, "launchdarkly" in Redis.
    #[arg(long, env = "FLAG_SYNC_PREFIX", global = true, default_value = "")]
    prefix: String,

    /// The address of LaunchDarkly, or of its EU or federal instance.
    #[arg(long, env = "LAUNCHDARKLY_BASE_URI", global = true, default_value = "https://sdk.launchdarkly.com")]
    base_uri: String,

    /// The SSM parameter, or the ARN of the secret, that holds the SDK key.
    #[arg(long, env = "FLAG_SYNC_SDK_KEY_PARAMETER", global = true)]
    sdk_key_parameter: Option<String>,

    /// The same for the webhook's secret. Only the Lambda function uses it.
    #[arg(long, env = "FLAG_SYNC_WEBHOOK_SECRET_PARAMETER", global = true, hide = true)]
    webhook_secret_parameter: Option<String>,

    /// How long LaunchDarkly's caches may serve old data after a change, in milliseconds.
    #[arg(long, env = "FLAG_SYNC_CACHE_WAIT_MS", global = true, default_value_t = 2_000, hide = true)]
    cache_wait_ms: u64,

    /// Lets a run delete, or replace at the same or a lower version, more than half of a store of more than ten items.
    /// Without this such a run stops, because the SDK key of another environment looks the same.
    #[arg(
        long,
        env = "FLAG_SYNC_CONFIRM_MASS_CHANGE",
        global = true,
        value_parser = BoolishValueParser::new()
    )]
    confirm_mass_change: bool,

    /// Prints JSON.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Command {
    /// Writes now what differs.
    Once,
    /// Shows what differs, and ends with 1 if anything does.
    Check,
}

/// Runs the command, or the Lambda function. An error says what failed, why, and what to do.
pub async fn run(options: Options) -> Result<ExitCode, Error> {
    // Everything that outlives an event shares it.
    let clock = Clock::default();
    let config = aws_config::defaults(BehaviorVersion::latest())
        .http_client(AwsTransport(Transport::new(clock.clone(), Duration::from_secs(10))))
        .load()
        .await;
    let secrets = SecretCache::new(&config, clock.clone());
    match (&options.table, &options.redis) {
        (Some(table), None) => {
            if config.region().is_none() {
                return Err("no Region is set. Set AWS_REGION, or AWS_PROFILE to a profile that has one".into());
            }
            let table = DynamoDbDataStore::builder(table).prefix(&options.prefix).clock(clock.clone());
            let table = table.config(flag_data::stores::aws_sdk_dynamodb::Config::new(&config)).build()?;
            Box::pin(options.run_with(table, secrets, clock)).await
        }
        (None, Some(redis)) => {
            let is_address = ["redis://", "rediss://", "unix://"].iter().any(|scheme| redis.starts_with(scheme));
            if is_address && redis.contains('@') {
                return Err("FLAG_SYNC_REDIS holds a password. Put the address into an SSM parameter (SecureString) \
                            and set FLAG_SYNC_REDIS to its name"
                    .into());
            }
            let address = if is_address { redis.clone() } else { secrets.read(redis).await?.reveal().to_owned() };
            let redis = RedisDataStore::builder(address).clock(clock.clone());
            let redis = if options.prefix.is_empty() { redis } else { redis.prefix(&options.prefix) };
            Box::pin(options.run_with(redis.build()?, secrets, clock)).await
        }
        _ => Err("no store is set. Set FLAG_SYNC_TABLE or FLAG_SYNC_REDIS, or see flag-sync --help".into()),
    }
}

impl Options {
    async fn run_with<S: Store>(self, store: S, secrets: SecretCache, clock: Clock) -> Result<ExitCode, Error> {
        let transport = Transport::new(clock.clone(), TIMEOUT);
        let cache_wait = Duration::from_millis(self.cache_wait_ms);
        let rules = SyncRules { cache_wait, confirm_mass_change: self.confirm_mass_change };
        let base_uri = self.base_uri.trim_end_matches('/').to_owned();
        let Some(command) = self.command else {
            if env::var_os("AWS_LAMBDA_RUNTIME_API").is_none() {
                return Err(
                    "no command is given. Use flag-sync once or flag-sync check, or see flag-sync --help".into()
                );
            }
            json_log::init();
            let function = &SyncFunction {
                store,
                base_uri,
                rules,
                sdk_key_parameter: self.sdk_key_parameter.ok_or("FLAG_SYNC_SDK_KEY_PARAMETER is not set")?,
                webhook_secret_parameter: self.webhook_secret_parameter.filter(|name| !name.is_empty()),
                secrets,
                clock,
                transport,
            };
            lambda_runtime::run(service_fn(|event| function.handle(event))).await?;
            return Ok(ExitCode::SUCCESS);
        };
        let key = match &self.sdk_key_parameter {
            Some(name) => secrets.sdk_key(name).await?,
            None => SdkKey::parse(&env::var(SDK_KEY_VARIABLE).unwrap_or_default())?
                .ok_or("no SDK key is set. Set LAUNCHDARKLY_SDK_KEY, or name its parameter with --sdk-key-parameter")?,
        };
        let launchdarkly = LaunchDarkly::new(transport, &base_uri, &key);
        match command {
            Command::Once => self.once(&store, &launchdarkly, rules).await,
            Command::Check => self.check(&store, &launchdarkly).await,
        }
    }

    async fn once(&self, store: &impl Store, launchdarkly: &LaunchDarkly, rules: SyncRules) -> Result<ExitCode, Error> {
        let bar = waiting();
        // As wide as the terminal, so that no line wraps.
        let style = ProgressStyle::with_template("{human_pos:>7} of {human_len} items {wide_bar} {eta:>3} left")?;
        let progress = |done: usize, all: usize| {
            // Each round has a length of its own.
            if done == 1 {
                bar.set_length(all as u64);
                bar.set_style(style.clone());
                bar.reset_eta();
            }
            bar.set_position(done as u64);
        };
        let outcome = sync(store, launchdarkly, rules, progress).await;
        bar.finish_and_clear();
        let report = outcome?;
        print(&if self.json {
            serde_json::to_string(&report)?
        } else {
            let Report { flags, segments, written, deleted, .. } = report;
            format!("{flags} flags and {segments} segments in LaunchDarkly: {written} written, {deleted} deleted")
        })?;
        Ok(ExitCode::SUCCESS)
    }

    async fn check(&self, store: &impl Store, launchdarkly: &LaunchDarkly) -> Result<ExitCode, Error> {
        let bar = waiting();
        let comparison = Comparison::make(store, launchdarkly).await;
        bar.finish_and_clear();
        let comparison = comparison?;
        let in_sync = comparison.differences.is_empty() && comparison.marks.initialized;
        print(&if self.json { as_json(&comparison, in_sync) } else { as_text(&comparison) })?;
        Ok(if in_sync { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

fn as_json(comparison: &Comparison, in_sync: bool) -> String {
    serde_json::json!({
        "in_sync": in_sync,
        "initialized": comparison.marks.initialized,
        "synced_at": comparison.marks.synced.map(timestamp),
        "flags": comparison.flags,
        "segments": comparison.segments,
        "needs_confirmation": is_mass_change(comparison.stored, comparison.losses()),
        "differences": comparison.differences,
    })
    .to_string()
}

fn as_text(comparison: &Comparison) -> String {
    let Comparison { flags, segments, stored, marks, differences, .. } = comparison;
    let differ = differences.len();
    let mut lines = Vec::new();
    if differ > 0 {
        lines.push(table(differences).to_string());
    }
    if differ > MAX_ROWS {
        lines.push(format!(" ... and {} more; --json lists them all", differ - MAX_ROWS));
    }
    lines.push(format!("{flags} flags and {segments} segments in LaunchDarkly; {differ} items of the store differ"));
    let losses = comparison.losses();
    if is_mass_change(*stored, losses) {
        lines.push(format!(
            "{losses} of {stored} items of the store would be deleted, or replaced at the same or a lower version. \
             Check the SDK key; flag-sync once leaves them as they are without --confirm-mass-change"
        ));
    }
    lines.push(match marks.synced {
        Some(synced) => format!("last synchronized {}", timestamp(synced)),
        None => "last synchronized: unknown, flag-sync has not succeeded yet".to_owned(),
    });
    if !marks.initialized {
        lines.push("the store is not marked as initialized: flag-sync once writes everything".to_owned());
    }
    lines.join("\n")
}

/// Prints to standard output. A reader that closes it early, as `head` does, is not an error.
fn print(text: &str) -> io::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// Shows progress; indicatif draws nothing unless standard error is a terminal.
fn waiting() -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message("reading LaunchDarkly and the store");
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn timestamp(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn table(differences: &[Differing]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["kind", "key", "LaunchDarkly", "store", "difference"]);
    let version = |item: &Option<Stored>| {
        let text = item.as_ref().map_or_else(|| "-".to_owned(), |item| item.version.to_string());
        Cell::new(text).set_alignment(CellAlignment::Right)
    };
    for differing in differences.iter().take(MAX_ROWS) {
        table.add_row([
            Cell::new(differing.kind.singular()),
            Cell::new(&differing.key),
            version(&differing.launchdarkly),
            version(&differing.store),
            Cell::new(differing.difference),
        ]);
    }
    table
}
