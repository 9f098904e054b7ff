//! The real binary against stand-ins for Lambda and LaunchDarkly, which speak the real protocols.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod bucketing;
mod carrier;
mod cloudfront;
mod decision;
mod events;
mod faults;
mod fleet;
mod house;
mod kill_switch;
mod logs;
mod paths;
mod setup;
mod soak;
mod start;
mod transport;
mod visitors;
