//! An HTTP/1.1 server on a free port of the loopback address, whose connections can be cut.

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// A body that may fail half-way. [`io::ErrorKind::ConnectionReset`] ends the connection by a TCP reset.
pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// A running server and what its requests share; it ends when this is dropped.
pub(crate) struct Server<S> {
    pub(crate) state: Arc<S>,
    pub(crate) address: SocketAddr,
    accepting: JoinHandle<()>,
    connections: Arc<Mutex<JoinSet<()>>>,
    accepted: Arc<AtomicUsize>,
}

impl<S: Send + Sync + 'static> Server<S> {
    /// Starts it on a free port.
    pub(crate) async fn start<F>(state: S, answer: fn(Arc<S>, Request<Bytes>) -> F) -> io::Result<Self>
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(state);
        let connections: Arc<Mutex<JoinSet<()>>> = Arc::default();
        let accepted: Arc<AtomicUsize> = Arc::default();
        let (shared, opened, counted) = (state.clone(), connections.clone(), accepted.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                counted.fetch_add(1, Ordering::Relaxed);
                let state = shared.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let state = state.clone();
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await?.to_bytes();
                        Ok::<_, hyper::Error>(answer(state, Request::from_parts(head, body)).await)
                    }
                });
                let mut opened = opened.lock();
                while opened.try_join_next().is_some() {}
                opened.spawn(async move {
                    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    // The peer ends a connection as it likes; a test that cares sees it by other means.
                    if let Err(error) = (&mut connection).await
                        && is_reset(&error)
                    {
                        // What closes it then sends a TCP reset.
                        let _ = connection.into_parts().io.into_inner().set_zero_linger();
                    }
                });
            }
        });
        Ok(Self { state, address, accepting, connections, accepted })
    }

    pub(crate) fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections there were so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Closes every connection, without a response.
    pub(crate) fn drop_connections(&self) {
        self.connections.lock().abort_all();
    }
}

impl<S> Drop for Server<S> {
    fn drop(&mut self) {
        self.accepting.abort();
        self.connections.lock().abort_all();
    }
}

/// Whether a body ended with a reset, which the connection is to end with too. The peer's own reset looks the same, which
/// does no harm.
fn is_reset(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

/// The value of a header; empty if it is missing or not a text.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// A response with a JSON body.
pub(crate) fn response(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|never| match never {});
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    with_header(response, "content-type", "application/json")
}

/// Sets a header, unless the value is invalid.
pub(crate) fn with_header(mut response: Response<Body>, name: &'static str, value: &str) -> Response<Body> {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

/// Leaves half of the body, announced as a whole one. Then comes an error of this kind, or nothing more.
pub(crate) fn cut(response: Response<Body>, body: &Bytes, end: Option<io::ErrorKind>) -> Response<Body> {
    let first = stream::iter([Ok(Frame::data(body.slice(..body.len() / 2)))]);
    let end = stream::once(async move {
        // Only while the body waits is its first half sent.
        tokio::task::yield_now().await;
        match end {
            Some(kind) => Err(kind.into()),
            None => std::future::pending().await,
        }
    });
    let response = response.map(|_| Body::new(StreamBody::new(first.chain(end))));
    with_header(response, "content-length", &body.len().to_string())
}
