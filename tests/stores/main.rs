//! The function with a flag store as its source: the real binary, a real Redis and a DynamoDB emulator, without
//! LaunchDarkly.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)] // A test fails by panicking.

#[path = "../../crates/flag-data/tests/databases.rs"]
mod databases;
mod edge;
mod kill_switch;
