//! What a node says of itself, signed so that anyone may pass it on.
//!
//! A record is one version byte, the fields in a fixed order, and an Ed25519 signature (RFC 8032) over
//! a domain-separation string, the mesh id and everything before the signature. It is kept as it came,
//! byte for byte, so that passing it on never needs the key. A record of a version that this node does
//! not know is skipped; it says nothing about the records beside it.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;

use ed25519_dalek::{Signer as _, SigningKey};
use thiserror::Error;

use crate::id::{ChannelId, MeshId, NodeId};
use crate::nat::{Filtering, Mapping, NatClass, PortRule, Verdict};
use crate::wire::{Malformed, Reader, Writer, addr};

/// Addresses in one record, and in one attempt to connect.
///
/// A host has a few interfaces and two families, and a symmetric NAT a few reflexive addresses; more
/// would only make an attempt spray more strangers.
pub const MAX_CANDIDATES: usize = 16;

/// Bytes of UTF-8 in a name.
pub const MAX_NAME: usize = 64;

/// Direct links in one record.
///
/// Enough to find a way around in a mesh where everyone keeps a few anchors. A node with more sessions
/// names the links it has named before, then its fastest.
pub const MAX_LINKS: usize = 32;

/// Channels in one record. A node that subscribes to more says so with a flag instead
/// ([`Flags::subscribes_to_many`]): publishers then ask it for everything, and it sorts out the rest.
pub const MAX_SUBSCRIPTIONS: usize = 64;

/// The longest record, with every list full and every address IPv6.
pub const MAX_RECORD_BYTES: usize = 1 // version
    + 32 + 8 + 8 // node, seq, boot
    + 2 + MAX_NAME
    + 1 + MAX_CANDIDATES * 19
    + 4 // verdict
    + 1 + MAX_LINKS * 34
    + 1 // flags
    + 2 + MAX_SUBSCRIPTIONS * 8
    + SIGNATURE;

/// Sequence numbers stay below this, so that there is always one above any that is valid. Reached by
/// counting milliseconds in the year 146 million.
pub const SEQ_LIMIT: u64 = 1 << 62;

const VERSION: u8 = 1;
const SIGNATURE: usize = 64;
const DOMAIN: &[u8] = b"net-mesh record 1\0";

/// Yes-or-no facts of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// It carries traffic between others.
    pub relays: bool,
    /// Its channels did not fit: assume that it subscribes to everything.
    pub subscribes_to_many: bool,
    /// It is leaving; forget it.
    pub leaving: bool,
    /// Anyone can reach it by a port mapping of its router, at its first candidate; the verdict says so, not what its NAT
    /// would do without.
    pub mapped: bool,
}

impl Flags {
    const fn code(self) -> u8 {
        self.relays as u8
            | (self.subscribes_to_many as u8) << 1
            | (self.leaving as u8) << 2
            | (self.mapped as u8) << 3
    }

    fn from_code(code: u8) -> Result<Self, Malformed> {
        if code & !15 != 0 {
            return Err(Malformed::Invalid("a flag"));
        }
        Ok(Self {
            relays: code & 1 != 0,
            subscribes_to_many: code & 2 != 0,
            leaving: code & 4 != 0,
            mapped: code & 8 != 0,
        })
    }
}

/// A [`Verdict`] as others need it: without the address, with the confidence in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictSummary {
    /// How external addresses are chosen.
    pub mapping: Mapping,
    /// What is let in.
    pub filtering: Filtering,
    /// How external ports are chosen.
    pub port_rule: PortRule,
    /// How sure, in percent; at most 100.
    pub confidence: u8,
}

impl VerdictSummary {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self {
        mapping: Mapping::Unknown,
        filtering: Filtering::Unknown,
        port_rule: PortRule::Unknown,
        confidence: 0,
    };

    /// The familiar name.
    #[must_use]
    pub const fn class(&self) -> NatClass {
        NatClass::of(self.mapping, self.filtering)
    }
}

impl From<&Verdict> for VerdictSummary {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=100")]
    fn from(verdict: &Verdict) -> Self {
        Self {
            mapping: verdict.mapping,
            filtering: verdict.filtering,
            port_rule: verdict.port_rule,
            confidence: (verdict.confidence.clamp(0.0, 1.0) * 100.0 + 0.5) as u8,
        }
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who speaks.
    pub node: NodeId,
    /// Orders the records of one node: milliseconds since the Unix epoch when it was made, and always
    /// above the one before. Below [`SEQ_LIMIT`].
    pub seq: u64,
    /// Tells this run of the node from earlier ones.
    pub boot: u64,
    /// The name others see: printable, at most [`MAX_NAME`] bytes.
    pub name: String,
    /// Where it may be reached, best first; at most [`MAX_CANDIDATES`].
    pub candidates: Vec<SocketAddr>,
    /// What its NAT does.
    pub verdict: VerdictSummary,
    /// The peers it has a direct session with, and the round-trip time in milliseconds; at most [`MAX_LINKS`].
    pub links: Vec<(NodeId, u16)>,
    /// Yes-or-no facts.
    pub flags: Flags,
    /// The channels it subscribes to; at most [`MAX_SUBSCRIPTIONS`].
    pub subscriptions: Vec<ChannelId>,
}

/// Why the bytes of a record were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// It is of a version that this node does not know.
    #[error("record version {0} is not known")]
    UnknownVersion(u8),
    /// It does not parse.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl Record {
    /// A record that says nothing yet.
    #[must_use]
    pub fn new(node: NodeId, boot: u64, name: &str) -> Self {
        Self {
            node,
            seq: 0,
            boot,
            name: sanitised(name),
            candidates: Vec::new(),
            verdict: VerdictSummary::UNKNOWN,
            links: Vec::new(),
            flags: Flags::default(),
            subscriptions: Vec::new(),
        }
    }

    /// Whether the node is to be told of what is published on `channel`.
    #[must_use]
    pub fn subscribes_to(&self, channel: ChannelId) -> bool {
        self.flags.subscribes_to_many || self.subscriptions.contains(&channel)
    }

    /// Signs the record with `key`, which must be its node's. Whatever is above a limit is cut off first.
    #[must_use]
    pub fn sign(mut self, key: &SigningKey, mesh: &MeshId) -> SignedRecord {
        self.name = sanitised(&self.name);
        self.candidates.truncate(MAX_CANDIDATES);
        self.links.truncate(MAX_LINKS);
        self.subscriptions.truncate(MAX_SUBSCRIPTIONS);
        let mut bytes = self.body();
        let signature = key.sign(&signed_part(mesh, &bytes));
        bytes.extend_from_slice(&signature.to_bytes());
        SignedRecord { record: self, bytes: bytes.into() }
    }

    fn body(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION).bytes(&self.node.0).u64(self.seq).u64(self.boot).text(&self.name);
        out.count(self.candidates.len());
        for candidate in &self.candidates {
            addr::write(&mut out, *candidate);
        }
        write_verdict(&mut out, &self.verdict);
        out.count(self.links.len());
        for (peer, rtt_ms) in &self.links {
            out.bytes(&peer.0).u16(*rtt_ms);
        }
        out.u8(self.flags.code()).count(self.subscriptions.len());
        for channel in &self.subscriptions {
            out.bytes(&channel.0);
        }
        out.finish()
    }
}

/// A record that parsed, whose signature has not been looked at.
#[derive(Clone, Debug)]
pub struct Unverified<'a> {
    record: Record,
    bytes: &'a [u8],
}

impl<'a> Unverified<'a> {
    /// Parses a whole record.
    ///
    /// # Errors
    /// When the version is not known, or the bytes are no record of a known one.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let version = *bytes.first().ok_or(Malformed::Truncated)?;
        if version != VERSION {
            return Err(RecordError::UnknownVersion(version));
        }
        let Some(body) = bytes.len().checked_sub(SIGNATURE).and_then(|end| bytes.get(1..end)) else {
            return Err(Malformed::Truncated.into());
        };
        let mut from = Reader::new(body);
        let record = read_fields(&mut from)?;
        from.finish()?;
        Ok(Self { record, bytes })
    }

    /// What the record says, if it is genuine.
    #[must_use]
    pub const fn claims(&self) -> &Record {
        &self.record
    }

    /// The record, if its node signed it for `mesh`.
    #[must_use]
    pub fn verify(self, mesh: &MeshId) -> Option<SignedRecord> {
        let (body, signature) = self.bytes.split_last_chunk::<SIGNATURE>()?;
        let genuine = self.record.node.verify(&signed_part(mesh, body), signature);
        genuine.then(|| SignedRecord { record: self.record, bytes: self.bytes.into() })
    }
}

/// A record whose signature is known to be right, with its bytes as they were signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRecord {
    record: Record,
    bytes: Arc<[u8]>,
}

impl SignedRecord {
    /// What it says.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// Its bytes, for passing it on; at most [`MAX_RECORD_BYTES`].
    #[must_use]
    pub const fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }
}

fn signed_part(mesh: &MeshId, body: &[u8]) -> Vec<u8> {
    [DOMAIN, &mesh.0, body].concat()
}

fn read_fields(from: &mut Reader<'_>) -> Result<Record, Malformed> {
    let node = NodeId(from.array()?);
    let seq = from.u64()?;
    if seq >= SEQ_LIMIT {
        return Err(Malformed::Invalid("a sequence number"));
    }
    let boot = from.u64()?;
    let name = from.text(MAX_NAME, "a name")?;
    if !name.chars().all(printable) {
        return Err(Malformed::Invalid("a name"));
    }
    let candidates = list(from, MAX_CANDIDATES, "candidates", addr::read)?;
    let verdict = read_verdict(from)?;
    let links = list(from, MAX_LINKS, "links", |from| Ok((NodeId(from.array()?), from.u16()?)))?;
    let flags = Flags::from_code(from.u8()?)?;
    let subscriptions = list(from, MAX_SUBSCRIPTIONS, "subscriptions", |from| Ok(ChannelId(from.array()?)))?;
    Ok(Record { node, seq, boot, name: name.into(), candidates, verdict, links, flags, subscriptions })
}

/// Writes a verdict: mapping, filtering, port rule, confidence, a byte each.
pub(crate) fn write_verdict(out: &mut Writer, verdict: &VerdictSummary) {
    out.u8(verdict.mapping.code()).u8(verdict.filtering.code());
    out.u8(verdict.port_rule.code()).u8(verdict.confidence);
}

pub(crate) fn read_verdict(from: &mut Reader<'_>) -> Result<VerdictSummary, Malformed> {
    let verdict = VerdictSummary {
        mapping: Mapping::from_code(from.u8()?).ok_or(Malformed::Invalid("a mapping"))?,
        filtering: Filtering::from_code(from.u8()?).ok_or(Malformed::Invalid("a filtering"))?,
        port_rule: PortRule::from_code(from.u8()?).ok_or(Malformed::Invalid("a port rule"))?,
        confidence: from.u8()?,
    };
    if verdict.confidence > 100 {
        return Err(Malformed::Invalid("a confidence"));
    }
    Ok(verdict)
}

fn list<T>(
    from: &mut Reader<'_>,
    limit: usize,
    what: &'static str,
    mut item: impl FnMut(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    (0..from.count(limit, what)?).map(|_| item(from)).collect()
}

/// Names are shown in terminals: no control characters, and none that reorder or hide what is beside them.
fn printable(c: char) -> bool {
    !(c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'))
}

/// `name` without what cannot be shown, cut to [`MAX_NAME`] bytes at a character.
#[must_use]
pub fn sanitised(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars().filter(|c| printable(*c)) {
        if out.len() + c.len_utf8() > MAX_NAME {
            break;
        }
        out.push(c);
    }
    out
}
