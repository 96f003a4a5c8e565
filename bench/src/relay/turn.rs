//! As much of a TURN client (RFC 8656) as it takes to have ChannelData relayed.

use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Result, ensure};

const COOKIE: u32 = 0x2112_a442;
const ALLOCATE: u16 = 0x0003;
const CHANNEL_BIND: u16 = 0x0009;
const SUCCESS: u16 = 0x0100;

/// The first channel number (RFC 8656 §12).
pub const CHANNEL: u16 = 0x4000;

/// Allocates a relayed address on the server that `socket` is connected to, and binds [`CHANNEL`] to `peer`.
pub fn open(socket: &UdpSocket, peer: SocketAddrV4) -> Result<()> {
    const UDP: u8 = 17;
    ask(socket, ALLOCATE, &attribute(0x0019, &[UDP, 0, 0, 0]))?;
    let mut address = vec![0, 1];
    address.extend((peer.port() ^ (COOKIE >> 16) as u16).to_be_bytes());
    address.extend((u32::from(*peer.ip()) ^ COOKIE).to_be_bytes());
    let channel = attribute(0x000c, &(u32::from(CHANNEL) << 16).to_be_bytes());
    ask(socket, CHANNEL_BIND, &[channel, attribute(0x0012, &address)].concat())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes(), &(value.len() as u16).to_be_bytes(), value].concat()
}

fn ask(socket: &UdpSocket, method: u16, attributes: &[u8]) -> Result<()> {
    let mut request = Vec::from(method.to_be_bytes());
    request.extend((attributes.len() as u16).to_be_bytes());
    request.extend(COOKIE.to_be_bytes());
    request.extend(*b"benchmark id");
    request.extend(attributes);
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.send(&request)?;
    let mut answer = [0; 1500];
    let length = socket.recv(&mut answer)?;
    ensure!(length >= 20 && answer[8..20] == *b"benchmark id", "coturn answered something else");
    let kind = u16::from_be_bytes([answer[0], answer[1]]);
    ensure!(kind == method | SUCCESS, "coturn refused {method:#06x}: {:x?}", &answer[..length]);
    Ok(())
}

/// The header of ChannelData with `length` bytes.
pub fn header(length: usize) -> [u8; 4] {
    let ([a, b], [c, d]) = (CHANNEL.to_be_bytes(), (length as u16).to_be_bytes());
    [a, b, c, d]
}
