//! A TCP connection that fails.

#![allow(clippy::missing_panics_doc, clippy::panic, clippy::unwrap_used, clippy::indexing_slicing)] // A test fails by panicking.

use futures_util::future::select;
use parking_lot::Mutex;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A proxy in front of a Redis that is cut after a number of bytes, and whose answers can be held back.
pub struct Wire {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    /// How many more bytes go to it.
    pub left: Arc<Mutex<usize>>,
    /// Whether its answers are held back.
    pub is_held: watch::Sender<bool>,
    connections: Arc<AtomicUsize>,
}

impl Wire {
    /// To the Redis at a port of 127.0.0.1.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self {
            port: listener.local_addr().unwrap().port(),
            left: Arc::new(Mutex::new(usize::MAX)),
            is_held: watch::Sender::new(false),
            connections: Arc::default(),
        };
        let (left, is_held, connections) = (wire.left.clone(), wire.is_held.subscribe(), wire.connections.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let (left, is_held) = (left.clone(), is_held.clone());
                let there = copy(from_client, to_server, async move |read| {
                    let mut left = left.lock();
                    let passed = read.min(*left);
                    *left -= passed;
                    passed
                });
                let back = copy(from_server, to_client, async move |read| {
                    // The sender goes with the test.
                    let _ = is_held.clone().wait_for(|is_held| !is_held).await;
                    read
                });
                tokio::spawn(async {
                    select(pin!(there), pin!(back)).await;
                });
            }
        });
        wire
    }

    /// For a client.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// How many connections there were so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Copies as many bytes as `pass` allows of those that were read, and ends at the first that it does not.
async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, pass: impl AsyncFn(usize) -> usize) {
    let mut bytes = vec![0; 512];
    loop {
        let read = from.read(&mut bytes).await.unwrap_or(0);
        let passed = pass(read).await;
        if passed == 0 || to.write_all(&bytes[..passed]).await.is_err() || passed < read {
            return;
        }
    }
}
