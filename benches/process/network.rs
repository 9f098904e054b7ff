//! A network between a function and a server on this machine: it delays every packet, and its connections can go dead.
//!
//! It works like netem in a network namespace, on machines whose kernel has no netem: a TUN device, whose packets are
//! sent back with source and destination exchanged, so that the far end is this machine again. Checksums do not change,
//! because they are sums. It uses threads, because tokio's timer has a resolution of a millisecond.
//! <https://docs.kernel.org/networking/tuntap.html>

use crate::Result;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// An address of this machine that goes through the network.
pub(crate) const FAR: &str = "10.99.0.2";
const NEAR: &str = "10.99.0.1/24";
const DEVICE: &str = "far0";
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
/// The length of an IPv4 header without options.
const HEADER: usize = 20;

/// Both ports of a connection, the smaller one first.
type Connection = (u16, u16);

/// The network, which lasts as long as the bench.
pub(crate) struct Network(Arc<Mutex<Connections>>);

#[derive(Default)]
struct Connections {
    seen: HashSet<Connection>,
    dead: HashSet<Connection>,
}

impl Network {
    /// Moves this process into a new network namespace, before it has other threads. Needs root.
    pub(crate) fn start(round_trip: Duration) -> Result<Self> {
        // SAFETY: touches no memory.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error().into());
        }
        ip(&["link", "set", "lo", "up"])?;
        let mut device = File::options().read(true).write(true).open("/dev/net/tun")?;
        let mut request = [0_u8; 40];
        for (to, from) in request.iter_mut().zip(DEVICE.bytes()) {
            *to = from;
        }
        let flags = u16::try_from(libc::IFF_TUN | libc::IFF_NO_PI)?.to_ne_bytes();
        for (to, from) in request.iter_mut().skip(libc::IFNAMSIZ).zip(flags) {
            *to = from;
        }
        // SAFETY: the kernel reads and writes an `ifreq`, which is not longer than the buffer.
        if unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) } < 0 {
            return Err(io::Error::last_os_error().into());
        }
        ip(&["address", "add", NEAR, "dev", DEVICE])?;
        ip(&["link", "set", DEVICE, "up"])?;

        let (sender, packets) = mpsc::channel::<(Instant, Vec<u8>)>();
        let mut back = device.try_clone()?;
        thread::spawn(move || {
            for (due, packet) in packets {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                // TCP sends a lost packet again.
                let _ = back.write_all(&packet);
            }
        });
        let connections = Arc::new(Mutex::new(Connections::default()));
        let network = Self(connections.clone());
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok(length) = device.read(&mut buffer) {
                let mut packet = buffer.get(..length).unwrap_or_default().to_vec();
                let Some(connection) = reflect(&mut packet) else { continue };
                let mut connections = connections.lock().unwrap_or_else(PoisonError::into_inner);
                connections.seen.insert(connection);
                if !connections.dead.contains(&connection) {
                    let _ = sender.send((Instant::now() + round_trip / 2, packet));
                }
            }
        });
        Ok(network)
    }

    /// Drops all packets of the existing connections with this port, without notice to either end.
    pub(crate) fn cut(&self, port: u16) {
        let mut connections = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cut: Vec<_> =
            connections.seen.iter().filter(|(one, other)| [one, other].contains(&&port)).copied().collect();
        connections.dead.extend(cut);
    }
}

/// Exchanges source and destination; `None` if the packet is not TCP over IPv4.
fn reflect(packet: &mut [u8]) -> Option<Connection> {
    if *packet.first()? != 0x45 || *packet.get(9)? != 6 {
        return None;
    }
    let (header, segment) = packet.split_at_mut_checked(HEADER)?;
    let (source, destination) = header.get_mut(12..)?.split_at_mut_checked(4)?;
    source.swap_with_slice(destination);
    let port = |at: usize| Some(u16::from_be_bytes([*segment.get(at)?, *segment.get(at + 1)?]));
    let (one, other) = (port(0)?, port(2)?);
    Some((one.min(other), one.max(other)))
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into()) }
}
