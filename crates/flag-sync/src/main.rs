//! flag-sync: makes a flag store equal to LaunchDarkly, as a Lambda function or by hand.

// The AWS SDK's futures nest so deep that an optimized build meets the compiler's usual limit of 128.
#![recursion_limit = "256"]

use clap::Parser;
use flag_sync::command::{Options, run};
use std::io::Write;
use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match Box::pin(run(Options::parse())).await {
        Ok(code) => code,
        Err(error) => {
            // Standard error may be closed; the exit code remains.
            let _ = writeln!(std::io::stderr(), "flag-sync: {error}");
            ExitCode::from(2)
        }
    }
}
