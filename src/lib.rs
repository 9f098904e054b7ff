//! Decides, for every viewer request that reaches CloudFront, which version of a site the viewer gets.
//!
//! The way of a request, and the modules it passes:
//!
//! 1. [`edge`] takes the event from Lambda and reads it with [`cloudfront`];
//! 2. [`redirect`] sorts the request: does its answer depend on the viewer?
//! 3. [`flags`] makes sure that its snapshot is fresh enough and lets LaunchDarkly's SDK evaluate the flag from it;
//! 4. [`redirect`] makes the answer, and [`edge`] gives it to Lambda;
//! 5. when it is out, [`edge`] writes the log line ([`logs`]) and lets [`flags`] fetch new data from a source
//!    ([`sources`]) and send its events, if either is due.
//!
//! With the features `dynamodb` and `redis` there are `stores`: databases that hold flag data, for the function and for
//! any other program; with `sync`, the module of that name keeps them up to date.
//!
//! [`settings`] and [`start`] bring a process that far; [`transport`] is the way out of it.
//!
//! For tests, `standins` has what cannot run on a developer's machine; `preview` puts it behind a CloudFront of its own,
//! in a browser. Both are cargo features.

pub mod cloudfront;
pub mod edge;
pub mod flags;
pub mod logs;
#[cfg(feature = "preview")]
pub mod preview;
pub mod redirect;
pub mod settings;
pub mod sources;
#[cfg(feature = "standins")]
pub mod standins;
pub mod start;
#[cfg(any(feature = "dynamodb", feature = "redis"))]
pub mod stores;
#[cfg(feature = "sync")]
pub mod sync;
pub mod transport;
