//! flag-sync: makes a flag store equal to LaunchDarkly, as a Lambda function or by hand.

use clap::Parser;
use redirect::sync::command::{Options, run};
use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match Box::pin(run(Options::parse())).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("flag-sync: {error}");
            ExitCode::from(2)
        }
    }
}
