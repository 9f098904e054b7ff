//! flag-sync: makes a flag store equal to LaunchDarkly.
//!
//! - [`comparison`]: how a store differs from LaunchDarkly;
//! - [`writer`]: writes the differences, so that runs that overlap end in the newest data;
//! - `secrets`: reads the SDK key and the webhook's secret;
//! - `function`: the Lambda function behind an HTTP API or Function URL, and on a schedule;
//! - [`command`]: the options, and `flag-sync once` and `flag-sync check` for operators;
//! - `json_log`: the function's log.

pub mod command;
pub mod comparison;
mod function;
mod json_log;
mod secrets;
pub mod writer;
