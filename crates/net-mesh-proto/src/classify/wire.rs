//! The control messages of a classification, as bytes: the body of each, without the kind that the node puts
//! in front. Three parties speak: **A** classifies itself, **P** helps it, **H** helps P.

use alloc::vec::Vec;
use core::net::SocketAddr;

use crate::id::NodeId;
use crate::reflex::stun::ProbeToken;
use crate::wire::{Malformed, Reader, Writer, addr};

/// Nodes that A can ask P not to choose, at most: those its earlier attempts could not use.
pub const MAX_EXCLUDE: usize = 4;

/// Probes that P can ask H to send on its own, at most.
///
/// They need no request from A, so they are the only ones that a granting peer alone could have sent to
/// someone; 16 datagrams of 36 bytes are too few to hurt and twice what a series needs.
pub const MAX_SELF_PACED: u8 = 16;

/// A message of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A to P: help me.
    Setup(ProbeSetup),
    /// P to H: you may probe this address.
    Grant(ProbeGrant),
    /// H to P: the answer.
    Ready(ProbeReady),
    /// P to A: how we can help.
    Offer(ProbeOffer),
    /// P to A: we cannot.
    Refused(ProbeRefused),
}

/// A asks P to help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSetup {
    /// The transaction in which P told A's fresh socket its address, 96 bits.
    pub txid: u128,
    /// That address.
    pub mapped: SocketAddr,
    /// Nodes not to choose as third node. At most [`MAX_EXCLUDE`].
    pub exclude: Vec<NodeId>,
}

/// P lets H probe an address, which P vouches is that of the node that asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeGrant {
    /// Whoever shows this token to H has a probe sent.
    pub token: ProbeToken,
    /// Where the probes go.
    pub target: SocketAddr,
    /// Probes to send without being asked, from now on. At most [`MAX_SELF_PACED`].
    pub count: u8,
}

/// H's answer to a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeReady {
    /// Which grant.
    pub token: ProbeToken,
    /// Whether H will act on it.
    pub accepted: bool,
}

/// P's offer to A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeOffer {
    /// The transaction of the request this answers.
    pub txid: u128,
    /// What to show in the PROBE attribute.
    pub token: ProbeToken,
    /// P's other port as seen from outside.
    pub other_addr: Option<SocketAddr>,
    /// The third node.
    pub third: Option<Third>,
}

/// The third node, H.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Third {
    /// Who it is.
    pub id: NodeId,
    /// Its address, as P sees it.
    pub addr: SocketAddr,
    /// Whether a stranger can be expected to reach it there.
    pub reachable: bool,
}

/// P does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeRefused {
    /// The transaction of the request this answers.
    pub txid: u128,
    /// Why.
    pub reason: Refusal,
}

/// Why P does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// P did not see that transaction come from that address, or no longer remembers.
    NotSeen,
    /// P is helping as many as it can.
    Busy,
    /// The address is not one that can be reached from everywhere.
    Scope,
}

/// Which message a body is. The node maps it to and from the kinds of its control messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`ProbeSetup`].
    Setup,
    /// [`ProbeGrant`].
    Grant,
    /// [`ProbeReady`].
    Ready,
    /// [`ProbeOffer`].
    Offer,
    /// [`ProbeRefused`].
    Refused,
}

impl Kind {
    /// Every kind, in the order of [`Message`].
    pub const ALL: [Self; 5] = [Self::Setup, Self::Grant, Self::Ready, Self::Offer, Self::Refused];
}

impl Message {
    /// Which message this is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Setup(_) => Kind::Setup,
            Self::Grant(_) => Kind::Grant,
            Self::Ready(_) => Kind::Ready,
            Self::Offer(_) => Kind::Offer,
            Self::Refused(_) => Kind::Refused,
        }
    }

    /// The bytes of the body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        match self {
            Self::Setup(m) => m.write(&mut out),
            Self::Grant(m) => m.write(&mut out),
            Self::Ready(m) => m.write(&mut out),
            Self::Offer(m) => m.write(&mut out),
            Self::Refused(m) => m.write(&mut out),
        }
        out.finish()
    }

    /// Reads a body of the given kind.
    ///
    /// # Errors
    /// [`Malformed`] if it is not exactly one such message.
    pub fn decode(kind: Kind, body: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(body);
        let message = match kind {
            Kind::Setup => Self::Setup(ProbeSetup::read(&mut from)?),
            Kind::Grant => Self::Grant(ProbeGrant::read(&mut from)?),
            Kind::Ready => Self::Ready(ProbeReady::read(&mut from)?),
            Kind::Offer => Self::Offer(ProbeOffer::read(&mut from)?),
            Kind::Refused => Self::Refused(ProbeRefused::read(&mut from)?),
        };
        from.finish()?;
        Ok(message)
    }
}

fn write_txid(out: &mut Writer, txid: u128) {
    out.bytes(&txid.to_be_bytes()[4..]);
}

fn read_txid(from: &mut Reader<'_>) -> Result<u128, Malformed> {
    let mut bytes = [0; 16];
    bytes[4..].copy_from_slice(from.bytes(12)?);
    Ok(u128::from_be_bytes(bytes))
}

impl ProbeSetup {
    fn write(&self, out: &mut Writer) {
        write_txid(out, self.txid);
        addr::write(out, self.mapped);
        let exclude = &self.exclude[..self.exclude.len().min(MAX_EXCLUDE)];
        out.count(exclude.len());
        for id in exclude {
            out.bytes(&id.0);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let txid = read_txid(from)?;
        let mapped = addr::read(from)?;
        let count = from.count(MAX_EXCLUDE, "the number of excluded nodes")?;
        let exclude = (0..count).map(|_| from.array().map(NodeId)).collect::<Result<_, _>>()?;
        Ok(Self { txid, mapped, exclude })
    }
}

impl ProbeGrant {
    fn write(self, out: &mut Writer) {
        out.u64(self.token.0);
        addr::write(out, self.target);
        out.u8(self.count.min(MAX_SELF_PACED));
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (token, target, count) = (ProbeToken(from.u64()?), addr::read(from)?, from.u8()?);
        if count > MAX_SELF_PACED {
            return Err(Malformed::TooLong("the number of probes"));
        }
        Ok(Self { token, target, count })
    }
}

impl ProbeReady {
    fn write(self, out: &mut Writer) {
        out.u64(self.token.0).bool(self.accepted);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { token: ProbeToken(from.u64()?), accepted: from.bool()? })
    }
}

impl ProbeOffer {
    fn write(&self, out: &mut Writer) {
        write_txid(out, self.txid);
        out.u64(self.token.0).bool(self.other_addr.is_some());
        if let Some(other) = self.other_addr {
            addr::write(out, other);
        }
        out.bool(self.third.is_some());
        if let Some(third) = self.third {
            out.bytes(&third.id.0);
            addr::write(out, third.addr);
            out.bool(third.reachable);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (txid, token) = (read_txid(from)?, ProbeToken(from.u64()?));
        let other_addr = if from.bool()? { Some(addr::read(from)?) } else { None };
        let third = if from.bool()? {
            Some(Third { id: NodeId(from.array()?), addr: addr::read(from)?, reachable: from.bool()? })
        } else {
            None
        };
        Ok(Self { txid, token, other_addr, third })
    }
}

impl ProbeRefused {
    fn write(self, out: &mut Writer) {
        write_txid(out, self.txid);
        out.u8(match self.reason {
            Refusal::NotSeen => 1,
            Refusal::Busy => 2,
            Refusal::Scope => 3,
        });
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let txid = read_txid(from)?;
        let reason = match from.u8()? {
            1 => Refusal::NotSeen,
            2 => Refusal::Busy,
            3 => Refusal::Scope,
            _ => return Err(Malformed::Invalid("a reason to refuse")),
        };
        Ok(Self { txid, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;
    use std::vec;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| std::format!("{b:02x}")).collect()
    }

    fn examples() -> [(Message, &'static str); 6] {
        let mapped = "198.51.100.7:40000".parse().unwrap();
        let v6 = "[2001:db8::7]:40000".parse().unwrap();
        let id = NodeId([0xaa; 32]);
        let txid = 0x0102_0304_0506_0708_090a_0b0c;
        let token = ProbeToken(0x1112_1314_1516_1718);
        [
            (
                Message::Setup(ProbeSetup { txid, mapped, exclude: vec![id] }),
                "0102030405060708090a0b0c\
                 04c63364079c40\
                 01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            ),
            (
                Message::Grant(ProbeGrant { token, target: v6, count: 8 }),
                "1112131415161718\
                 0620010db80000000000000000000000079c40\
                 08",
            ),
            (Message::Ready(ProbeReady { token, accepted: true }), "111213141516171801"),
            (
                Message::Offer(ProbeOffer {
                    txid,
                    token,
                    other_addr: Some(mapped),
                    third: Some(Third { id, addr: mapped, reachable: true }),
                }),
                "0102030405060708090a0b0c\
                 1112131415161718\
                 0104c63364079c40\
                 01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa04c63364079c4001",
            ),
            (
                Message::Offer(ProbeOffer { txid, token, other_addr: None, third: None }),
                "0102030405060708090a0b0c11121314151617180000",
            ),
            (Message::Refused(ProbeRefused { txid, reason: Refusal::Busy }), "0102030405060708090a0b0c02"),
        ]
    }

    #[test]
    fn every_message_has_these_bytes_and_reads_back() {
        for (message, golden) in examples() {
            let bytes = message.encode();
            assert_eq!(hex(&bytes), golden, "{message:?}");
            assert_eq!(Message::decode(message.kind(), &bytes), Ok(message));
        }
    }

    #[test]
    fn a_message_cut_anywhere_or_continued_is_refused() {
        for (message, _) in examples() {
            let mut bytes = message.encode();
            for cut in 0..bytes.len() {
                assert!(Message::decode(message.kind(), &bytes[..cut]).is_err(), "{message:?} cut at {cut}");
            }
            bytes.push(0);
            assert_eq!(Message::decode(message.kind(), &bytes), Err(Malformed::TrailingBytes));
        }
    }

    #[test]
    fn what_is_above_its_limit_or_undefined_is_refused() {
        let mut setup = examples()[0].0.encode();
        setup[19] = 5;
        assert_eq!(
            Message::decode(Kind::Setup, &setup),
            Err(Malformed::TooLong("the number of excluded nodes"))
        );
        let mut grant = examples()[1].0.encode();
        *grant.last_mut().unwrap() = MAX_SELF_PACED + 1;
        assert_eq!(Message::decode(Kind::Grant, &grant), Err(Malformed::TooLong("the number of probes")));
        let mut refused = examples()[5].0.encode();
        *refused.last_mut().unwrap() = 9;
        assert_eq!(Message::decode(Kind::Refused, &refused), Err(Malformed::Invalid("a reason to refuse")));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            kind in 0usize..5, bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        ) {
            if let Ok(message) = Message::decode(Kind::ALL[kind], &bytes) {
                proptest::prop_assert_eq!(Message::decode(message.kind(), &message.encode()), Ok(message));
            }
        }
    }
}
