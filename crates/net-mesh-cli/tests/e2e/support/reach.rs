//! Whether a datagram gets from one socket to another, and as whose it arrives.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long one datagram is awaited: a crossing of a few namespaces takes far less.
const CROSSING: Duration = Duration::from_millis(200);

/// Datagrams sent before silence is believed. Loss is not filtering.
const TRIES_BEFORE_SILENCE: u32 = 3;

/// Datagrams sent where one must arrive: ten seconds' worth. The first ones on a fresh link wait for address
/// resolution, which tries again after a second.
const TRIES_OF_AN_OPEN_WAY: u32 = 50;

/// Sends from one socket until another has received it; the source address it came with.
fn reach(from: &UdpSocket, to: SocketAddr, at: &UdpSocket, tries: u32) -> Option<SocketAddr> {
    static LAST: AtomicU64 = AtomicU64::new(0);
    // What an earlier question left in the socket is not an answer to this one.
    let question = LAST.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    (0..tries).find_map(|_| {
        // Where there is no way at all, the kernel may say so at once.
        let unreachable =
            [ErrorKind::NetworkUnreachable, ErrorKind::HostUnreachable, ErrorKind::ConnectionRefused];
        match from.send_to(&question, to) {
            Err(error) if !unreachable.contains(&error.kind()) => panic!("{error}"),
            _ => {}
        }
        receive(at, &question)
    })
}

fn receive(at: &UdpSocket, question: &[u8]) -> Option<SocketAddr> {
    let deadline = Instant::now() + CROSSING;
    let mut buffer = [0; 16];
    loop {
        let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        at.set_read_timeout(Some(left)).unwrap();
        match at.recv_from(&mut buffer) {
            Ok((length, from)) if &buffer[..length] == question => return Some(from),
            // An earlier question, or ICMP's answer to an earlier datagram of ours.
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
                ) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The source with which a datagram arrives on a way that must be open.
pub(crate) fn arrives(from: &UdpSocket, to: SocketAddr, at: &UdpSocket) -> SocketAddr {
    reach(from, to, at, TRIES_OF_AN_OPEN_WAY).expect("this way is open")
}

/// Whether nothing that the one socket sends there reaches the other one.
pub(crate) fn is_cut_off(from: &UdpSocket, to: SocketAddr, at: &UdpSocket) -> bool {
    reach(from, to, at, TRIES_BEFORE_SILENCE).is_none()
}
