//! The real binary against stand-ins for Lambda and LaunchDarkly, which speak the real protocols.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod bucketing;
mod decision;
mod events;
mod faults;
mod setup;
mod start;
