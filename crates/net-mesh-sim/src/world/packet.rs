//! The datagrams that stand in for QUIC's between simulated nodes.
//!
//! First bytes and sizes are those of QUIC, so the first-byte table and the links treat them alike. Nothing
//! is encrypted: the simulator's nodes do not forge.

use net_mesh_proto::id::NodeId;
use net_mesh_proto::wire::{Malformed, Reader, Writer};

/// A datagram of a handshake is padded to what RFC 9000 §14.1 asks of an Initial.
const HANDSHAKE_BYTES: usize = 1200;

/// Bytes of a control message in one datagram.
pub(crate) const CHUNK: usize = 1100;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    /// Names the connection; drawn by who opens it.
    pub(crate) key: u64,
    /// Whether its sender is who opened the connection.
    pub(crate) by_opener: bool,
    pub(crate) body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// Asks for a connection with `to`, or with whoever is there.
    Hello { from: NodeId, to: Option<NodeId> },
    /// Agrees to it.
    Welcome { from: NodeId },
    /// Is not who was asked for.
    Refuse,
    /// The connection is over, or unknown.
    Close,
    /// A piece of a control message; `last` ends the message.
    Data { seq: u64, last: bool, chunk: Vec<u8> },
    /// Everything before `next` has arrived; `echo` answers a ping.
    Ack { next: u64, echo: bool },
    /// Asks for a sign of life.
    Ping,
}

const LONG: u8 = 0xc0;
const SHORT: u8 = 0x40;

impl Packet {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        let first = if matches!(self.body, Body::Hello { .. } | Body::Welcome { .. }) { LONG } else { SHORT };
        out.u8(first).u64(self.key).u8(u8::from(self.by_opener));
        match &self.body {
            Body::Hello { from, to } => {
                out.u8(0).bytes(&from.0).u8(u8::from(to.is_some()));
                out.bytes(&to.map_or([0; 32], |to| to.0));
            }
            Body::Welcome { from } => {
                out.u8(1).bytes(&from.0);
            }
            Body::Refuse => {
                out.u8(2);
            }
            Body::Close => {
                out.u8(3);
            }
            Body::Data { seq, last, chunk } => {
                out.u8(4).u64(*seq).u8(u8::from(*last));
                out.u16(u16::try_from(chunk.len()).unwrap_or(u16::MAX)).bytes(chunk);
            }
            Body::Ack { next, echo } => {
                out.u8(5).u64(*next).u8(u8::from(*echo));
            }
            Body::Ping => {
                out.u8(6);
            }
        }
        let mut bytes = out.finish();
        if first == LONG {
            bytes.resize(HANDSHAKE_BYTES, 0);
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        let first = from.u8()?;
        if first != LONG && first != SHORT {
            return Err(Malformed::Invalid("a first byte"));
        }
        let (key, by_opener) = (from.u64()?, from.u8()? == 1);
        let body = match from.u8()? {
            0 => {
                let node = NodeId(from.array()?);
                let named = from.u8()? == 1;
                let to = NodeId(from.array()?);
                Body::Hello { from: node, to: named.then_some(to) }
            }
            1 => Body::Welcome { from: NodeId(from.array()?) },
            2 => Body::Refuse,
            3 => Body::Close,
            4 => {
                let (seq, last) = (from.u64()?, from.u8()? == 1);
                let len = usize::from(from.u16()?);
                Body::Data { seq, last, chunk: from.bytes(len)?.to_vec() }
            }
            5 => Body::Ack { next: from.u64()?, echo: from.u8()? == 1 },
            6 => Body::Ping,
            _ => return Err(Malformed::Invalid("a kind of packet")),
        };
        Ok(Self { key, by_opener, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_packet_survives_its_encoding_and_handshakes_are_as_long_as_quics() {
        let id = NodeId([7; 32]);
        for body in [
            Body::Hello { from: id, to: Some(NodeId([8; 32])) },
            Body::Hello { from: id, to: None },
            Body::Welcome { from: id },
            Body::Refuse,
            Body::Close,
            Body::Data { seq: 3, last: true, chunk: vec![1, 2, 3] },
            Body::Ack { next: 9, echo: true },
            Body::Ping,
        ] {
            let packet = Packet { key: 5, by_opener: true, body };
            let bytes = packet.encode();
            let handshake = matches!(packet.body, Body::Hello { .. } | Body::Welcome { .. });
            assert_eq!(bytes.len() == 1200, handshake);
            assert_eq!(Packet::decode(&bytes), Ok(packet));
        }
        assert!(Packet::decode(&[0x40, 1]).is_err());
    }
}
