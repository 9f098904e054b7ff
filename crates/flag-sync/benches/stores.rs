//! The flag stores with 5,000 flags: the cost of each step, against dynalite and Redis on this machine.
//!
//! The steps and the servers are those of the tests.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../../flag-data/tests/databases.rs"]
mod databases;
#[path = "../tests/scale.rs"]
mod scale;
#[path = "../tests/setup.rs"]
mod setup;

use std::fs;
use std::path::Path;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    eprintln!("{} flags in a DynamoDB emulator and in Redis ...", scale::FLAGS);
    let (dynamodb, redis) = (scale::dynamodb().await, scale::redis().await);
    println!("{:<36}{:>12}{:>10}{:>12}{:>10}", "", "emulator s", "requests", "Redis s", "commands");
    for (one, other) in dynamodb.iter().zip(&redis) {
        print!("{:<36}{:>12.2}{:>10}", one.what, one.seconds, one.requests);
        println!("{:>12.2}{:>10}", other.seconds, other.requests);
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
    let json = serde_json::json!({"flags": scale::FLAGS, "dynamodb": dynamodb, "redis": redis});
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("stores.json"), format!("{json:#}\n")).unwrap();
}
