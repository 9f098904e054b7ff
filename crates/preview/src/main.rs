//! CloudFront on this machine: the redirect function, both sites and a page to play with the flag.

use clap::Parser;
use preview::Options;

// One thread: on Linux the function's process ends with the thread that started it.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    if let Err(error) = preview::run(Options::parse()).await {
        eprintln!("{error:#}");
        std::process::exit(1);
    }
}
