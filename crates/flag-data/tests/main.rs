//! The flag stores, against a real Redis and a DynamoDB emulator.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)] // A test fails by panicking.

mod contract;
mod databases;
mod example;
mod faults;
mod memory;
mod tls;
