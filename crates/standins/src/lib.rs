//! Stand-ins for what cannot run on a developer's machine: [`RuntimeApi`] for Lambda's Runtime API, [`LaunchDarkly`] for
//! LaunchDarkly's service, [`Aws`] for a DynamoDB that fails and for the services that keep secrets. They speak the real
//! protocols, with faults on demand, and start the function as a process of its own ([`Function`]).
//!
//! For tests, benches and the preview; no part of the edge binary.

mod aws;
mod edge;
mod function;
mod launchdarkly;
mod runtime_api;
pub mod samples;
mod serve;
pub mod servers;
mod wire;

pub use aws::{Aws, DynamoDbFault};
pub use edge::Edge;
pub use function::{Following, Function, lambda_environment};
pub use launchdarkly::{Data, Fault, LaunchDarkly};
pub use runtime_api::{Outcome, RuntimeApi};
pub use wire::Wire;
