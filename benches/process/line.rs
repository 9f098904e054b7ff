//! A network between a function and a server of this machine: it delays what passes, and its connections can go dead.
//!
//! It does what netem does in a network namespace, on machines whose kernel has no netem. Threads, because the
//! timer of tokio is no finer than a millisecond.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// The way to one server.
pub(crate) struct Line {
    pub(crate) address: SocketAddr,
    /// How often it was cut.
    cuts: Arc<AtomicU64>,
}

impl Line {
    /// It lasts as long as the bench.
    pub(crate) fn to(server: SocketAddr, round_trip: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let cuts = Arc::new(AtomicU64::new(0));
        let seen = cuts.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // The function sees the end of a connection that cannot be carried on.
                let _ = connect(&client, server, round_trip, &seen);
            }
        });
        Ok(Self { address, cuts })
    }

    /// Nothing passes any more over the connections that are open, and neither end notices.
    pub(crate) fn cut(&self) {
        self.cuts.fetch_add(1, Ordering::Relaxed);
    }
}

fn connect(client: &TcpStream, server: SocketAddr, round_trip: Duration, cuts: &Arc<AtomicU64>) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    // The kernel has accepted the connection without delay: its round trip is added to the first bytes.
    carry(client.try_clone()?, server.try_clone()?, round_trip / 2, round_trip, cuts.clone());
    carry(server, client.try_clone()?, round_trip / 2, Duration::ZERO, cuts.clone());
    Ok(())
}

fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration, mut handshake: Duration, cuts: Arc<AtomicU64>) {
    let (sender, chunks) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        for (due, chunk) in chunks {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&chunk).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    thread::spawn(move || {
        let alive = cuts.load(Ordering::Relaxed);
        let mut buffer = vec![0; 65_536];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let chunk = buffer.get(..count).unwrap_or_default().to_vec();
            if cuts.load(Ordering::Relaxed) == alive {
                let _ = sender.send((Instant::now() + delay + std::mem::take(&mut handshake), chunk));
            }
        }
    });
}
