//! The one HTTP transport for flag data and events: the SDK's own, with the timeouts that it lacks.

use crate::clock::{Clock, Moment};
use bytes::Bytes;
use futures_util::{StreamExt, TryFutureExt};
use http::header::RETRY_AFTER;
use http::{HeaderMap, Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use launchdarkly_sdk_transport::{HttpTransport, HyperTransport, ResponseFuture, TransportError};
use parking_lot::Mutex;
use scopeguard::ScopeGuard;
use std::collections::HashMap;
use std::error::Error;
use std::iter;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A connection that was idle for longer may be dead without anyone noticing: the environment was frozen.
pub(crate) const MAX_IDLE: Duration = Duration::from_secs(10);

/// An HTTP client with connect and total timeouts. A connection that was idle for more than 10 seconds is not used
/// again; the next one resumes its TLS session.
///
/// Used by the source of the flag data and, through [`HttpTransport`], by the SDK's event sender.
#[derive(Clone)]
pub struct Transport(Arc<Inner>);

struct Inner {
    clock: Clock,
    timeout: Duration,
    /// Outlives the pools: it holds the TLS sessions that a new connection resumes, without the certificates to check.
    connector: OnceLock<HttpsConnector<HttpConnector>>,
    pool: Mutex<Option<Pool>>,
}

struct Pool {
    client: Client,
    /// When each host was last called.
    last_used: HashMap<String, Moment>,
}

type Client = Arc<dyn Fn(Request<Option<Bytes>>) -> ResponseFuture + Send + Sync>;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum RequestError {
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the connection failed: {0}")]
    Failed(String),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
}

impl Transport {
    /// A transport whose requests take at most `timeout`: to the last byte of the body, or to the headers if the SDK sends
    /// them, which ignores bodies.
    pub fn new(clock: Clock, timeout: Duration) -> Self {
        Self(Arc::new(Inner { clock, timeout, connector: OnceLock::new(), pool: Mutex::default() }))
    }

    /// Sends a request and reads the whole response, of which at most `limit` bytes.
    ///
    /// # Errors
    /// [`RequestError`]; an HTTP error status is a response, not an error.
    pub async fn exchange(
        &self,
        request: Request<Option<Bytes>>,
        limit: usize,
    ) -> Result<Response<Vec<u8>>, RequestError> {
        let inner = &self.0;
        let client = inner.client(request.uri())?;
        let suspect = inner.suspect(&client);
        let response = client(request);
        let read = async {
            let (head, mut chunks) = response.await.map_err(failed)?.into_parts();
            let mut body = Vec::new();
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.map_err(failed)?;
                if body.len() + chunk.len() > limit {
                    return Err(RequestError::TooLarge(limit));
                }
                body.extend_from_slice(&chunk);
            }
            Ok(Response::from_parts(head, body))
        };
        let response = tokio::time::timeout(inner.timeout, read).await;
        let response = response.map_err(|_| RequestError::TimedOut(inner.timeout))?;
        ScopeGuard::into_inner(suspect);
        response
    }
}

/// For the SDK's event sender, which has no timeout of its own and ignores the bodies of responses.
impl HttpTransport for Transport {
    fn request(&self, request: Request<Option<Bytes>>) -> ResponseFuture {
        let inner = self.0.clone();
        let response = async move {
            let client = inner.client(request.uri())?;
            let suspect = inner.suspect(&client);
            let response = tokio::time::timeout(inner.timeout, client(request)).await;
            let response = response.map_err(|_| RequestError::TimedOut(inner.timeout))?;
            ScopeGuard::into_inner(suspect);
            response.map_err(failed)
        };
        Box::pin(response.map_err(TransportError::new))
    }
}

impl Inner {
    /// When this is dropped, because the request was given up by its timeout or nobody waits for it any longer, the pool
    /// is not used again: an HTTP/2 connection survives a canceled request, also a dead one.
    fn suspect(&self, client: &Client) -> ScopeGuard<(), impl FnOnce(())> {
        scopeguard::guard((), move |()| drop(self.pool.lock().take_if(|pool| Arc::ptr_eq(&pool.client, client))))
    }

    /// The client of the pool. The pool is a new one when the host was not called for long, by the clock that sees a
    /// freeze: hyper's own idle timeout uses one that may stand still meanwhile.
    fn client(&self, uri: &Uri) -> Result<Client, RequestError> {
        let mut pool = self.pool.lock();
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        pool.take_if(|pool| pool.last_used.get(&host).is_some_and(|used| self.clock.since(*used) > MAX_IDLE));
        let pool = match &mut *pool {
            Some(pool) => pool,
            empty => {
                let connector = self.connector.get_or_init(connector).clone();
                let transport = HyperTransport::builder().connect_timeout(self.timeout).build_with_connector(connector);
                let transport = transport.map_err(|error| RequestError::Failed(error.to_string()))?;
                let client = Arc::new(move |request| transport.request(request));
                empty.insert(Pool { client, last_used: HashMap::new() })
            }
        };
        pool.last_used.insert(host, self.clock.now());
        Ok(pool.client.clone())
    }
}

/// Configured like the SDK's connector, but shared by all pools, so that TLS sessions survive. Without Nagle's algorithm,
/// which the SDK leaves on: the first request would wait for a round trip until the server acknowledges the handshake.
fn connector() -> HttpsConnector<HttpConnector> {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    // It connects for https too.
    tcp.enforce_http(false);
    let builder = HttpsConnectorBuilder::new().with_webpki_roots().https_or_http();
    builder.enable_http1().enable_http2().wrap_connector(tcp)
}

/// The whole chain of causes: hyper's outermost error says only that something failed.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn failed(error: TransportError) -> RequestError {
    let causes = iter::successors(Some(error.inner() as &dyn Error), |&error| error.source());
    RequestError::Failed(causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

/// `Retry-After` in seconds; LaunchDarkly does not send the date form. Ten seconds when there is none.
pub fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use hyper_rustls::MaybeHttpsStream;
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig};
    use tower_service::Service;

    /// A server that sends how each handshake went, and a connector that trusts it.
    async fn server() -> (String, HttpsConnector<HttpConnector>, UnboundedReceiver<HandshakeKind>) {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let trusting = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let trusting =
            HttpsConnectorBuilder::new().with_tls_config(trusting).https_only().enable_http1().enable_http2().build();

        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key);
        let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let (sender, handshakes) = unbounded_channel();
        tokio::spawn(async move {
            // Open to the end, as a frozen environment finds its own.
            let mut connections = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = acceptor.accept(stream).await.unwrap();
                sender.send(stream.get_ref().1.handshake_kind().unwrap()).unwrap();
                stream.read_u8().await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
                connections.push(stream);
            }
        });
        (uri, trusting, handshakes)
    }

    #[tokio::test]
    async fn after_a_freeze_the_handshake_is_resumed() {
        let (uri, connector, mut handshakes) = server().await;
        let clock = Clock::default();
        let transport = Transport::new(clock.clone(), Duration::from_secs(20));
        transport.0.connector.set(connector).unwrap();
        for (deadline, expected) in [(1_000_000, HandshakeKind::Full), (1_600_000, HandshakeKind::Resumed)] {
            clock.invocation(deadline);
            let response = transport.exchange(Request::get(&uri).body(None).unwrap(), 99).await.unwrap();
            assert_eq!(response.body(), b"{}");
            assert_eq!(handshakes.recv().await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn a_request_does_not_wait_for_an_acknowledgment() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let connected = connector().call(uri).await.unwrap();
        assert!(matches!(connected, MaybeHttpsStream::Http(stream) if stream.inner().nodelay().unwrap()));
    }

    #[test]
    fn a_wait_that_a_server_asks_for_is_read() {
        assert_eq!(retry_after(&HeaderMap::new()), Duration::from_secs(10));
        for (header, expected) in [("7", 7), ("tomorrow", 10)] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(header))]);
            assert_eq!(retry_after(&headers), Duration::from_secs(expected), "{header}");
        }
    }
}
