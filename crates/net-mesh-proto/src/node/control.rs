//! The table of control messages: which kind is whose.
//!
//! A control message is a 16-bit kind and a body. Kinds are never reused; a node skips those it does not
//! know, so a new protocol is a new row. The rows of one protocol share their upper byte.

use alloc::vec::Vec;

use crate::classify::wire::{Kind, Message as Classify};
use crate::membership;
use crate::membership::wire::{Digest, Records, Summary, Want};
use crate::peer::wire::{Adopt, Hello};
use crate::portmap::wire::{Kind as PortMapKind, Message as PortMap};
use crate::relay;
use crate::relay::wire::Kind as RelayKind;
use crate::rendezvous;
use crate::rendezvous::wire::Kind as RendezvousKind;
use crate::wire::{Malformed, Reader, Writer};

/// A greeting: the first message on every connection.
pub const HELLO: u16 = 0x0001;
/// The arbiter's choice of a connection.
pub const ADOPT: u16 = 0x0002;
/// Which records the sender has.
pub const DIGEST: u16 = 0x0101;
/// Records.
pub const RECORDS: u16 = 0x0102;
/// Which records the sender asks for.
pub const WANT: u16 = 0x0103;
/// A hash of which records the sender has.
pub const SUMMARY: u16 = 0x0104;
/// A request for help with a classification.
pub const PROBE_SETUP: u16 = 0x0201;
/// Leave to probe an address.
pub const PROBE_GRANT: u16 = 0x0202;
/// The answer to a grant.
pub const PROBE_READY: u16 = 0x0203;
/// How the sender can help.
pub const PROBE_OFFER: u16 = 0x0204;
/// That the sender cannot help.
pub const PROBE_REFUSED: u16 = 0x0205;
/// A request for a circuit.
pub const RELAY_OPEN: u16 = 0x0301;
/// That a circuit reaches its target.
pub const RELAY_OPENED: u16 = 0x0302;
/// That a circuit cannot be.
pub const RELAY_REFUSED: u16 = 0x0303;
/// That a circuit is still needed.
pub const RELAY_RENEW: u16 = 0x0304;
/// The end of a circuit.
pub const RELAY_CLOSE: u16 = 0x0305;
/// A request to be introduced.
pub const SEEK: u16 = 0x0401;
/// An introduction.
pub const INTRODUCTION: u16 = 0x0402;
/// That the sender does not introduce.
pub const DECLINED: u16 = 0x0403;
/// A request to send to the sender's port mapping.
pub const REACH_ASK: u16 = 0x0501;
/// Whether that was done.
pub const REACH_TOLD: u16 = 0x0502;

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Kind [`HELLO`].
    Hello(Hello),
    /// Kind [`ADOPT`].
    Adopt(Adopt),
    /// Kinds [`DIGEST`] to [`SUMMARY`].
    Membership(membership::Message),
    /// Kinds [`PROBE_SETUP`] to [`PROBE_REFUSED`].
    Classify(Classify),
    /// Kinds [`RELAY_OPEN`] to [`RELAY_CLOSE`].
    Relay(relay::Message),
    /// Kinds [`SEEK`] to [`DECLINED`].
    Rendezvous(rendezvous::Message),
    /// Kinds [`REACH_ASK`] and [`REACH_TOLD`].
    PortMap(PortMap),
}

/// Why a control message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlError {
    /// Its kind is not in the table.
    UnknownKind(u16),
    /// It does not parse.
    Malformed(Malformed),
}

impl From<Malformed> for ControlError {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

impl Control {
    /// The whole message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        match self {
            Self::Hello(hello) => hello.write(out.u16(HELLO)),
            Self::Adopt(adopt) => adopt.write(out.u16(ADOPT)),
            Self::Membership(membership::Message::Digest(digest)) => digest.write(out.u16(DIGEST)),
            Self::Membership(membership::Message::Records(records)) => records.write(out.u16(RECORDS)),
            Self::Membership(membership::Message::Want(want)) => want.write(out.u16(WANT)),
            Self::Membership(membership::Message::Summary(summary)) => summary.write(out.u16(SUMMARY)),
            Self::Classify(message) => {
                out.u16(code(message.kind())).bytes(&message.encode());
            }
            Self::Relay(message) => {
                out.u16(relay_code(message.kind())).bytes(&message.encode());
            }
            Self::Rendezvous(message) => {
                let kind = match message.kind() {
                    RendezvousKind::Seek => SEEK,
                    RendezvousKind::Introduction => INTRODUCTION,
                    RendezvousKind::Declined => DECLINED,
                };
                out.u16(kind).bytes(&message.encode());
            }
            Self::PortMap(message) => {
                let kind = match message.kind() {
                    PortMapKind::Ask => REACH_ASK,
                    PortMapKind::Told => REACH_TOLD,
                };
                out.u16(kind).bytes(&message.encode());
            }
        }
        out.finish()
    }

    /// Reads a whole message.
    ///
    /// # Errors
    /// When the kind is not known or the body is not of that kind.
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlError> {
        let mut from = Reader::new(bytes);
        let kind = from.u16()?;
        let body = from.rest();
        Ok(match kind {
            HELLO => Self::Hello(Hello::parse(body)?),
            ADOPT => Self::Adopt(Adopt::parse(body)?),
            DIGEST => Self::Membership(membership::Message::Digest(Digest::parse(body)?)),
            RECORDS => Self::Membership(membership::Message::Records(Records::parse(body)?)),
            WANT => Self::Membership(membership::Message::Want(Want::parse(body)?)),
            SUMMARY => Self::Membership(membership::Message::Summary(Summary::parse(body)?)),
            PROBE_SETUP => Self::Classify(Classify::decode(Kind::Setup, body)?),
            PROBE_GRANT => Self::Classify(Classify::decode(Kind::Grant, body)?),
            PROBE_READY => Self::Classify(Classify::decode(Kind::Ready, body)?),
            PROBE_OFFER => Self::Classify(Classify::decode(Kind::Offer, body)?),
            PROBE_REFUSED => Self::Classify(Classify::decode(Kind::Refused, body)?),
            RELAY_OPEN => Self::Relay(relay::Message::decode(RelayKind::Open, body)?),
            RELAY_OPENED => Self::Relay(relay::Message::decode(RelayKind::Opened, body)?),
            RELAY_REFUSED => Self::Relay(relay::Message::decode(RelayKind::Refused, body)?),
            RELAY_RENEW => Self::Relay(relay::Message::decode(RelayKind::Renew, body)?),
            RELAY_CLOSE => Self::Relay(relay::Message::decode(RelayKind::Close, body)?),
            SEEK => Self::Rendezvous(rendezvous::Message::decode(RendezvousKind::Seek, body)?),
            INTRODUCTION => {
                Self::Rendezvous(rendezvous::Message::decode(RendezvousKind::Introduction, body)?)
            }
            DECLINED => Self::Rendezvous(rendezvous::Message::decode(RendezvousKind::Declined, body)?),
            REACH_ASK => Self::PortMap(PortMap::decode(PortMapKind::Ask, body)?),
            REACH_TOLD => Self::PortMap(PortMap::decode(PortMapKind::Told, body)?),
            unknown => return Err(ControlError::UnknownKind(unknown)),
        })
    }
}

const fn code(kind: Kind) -> u16 {
    match kind {
        Kind::Setup => PROBE_SETUP,
        Kind::Grant => PROBE_GRANT,
        Kind::Ready => PROBE_READY,
        Kind::Offer => PROBE_OFFER,
        Kind::Refused => PROBE_REFUSED,
    }
}

const fn relay_code(kind: RelayKind) -> u16 {
    match kind {
        RelayKind::Open => RELAY_OPEN,
        RelayKind::Opened => RELAY_OPENED,
        RelayKind::Refused => RELAY_REFUSED,
        RelayKind::Renew => RELAY_RENEW,
        RelayKind::Close => RELAY_CLOSE,
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::classify::wire::{ProbeGrant, ProbeOffer, ProbeReady, ProbeRefused, ProbeSetup, Refusal};
    use crate::id::NodeId;
    use crate::portmap::wire::{Ask, Outcome, Told};
    use crate::reflex::stun::ProbeToken;
    use crate::relay::Message as Relay;
    use crate::rendezvous::wire::{Introduction, Seek};
    use crate::rendezvous::{Decline, Message as Rendezvous, Plan};

    fn one_of_each() -> Vec<(u16, Control)> {
        let mapped = "198.51.100.7:40000".parse().unwrap();
        let (token, txid) = (ProbeToken(5), 9);
        let (from, to) = (NodeId([0; 32]), NodeId([0xff; 32]));
        let membership = Control::Membership;
        let circuit = 11;
        let (attempt, plan, verdict) = (5, Plan::Dial, crate::membership::VerdictSummary::UNKNOWN);
        let seek = Seek { attempt, target: to, plan, verdict, candidates: vec![mapped] };
        let introduction = Introduction {
            attempt,
            peer: from,
            to_seeker: false,
            plan,
            verdict,
            candidates: vec![],
            key: [3; 32],
            fire_in_ms: 1,
            span_ms: 2,
        };
        let open = relay::wire::Open {
            circuit,
            origin: from,
            path: vec![to],
            passed: vec![],
            forward: 12,
            back: 13,
        };
        vec![
            (0x0001, Control::Hello(Hello { version: 1, boot: 2, has_session: false })),
            (0x0002, Control::Adopt(Adopt { count: 3 })),
            (0x0101, membership(membership::Message::Digest(Digest { from, to, entries: vec![] }))),
            (0x0104, membership(membership::Message::Summary(Summary { hash: [7; 16] }))),
            (0x0102, membership(membership::Message::Records(Records { items: vec![] }))),
            (0x0103, membership(membership::Message::Want(Want { ids: vec![from] }))),
            (0x0201, Control::Classify(Classify::Setup(ProbeSetup { txid, mapped, exclude: vec![] }))),
            (0x0202, Control::Classify(Classify::Grant(ProbeGrant { token, target: mapped, count: 1 }))),
            (0x0203, Control::Classify(Classify::Ready(ProbeReady { token, accepted: true }))),
            (
                0x0204,
                Control::Classify(Classify::Offer(ProbeOffer { txid, token, other_addr: None, third: None })),
            ),
            (0x0205, Control::Classify(Classify::Refused(ProbeRefused { txid, reason: Refusal::Busy }))),
            (0x0301, Control::Relay(Relay::Open(open))),
            (0x0302, Control::Relay(Relay::Opened { circuit })),
            (0x0303, Control::Relay(Relay::Refused { circuit, at: from, why: relay::Refusal::NoLink })),
            (0x0304, Control::Relay(Relay::Renew { circuit })),
            (0x0305, Control::Relay(Relay::Close { circuit, by_opener: true })),
            (0x0401, Control::Rendezvous(Rendezvous::Seek(seek))),
            (0x0402, Control::Rendezvous(Rendezvous::Introduction(introduction))),
            (0x0403, Control::Rendezvous(Rendezvous::Declined { attempt: 5, why: Decline::Busy })),
            (0x0501, Control::PortMap(PortMap::Ask(Ask { token, addr: mapped }))),
            (0x0502, Control::PortMap(PortMap::Told(Told { token, outcome: Outcome::Sent }))),
        ]
    }

    #[test]
    fn every_kind_has_its_number_and_survives_the_journey() {
        for (kind, control) in one_of_each() {
            let bytes = control.encode();
            assert_eq!(bytes[..2], kind.to_be_bytes(), "{control:?}");
            assert_eq!(Control::parse(&bytes), Ok(control));
        }
    }

    #[test]
    fn a_message_cut_anywhere_is_malformed() {
        for (_, control) in one_of_each() {
            let bytes = control.encode();
            for end in 0..bytes.len() {
                assert!(
                    matches!(Control::parse(&bytes[..end]), Err(ControlError::Malformed(_))),
                    "{control:?} cut at {end}"
                );
            }
        }
    }

    #[test]
    fn an_adoption_has_these_bytes_with_its_kind() {
        let bytes = Control::Adopt(Adopt { count: 3 }).encode();
        assert_eq!(bytes, [0, 2, 0, 0, 0, 0, 0, 0, 0, 3]);
    }

    #[test]
    fn a_kind_of_a_later_version_is_named_and_not_an_error_of_form() {
        assert_eq!(Control::parse(&[0x77, 0x01, 1, 2]), Err(ControlError::UnknownKind(0x7701)));
    }
}
