//! LaunchDarkly flag data for any Rust program, without LaunchDarkly's streaming connection: fetched item by item, or
//! kept in a database.
//!
//! - [`sources`]: where a flag and its references come from ([`sources::FlagSource`]): LaunchDarkly, a store, a text;
//! - [`stores`]: DynamoDB and Redis in the formats that every LaunchDarkly SDK shares, as a persistent data store for
//!   LaunchDarkly's Rust SDK and as a source (features `dynamodb` and `redis`);
//! - [`items`]: a flag or a segment, as JSON, and what it refers to;
//! - [`transport`]: the HTTP client under all of them, with timeouts and without connections that a freeze has broken;
//! - [`clock`] and [`backoff`]: ages and waits in an environment that may be frozen, such as AWS Lambda's;
//! - [`sdk_key`]: the secret that LaunchDarkly asks for.

pub mod backoff;
pub mod clock;
pub mod items;
pub mod sdk_key;
pub mod sources;
#[cfg(any(feature = "dynamodb", feature = "redis"))]
pub mod stores;
pub mod transport;
