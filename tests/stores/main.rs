//! The flag stores and flag-sync, against a real Redis, a DynamoDB emulator and LaunchDarkly's own SDKs.
//!
//! DynamoDB is stood in for by dynalite: like the real one, and unlike moto's server, it looks at a condition and writes
//! in one step, which is what these tests are about.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)] // A test fails by panicking.

mod contract;
mod data;
mod edge;
mod faults;
mod function;
mod interop;
mod kill_switch;
mod memory;
mod relay;
mod scale;
mod servers;
mod sync;
mod tls;
