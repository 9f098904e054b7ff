//! Decides, for each viewer request that CloudFront passes to it, which version of a site the viewer gets.
//!
//! How a request flows, and the modules it passes:
//!
//! 1. [`edge`] receives the event from Lambda and reads it with [`cloudfront`];
//! 2. [`visitor`] reads cookies, headers and preview link, if a setting needs them, and [`redirect`] classifies the
//!    request: does its answer depend on the visitor? If not, step 3 is skipped;
//! 3. [`flags`] makes sure that its snapshot is fresh enough and lets LaunchDarkly's SDK evaluate the flag from it;
//! 4. [`redirect`] makes the answer, [`cloudfront`] writes it as JSON, and [`edge`] returns it to Lambda;
//! 5. after the response, [`edge`] writes the log line ([`decision_log`], [`log`]) and lets [`flags`] fetch new
//!    data from its source and send its events, if either is due.
//!
//! The crate `flag_data` holds flag data, its sources and stores. [`start`] builds the function from [`settings`], the SDK
//! key and the [`preview_token`].

pub mod cloudfront;
pub mod decision_log;
pub mod edge;
pub mod flags;
pub mod log;
pub mod preview_token;
pub mod redirect;
pub mod settings;
pub mod start;
pub mod visitor;
