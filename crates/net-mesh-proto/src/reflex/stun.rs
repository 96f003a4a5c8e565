//! What a STUN datagram says (RFC 8489), reduced to the messages a node uses.
//!
//! The only file that touches STUN bytes. It reads and writes four messages, all of the method Binding:
//! request, success response, error response, and an indication that carries our PROBE attribute.
//! Anything else is refused with the [`DropReason`] to count.
//!
//! Reading is strict: the magic cookie must be there, the length in the header must be the length of the
//! datagram, attributes must fill it exactly, a FINGERPRINT must be right and come last. Attributes that
//! RFC 8489 defines but a Binding does not need are ignored, as its §6.3 asks; unknown ones below 0x8000
//! are reported, so that the server can answer 420.
//!
//! **No amplification.** Our own requests are padded to the length of everything they make the responder
//! send. A foreign request may be as short as 20 bytes, and its answer cannot be: the smallest legal one is
//! 32 bytes (IPv4) or 44 (IPv6), and a 420 is at most 36 for a request of 24. That is the one bounded
//! exception ([`MAX_SURPLUS`]) to the law that a stranger never makes us send more bytes than it sent.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use stun_types::attribute::{
    AlternateDomain, AlternateServer, Attribute, AttributeExt, AttributeFromRaw, AttributeStaticType,
    AttributeType, ErrorCode, Fingerprint, MappedSocketAddr, MessageIntegrity, MessageIntegritySha256, Nonce,
    PasswordAlgorithm, PasswordAlgorithms, RawAttribute, Realm, Software, UnknownAttributes, Userhash,
    Username, XorMappedAddress,
};
use stun_types::message::{
    BINDING, IntegrityAlgorithm, Message as Stun, MessageClass, MessageHeader, MessageIntegrityCredentials,
    MessageType, MessageWrite, MessageWriteExt, MessageWriteVec, ShortTermCredentials,
};

use crate::drops::DropReason;
use crate::wire::{Malformed, Reader, Writer};

/// The longest STUN datagram that is read, in bytes.
///
/// RFC 8489 §6.1 wants messages to fit the path MTU; nobody has more than 1500 bytes to say about a Binding.
/// It also bounds how many unknown attributes one datagram can list.
pub const MAX_LEN: usize = 1500;

/// How many bytes an answer may be longer than the request it answers, at most: a 44-byte response with an
/// IPv6 address to a bare 20-byte header.
pub const MAX_SURPLUS: usize = 24;

/// PROBE, our own attribute: a 64-bit token and an 8-bit slot number.
///
/// From the comprehension-optional range that RFC 8489 §18.3 assigns by expert review, so other STUN
/// agents skip it; the low end of that range (0xC000-0xC060) is where the assigned codes are.
const PROBE: AttributeType = AttributeType::new(0xCE70);

/// FILL, our own attribute: bytes without meaning. PADDING of RFC 5780 §7.6 does the same but is
/// comprehension-required, and would be answered with an error by every plain STUN server.
const FILL: AttributeType = AttributeType::new(0xCE71);

/// MAPPED-ADDRESS (RFC 8489 §14.1).
const MAPPED_ADDRESS: AttributeType = AttributeType::new(0x0001);

/// The longest answer to a Binding request of ours: header, XOR-MAPPED-ADDRESS with an IPv6 address, FINGERPRINT.
const LONGEST_RESPONSE: usize = 20 + 24 + 8;

/// The length of a probe indication: header and PROBE.
const INDICATION: usize = 20 + 16;

/// Unknown attributes that a 420 answer lists, at most.
///
/// Enough to tell a person what went wrong, and few enough that the answer stays short. The request
/// brought four bytes for each, the answer takes two.
const MAX_UNKNOWN: usize = 16;

/// What lets a node ask a helper to probe it: known only to the node, its helper and the third node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeToken(pub u64);

/// The value of a PROBE attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Probe {
    /// By which right the probe is asked for, or sent.
    pub token: ProbeToken,
    /// Which question of a series this is.
    pub slot: u8,
}

/// A Binding request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingRequest {
    /// The transaction id, 96 bits.
    pub txid: u128,
    /// The PROBE attribute, if there is one.
    pub probe: Option<Probe>,
    /// What its USERNAME says, where it is a check of a rendezvous. Nothing is proven by it yet: see [`is_signed`].
    pub check: Option<CheckName>,
    /// Whether it carries a FINGERPRINT; the answer then does too.
    pub has_fingerprint: bool,
    /// Comprehension-required attributes that RFC 8489 does not define, without duplicates; at most 16.
    pub unknown_required: Vec<u16>,
}

/// The USERNAME of a check: which rendezvous, and which of the two sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckName {
    /// The number of the attempt.
    pub attempt: u128,
    /// Whether it comes from the side that asked for the rendezvous.
    pub by_seeker: bool,
}

impl CheckName {
    fn text(self) -> String {
        format!("{:032x}:{}", self.attempt, if self.by_seeker { 's' } else { 't' })
    }

    fn parse(text: &str) -> Option<Self> {
        let (attempt, side) = text.split_once(':')?;
        let plain = attempt.len() == 32 && attempt.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let by_seeker = match side {
            "s" => true,
            "t" => false,
            _ => return None,
        };
        Some(Self { attempt: u128::from_str_radix(attempt, 16).ok().filter(|_| plain)?, by_seeker })
    }
}

/// A STUN message, as far as a node cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Someone asks which address they are seen at.
    BindingRequest(BindingRequest),
    /// The answer.
    BindingResponse {
        /// The transaction id of the request, 96 bits.
        txid: u128,
        /// The address the request came from.
        mapped: SocketAddr,
    },
    /// The request was refused.
    BindingError {
        /// The transaction id of the request, 96 bits.
        txid: u128,
        /// The error code, 300 to 699; 0 where the response does not say.
        code: u16,
    },
    /// A probe of a filter: expects no answer.
    ProbeIndication(Probe),
}

impl Message {
    /// Whether it says that something this node sent has arrived somewhere.
    #[must_use]
    pub const fn is_answer(&self) -> bool {
        matches!(self, Self::BindingResponse { .. } | Self::BindingError { .. })
    }

    /// Reads a datagram.
    ///
    /// # Errors
    /// [`DropReason::MalformedStun`] if it is not well-formed STUN with the magic cookie,
    /// [`DropReason::UnsupportedStun`] if it is, but not one of the messages above.
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        let malformed = DropReason::MalformedStun;
        if bytes.len() > MAX_LEN {
            return Err(malformed);
        }
        let header = MessageHeader::from_bytes(bytes).map_err(|_| malformed)?;
        let attributes = Attributes::read(bytes, &header).ok_or(malformed)?;
        if header.get_type().method() != BINDING {
            return Err(DropReason::UnsupportedStun);
        }
        let txid = header.transaction_id().into();
        match header.get_type().class() {
            MessageClass::Request => Ok(Self::BindingRequest(BindingRequest {
                txid,
                probe: attributes.probe,
                check: attributes.check,
                has_fingerprint: attributes.has_fingerprint,
                unknown_required: attributes.unknown_required,
            })),
            MessageClass::Success => {
                if !attributes.unknown_required.is_empty() {
                    return Err(DropReason::UnsupportedStun);
                }
                let mapped = attributes.xor_mapped.or(attributes.mapped).ok_or(malformed)?;
                Ok(Self::BindingResponse { txid, mapped })
            }
            MessageClass::Error => Ok(Self::BindingError { txid, code: attributes.code }),
            MessageClass::Indication => {
                attributes.probe.map(Self::ProbeIndication).ok_or(DropReason::UnsupportedStun)
            }
        }
    }
}

/// What the attributes of a message say.
#[derive(Default)]
struct Attributes {
    probe: Option<Probe>,
    check: Option<CheckName>,
    has_fingerprint: bool,
    unknown_required: Vec<u16>,
    xor_mapped: Option<SocketAddr>,
    mapped: Option<SocketAddr>,
    code: u16,
}

impl Attributes {
    /// Reads them all; `None` if the message is not well-formed.
    fn read(bytes: &[u8], header: &MessageHeader) -> Option<Self> {
        if bytes.len() != MessageHeader::LENGTH + usize::from(header.data_length())
            || !bytes.len().is_multiple_of(4)
        {
            return None;
        }
        let mut found = Self::default();
        // RFC 8489 §14.5: what follows an integrity attribute, but for these, is to be ignored.
        let mut after_integrity = false;
        let mut offset = MessageHeader::LENGTH;
        while offset < bytes.len() {
            if found.has_fingerprint {
                return None;
            }
            let rest = bytes.get(offset..)?;
            let attribute = RawAttribute::from_bytes(rest).ok()?;
            if attribute.padded_len() > rest.len() {
                return None;
            }
            let kind = attribute.get_type();
            if kind == Fingerprint::TYPE {
                let given = Fingerprint::from_raw_ref(&attribute).ok()?;
                if *given.fingerprint() != Fingerprint::compute(&[bytes.get(..offset)?]) {
                    return None;
                }
                found.has_fingerprint = true;
            } else if !after_integrity {
                found.note(kind, &attribute, header)?;
            }
            after_integrity |= kind == MessageIntegrity::TYPE || kind == MessageIntegritySha256::TYPE;
            offset += attribute.padded_len();
        }
        Some(found)
    }

    /// Notes one attribute. The first of its kind counts (RFC 8489 §14); `None` if it is not well-formed.
    fn note(&mut self, kind: AttributeType, raw: &RawAttribute<'_>, header: &MessageHeader) -> Option<()> {
        match kind {
            PROBE => {
                let probe = read_probe(&raw.value).ok()?;
                self.probe.get_or_insert(probe);
            }
            Username::TYPE => {
                // Another agent's name is none of ours, and no fault.
                let name = core::str::from_utf8(&raw.value).ok().and_then(CheckName::parse);
                self.check = self.check.or(name);
            }
            XorMappedAddress::TYPE => {
                let addr = XorMappedAddress::from_raw_ref(raw).ok()?.addr(header.transaction_id());
                self.xor_mapped.get_or_insert(canonical(addr));
            }
            MAPPED_ADDRESS => {
                let addr = MappedSocketAddr::from_raw(raw).ok()?.addr();
                self.mapped.get_or_insert(canonical(addr));
            }
            ErrorCode::TYPE => {
                // A reason that is not UTF-8 is no reason to disbelieve the refusal.
                self.code = ErrorCode::from_raw_ref(raw).map_or(0, |e| e.code());
            }
            _ if kind.comprehension_required() && !is_defined(kind) => {
                let code = kind.value();
                if self.unknown_required.len() < MAX_UNKNOWN && !self.unknown_required.contains(&code) {
                    self.unknown_required.push(code);
                }
            }
            _ => {}
        }
        Some(())
    }
}

/// Whether RFC 8489 §18.3 defines `kind`.
fn is_defined(kind: AttributeType) -> bool {
    [
        MAPPED_ADDRESS,
        Username::TYPE,
        MessageIntegrity::TYPE,
        ErrorCode::TYPE,
        UnknownAttributes::TYPE,
        Realm::TYPE,
        Nonce::TYPE,
        MessageIntegritySha256::TYPE,
        PasswordAlgorithm::TYPE,
        Userhash::TYPE,
        XorMappedAddress::TYPE,
        PasswordAlgorithms::TYPE,
        AlternateDomain::TYPE,
        Software::TYPE,
        AlternateServer::TYPE,
        Fingerprint::TYPE,
    ]
    .contains(&kind)
}

fn read_probe(value: &[u8]) -> Result<Probe, Malformed> {
    let mut from = Reader::new(value);
    let probe = Probe { token: ProbeToken(from.u64()?), slot: from.u8()? };
    from.finish()?;
    Ok(probe)
}

/// `addr` with an IPv4-mapped IPv6 address in its IPv4 form, so that one address has one form.
#[must_use]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(_) => addr,
        IpAddr::V6(_) => SocketAddr::new(addr.ip().to_canonical(), addr.port()),
    }
}

fn start(class: MessageClass, txid: u128) -> MessageWriteVec {
    Stun::builder(MessageType::from_class_method(class, BINDING), txid.into(), MessageWriteVec::new())
}

fn finish(mut message: MessageWriteVec, fingerprint: bool) -> Vec<u8> {
    if fingerprint {
        // Fails only where there is one already.
        let added = message.add_fingerprint();
        debug_assert!(added.is_ok());
    }
    message.finish()
}

fn push_probe(message: &mut MessageWriteVec, probe: Probe) {
    let mut value = Writer::new();
    value.u64(probe.token.0).u8(probe.slot);
    message.push_attribute_unchecked(&RawAttribute::new(PROBE, &value.finish()));
}

/// A Binding request of ours, with FINGERPRINT, as long as all that it makes the responder send.
#[must_use]
pub fn binding_request(txid: u128, probe: Option<Probe>) -> Vec<u8> {
    const FINGERPRINT_AND_FILL_HEADER: usize = 8 + 4;
    let mut message = start(MessageClass::Request, txid);
    let mut length = LONGEST_RESPONSE;
    if let Some(probe) = probe {
        push_probe(&mut message, probe);
        length += INDICATION;
    }
    let fill = [0; LONGEST_RESPONSE + INDICATION];
    let needed = length.saturating_sub(message.data().len() + FINGERPRINT_AND_FILL_HEADER);
    message.push_attribute_unchecked(&RawAttribute::new(FILL, &fill[..needed.min(fill.len())]));
    finish(message, true)
}

/// The smallest answer to a Binding request that came from `mapped`.
#[must_use]
pub fn binding_response(txid: u128, mapped: SocketAddr, fingerprint: bool) -> Vec<u8> {
    let mut message = start(MessageClass::Success, txid);
    message.push_attribute_unchecked(&XorMappedAddress::new(canonical(mapped), txid.into()));
    finish(message, fingerprint)
}

fn credentials(key: &[u8; 32]) -> MessageIntegrityCredentials {
    let password = key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    ShortTermCredentials::new(password).into()
}

fn sign(message: &mut MessageWriteVec, key: &[u8; 32]) {
    // Fails only where there is one already.
    let added = message.add_message_integrity(&credentials(key), IntegrityAlgorithm::Sha256);
    debug_assert!(added.is_ok());
}

/// A check: a Binding request with USERNAME, MESSAGE-INTEGRITY-SHA256 (RFC 8489 §14.6) keyed with `key`, and
/// FINGERPRINT. It is longer than its answer.
#[must_use]
pub fn check_request(txid: u128, name: CheckName, key: &[u8; 32]) -> Vec<u8> {
    let mut message = start(MessageClass::Request, txid);
    message.push_attribute_unchecked(&RawAttribute::new(Username::TYPE, name.text().as_bytes()));
    sign(&mut message, key);
    finish(message, true)
}

/// The answer to a check that came from `mapped`.
#[must_use]
pub fn check_response(txid: u128, mapped: SocketAddr, key: &[u8; 32]) -> Vec<u8> {
    let mut message = start(MessageClass::Success, txid);
    message.push_attribute_unchecked(&XorMappedAddress::new(canonical(mapped), txid.into()));
    sign(&mut message, key);
    finish(message, true)
}

/// Whether a STUN message carries a MESSAGE-INTEGRITY-SHA256 that was made with `key`.
#[must_use]
pub fn is_signed(bytes: &[u8], key: &[u8; 32]) -> bool {
    let signed = Stun::from_bytes(bytes).is_ok_and(|message| {
        matches!(message.validate_integrity(&credentials(key)), Ok(IntegrityAlgorithm::Sha256))
    });
    bytes.len() <= MAX_LEN && signed
}

/// The answer 420 (RFC 8489 §6.3.1) to a request with attributes that must be understood and are not.
/// The reason phrase is left empty, which keeps the answer short.
#[must_use]
pub fn unknown_attributes(txid: u128, unknown: &[u16], fingerprint: bool) -> Vec<u8> {
    let mut message = start(MessageClass::Error, txid);
    message.push_attribute_unchecked(&RawAttribute::new(ErrorCode::TYPE, &[0, 0, 4, 20]));
    let unknown: Vec<_> = unknown.iter().take(MAX_UNKNOWN).map(|code| AttributeType::new(*code)).collect();
    message.push_attribute_unchecked(&UnknownAttributes::new(&unknown));
    finish(message, fingerprint)
}

/// An indication that carries `probe`.
#[must_use]
pub fn probe_indication(txid: u128, probe: Probe) -> Vec<u8> {
    let mut message = start(MessageClass::Indication, txid);
    push_probe(&mut message, probe);
    finish(message, false)
}

#[cfg(test)]
#[path = "stun_tests.rs"]
mod tests;
