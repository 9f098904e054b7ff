//! CloudFront on this machine: the redirect function, both sites and a page to play with the flag.

use clap::Parser;
use preview::Options;

/// Shows the redirect function at work on this machine, without an account.
#[derive(Parser)]
#[command(name = "preview")]
struct Arguments {
    /// Port on 127.0.0.1; 0 for any that is free
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Do not open the control page in a browser
    #[arg(long)]
    no_open: bool,
    /// Freeze the function between requests, as Lambda does
    #[arg(long)]
    freeze: bool,
    /// Use the LaunchDarkly environment of `LAUNCHDARKLY_SDK_KEY`, read only
    #[arg(long)]
    live: bool,
}

// One thread: on Linux the function's process ends with the thread that started it.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let Arguments { port, no_open, freeze, live } = Arguments::parse();
    if let Err(error) = preview::run(Options { port, freeze, live, open: !no_open }).await {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
