//! Connections that are not reused.

use crate::setup::{KEY, flag, launchdarkly};
use bytes::Bytes;
use flag_data::clock::Clock;
use flag_data::transport::{RequestError, Transport};
use http::Request;
use standins::{Fault, LaunchDarkly};
use std::time::Duration;

fn request(service: &LaunchDarkly) -> Request<Option<Bytes>> {
    let uri = format!("{}/sdk/flags/rebrand", service.uri());
    Request::get(uri).header("authorization", KEY).body(None).unwrap()
}

/// A transport with two idle connections.
async fn warm() -> (LaunchDarkly, Transport) {
    let service = launchdarkly(flag(1, true)).await;
    let transport = Transport::new(Clock::default(), Duration::from_millis(500));
    service.fail(Fault::SlowHeaders(Duration::from_millis(100)));
    let (one, other) =
        tokio::join!(transport.exchange(request(&service), 9_999), transport.exchange(request(&service), 9_999));
    assert!(one.is_ok() && other.is_ok());
    service.fail(Fault::None);
    assert_eq!(service.connections(), 2);
    assert!(transport.exchange(request(&service), 9_999).await.is_ok());
    assert_eq!(service.connections(), 2, "a connection is reused");
    service.fail(Fault::BlackHole);
    (service, transport)
}

#[tokio::test]
async fn after_a_timeout_no_connection_is_reused() {
    let (service, transport) = warm().await;
    let timed_out = transport.exchange(request(&service), 9_999).await;
    assert!(matches!(timed_out, Err(RequestError::TimedOut(_))));
    service.fail(Fault::None);
    assert!(transport.exchange(request(&service), 9_999).await.is_ok());
    assert_eq!(service.connections(), 3);
}

#[tokio::test]
async fn after_an_abandoned_request_no_connection_is_reused() {
    let (service, transport) = warm().await;
    let given_up = tokio::time::timeout(Duration::from_millis(50), transport.exchange(request(&service), 9_999)).await;
    assert!(given_up.is_err());
    service.fail(Fault::None);
    assert!(transport.exchange(request(&service), 9_999).await.is_ok());
    assert_eq!(service.connections(), 3);
}
