//! flag-sync, against a real Redis, a DynamoDB emulator and LaunchDarkly's own SDKs.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)] // A test fails by panicking.

#[path = "../../flag-data/tests/databases.rs"]
mod databases;
mod function;
mod interop;
#[path = "../../flag-data/tests/memory.rs"]
mod memory;
mod relay;
mod scale;
mod setup;
mod sync;
