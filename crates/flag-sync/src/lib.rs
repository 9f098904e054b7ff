//! flag-sync: makes a flag store equal to LaunchDarkly.
//!
//! - [`comparison`]: a store and LaunchDarkly side by side;
//! - [`writer`]: compares and writes, so that runs that overlap end in the newest data;
//! - [`webhook`]: LaunchDarkly's notice that something changed, and its signature;
//! - [`function`]: the Lambda function behind an HTTP API or Function URL, and on a schedule;
//! - [`secrets`]: where the SDK key and the webhook's secret are kept;
//! - [`command`]: the same for operators: `flag-sync once`, `flag-sync check`.

pub mod command;
pub mod comparison;
pub mod function;
pub mod log;
pub mod secrets;
pub mod webhook;
pub mod writer;
