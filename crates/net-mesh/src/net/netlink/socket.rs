//! How much did a UDP socket of this host discard, because its buffer was full?
//!
//! The kernel is asked for the one socket with a local address (sock_diag(7)). That takes some microseconds, finds it
//! by a hash, and costs nothing where packets are received. The other ways cost more: `SO_RXQ_OVFL` a control message
//! with every batch, `/proc/net/udp` a walk over all sockets of the host.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recvfrom, sendto, socket_with,
};

/// `SOCK_DIAG_BY_FAMILY`, of requests and answers.
const BY_FAMILY: u16 = 20;
const REQUEST: u16 = 1;
const INET: u8 = 2;
const INET6: u8 = 10;
const UDP: u8 = 17;
/// `INET_DIAG_SKMEMINFO`.
const MEMORY: u16 = 7;
/// `SK_MEMINFO_DROPS`, the place of a number in that attribute.
const DROPS: usize = 8;
/// Length of `struct nlmsghdr`, and of `struct inet_diag_msg` after it.
const HEADER: usize = 16;
const SOCKET: usize = 72;
/// Longest answer taken, in bytes; one has 164.
const MAX_ANSWER: usize = 4096;

/// Datagrams discarded at the socket bound to `local`, in the network namespace of this thread.
///
/// # Errors
/// If there is no such socket, or the kernel does not tell.
pub(in crate::net) fn overflowed(local: SocketAddr) -> io::Result<u64> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(SOCK_DIAG))?;
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(&socket, &request(local), SendFlags::empty(), &kernel)?;
    // The kernel answers within the call above.
    let mut buffer = [0; MAX_ANSWER];
    let (length, ..) = recvfrom(&socket, &mut buffer[..], RecvFlags::empty())?;
    answer(&buffer[..length])
}

/// A request for the memory of one socket (`struct inet_diag_req_v2`). Source and destination are those of a packet
/// that the socket would receive.
fn request(local: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + 56);
    bytes.extend_from_slice(&72_u32.to_ne_bytes());
    bytes.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    bytes.extend_from_slice(&REQUEST.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&[if local.is_ipv6() { INET6 } else { INET }, UDP, 1 << (MEMORY - 1), 0]);
    // In any state.
    bytes.extend_from_slice(&u32::MAX.to_ne_bytes());
    bytes.extend_from_slice(&0_u16.to_be_bytes());
    bytes.extend_from_slice(&local.port().to_be_bytes());
    bytes.extend_from_slice(&[0; 16]);
    match local.ip() {
        IpAddr::V4(ip) => {
            bytes.extend_from_slice(&ip.octets());
            bytes.extend_from_slice(&[0; 12]);
        }
        IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
    }
    // On any interface, whatever its cookie.
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    bytes.extend_from_slice(&[0xff; 8]);
    bytes
}

fn answer(datagram: &[u8]) -> io::Result<u64> {
    let cut = || io::Error::from(io::ErrorKind::InvalidData);
    let u16_at = |at: usize| datagram.get(at..at + 2).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    let u32_at = |at: usize| datagram.get(at..at + 4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    if u16_at(4) != Some(BY_FAMILY) {
        // An error: a negative number of the system's.
        let code = u32_at(HEADER).map_or(0, |code| code.cast_signed().wrapping_neg());
        return Err(io::Error::from_raw_os_error(code));
    }
    let mut at = HEADER + SOCKET;
    while let (Some(length), Some(kind)) = (u16_at(at), u16_at(at + 2)) {
        if kind == MEMORY {
            return u32_at(at + 4 + 4 * DROPS).map(u64::from).ok_or_else(cut);
        }
        // Attributes begin at multiples of four.
        at += usize::from(length.max(4)).next_multiple_of(4);
    }
    Err(cut())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn what_a_full_socket_discards_is_told_and_of_that_socket_alone() {
        for ip in ["127.0.0.1", "::1", "0.0.0.0", "::"] {
            let ip: IpAddr = ip.parse().unwrap();
            let loopback = if ip.is_ipv6() { "::1" } else { "127.0.0.1" };
            let [full, idle] = [(); 2].map(|()| UdpSocket::bind((ip, 0)).unwrap());
            let to = (loopback.parse::<IpAddr>().unwrap(), full.local_addr().unwrap().port());
            socket2::SockRef::from(&full).set_recv_buffer_size(2048).unwrap();
            let sender = UdpSocket::bind((loopback, 0)).unwrap();
            assert_eq!(overflowed(full.local_addr().unwrap()).unwrap(), 0);
            for _ in 0..100 {
                sender.send_to(&[1; 500], to).unwrap();
            }
            full.set_nonblocking(true).unwrap();
            let arrived = std::iter::from_fn(|| full.recv_from(&mut [0; 500]).ok()).count() as u64;
            assert!(arrived < 100);
            assert_eq!(overflowed(full.local_addr().unwrap()).unwrap(), 100 - arrived, "{ip}");
            assert_eq!(overflowed(idle.local_addr().unwrap()).unwrap(), 0, "{ip}");
        }
    }

    #[test]
    fn a_socket_that_is_not_there_is_an_error() {
        let local = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(overflowed(local).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn answers_that_are_cut_off_or_senseless_are_errors() {
        let mut whole = vec![0; HEADER + SOCKET];
        whole[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        whole.extend_from_slice(&[5_u16.to_ne_bytes(), 8_u16.to_ne_bytes(), [0, 0], [0, 0]].concat());
        whole.extend_from_slice(&[40_u16.to_ne_bytes(), MEMORY.to_ne_bytes()].concat());
        whole.extend((0..9_u32).flat_map(|n| (n * 7).to_ne_bytes()));
        assert_eq!(answer(&whole).unwrap(), 56);
        for length in 0..whole.len() {
            assert!(answer(&whole[..length]).is_err(), "{length}");
        }
        // Attributes of length zero end somewhere, too.
        assert!(answer(&[&whole[..HEADER + SOCKET], &[0; 64][..]].concat()).is_err());
    }
}
