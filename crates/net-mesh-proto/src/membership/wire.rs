//! The bytes of membership: digests, records, and requests for records.
//!
//! Bodies only; the kind that goes before each is in [`node::control`](crate::node::control). Every
//! message a node makes stays below [`MAX_MESSAGE_BYTES`].

use alloc::sync::Arc;
use alloc::vec::Vec;

use sha2::{Digest as _, Sha256};

use super::record::MAX_RECORD_BYTES;
use crate::id::NodeId;
use crate::wire::{Malformed, Reader, Writer};

/// The longest control message.
///
/// Below the 64 KiB that a driver may assume, with room for whatever it puts around one; large enough
/// that a mesh of a thousand fits one digest.
pub const MAX_MESSAGE_BYTES: usize = 48 * 1024;

/// Entries of one digest: 40 bytes each, after two bounds of 32.
pub const MAX_DIGEST_ENTRIES: usize = 1_200;

/// Ids in one request: the answer is what costs, and a request for as many as a digest can name is enough.
pub const MAX_WANTED: usize = MAX_DIGEST_ENTRIES;

/// Records in one message. The bytes run out first unless the records are unusually small.
pub const MAX_RECORDS: usize = 256;

/// What its sender knows of every node whose id is in `from..=to`: those listed, and no others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The lowest id it speaks about.
    pub from: NodeId,
    /// The highest id it speaks about.
    pub to: NodeId,
    /// Ids and sequence numbers, ascending by id.
    pub entries: Vec<(NodeId, u64)>,
}

/// All that its sender knows, in so few bytes that it can be compared often: a digest follows where it differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The first half of the SHA-256 of ids and sequence numbers, as a digest lists them.
    pub hash: [u8; 16],
}

/// Records, each with the seconds since its node made it, as far as the sender knows.
///
/// The age travels because lifetimes would start anew with every hop otherwise, and the name of a node
/// that left could wander through a mesh for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records {
    /// Ages in seconds, and records as they were signed.
    pub items: Vec<(u32, Arc<[u8]>)>,
}

/// A request for the records of these nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Whose records.
    pub ids: Vec<NodeId>,
}

impl Summary {
    /// The summary of what a node knows.
    pub fn of<'a>(entries: impl IntoIterator<Item = (&'a NodeId, &'a u64)>) -> Self {
        let mut sha = Sha256::new();
        for (id, seq) in entries {
            sha.update(id.0);
            sha.update(seq.to_be_bytes());
        }
        let all: [u8; 32] = sha.finalize().into();
        let mut hash = [0; 16];
        hash.copy_from_slice(&all[..16]);
        Self { hash }
    }

    /// Appends the body.
    pub fn write(&self, out: &mut Writer) {
        out.bytes(&self.hash);
    }

    /// Reads a whole body.
    ///
    /// # Errors
    /// When the bytes are no summary.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let hash = reader.array()?;
        reader.finish()?;
        Ok(Self { hash })
    }
}

impl Digest {
    /// Appends the body.
    pub fn write(&self, out: &mut Writer) {
        out.bytes(&self.from.0).bytes(&self.to.0).count(self.entries.len());
        for (id, seq) in &self.entries {
            out.bytes(&id.0).u64(*seq);
        }
    }

    /// Reads a whole body.
    ///
    /// # Errors
    /// When the bytes are no digest; entries out of order or outside its bounds are not valid.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let (from, to) = (NodeId(reader.array()?), NodeId(reader.array()?));
        let count = reader.count(MAX_DIGEST_ENTRIES, "digest entries")?;
        let mut entries: Vec<(NodeId, u64)> = Vec::new();
        for _ in 0..count {
            let entry = (NodeId(reader.array()?), reader.u64()?);
            if entry.0 < from || entry.0 > to || entries.last().is_some_and(|last| last.0 >= entry.0) {
                return Err(Malformed::Invalid("the order of a digest"));
            }
            entries.push(entry);
        }
        reader.finish()?;
        Ok(Self { from, to, entries })
    }
}

impl Records {
    /// Appends the body.
    pub fn write(&self, out: &mut Writer) {
        out.count(self.items.len());
        for (age, bytes) in &self.items {
            out.u32(*age).count(bytes.len()).bytes(bytes);
        }
    }

    /// Reads a whole body. The records themselves are not looked into.
    ///
    /// # Errors
    /// When the bytes are no list of records.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let count = reader.count(MAX_RECORDS, "records")?;
        let mut items = Vec::new();
        for _ in 0..count {
            let age = reader.u32()?;
            // A later version's records may be longer than ours; they are skipped, not refused.
            let length = reader.count(4 * MAX_RECORD_BYTES, "a record")?;
            items.push((age, reader.bytes(length)?.into()));
        }
        reader.finish()?;
        Ok(Self { items })
    }
}

impl Want {
    /// Appends the body.
    pub fn write(&self, out: &mut Writer) {
        out.count(self.ids.len());
        for id in &self.ids {
            out.bytes(&id.0);
        }
    }

    /// Reads a whole body.
    ///
    /// # Errors
    /// When the bytes are no request.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let count = reader.count(MAX_WANTED, "wanted ids")?;
        let ids = (0..count).map(|_| Ok(NodeId(reader.array()?))).collect::<Result<_, Malformed>>()?;
        reader.finish()?;
        Ok(Self { ids })
    }
}

/// `items` in as few messages as their sizes allow.
pub(super) fn pack(items: impl IntoIterator<Item = (u32, Arc<[u8]>)>) -> Vec<Records> {
    // Kind, count, and the largest length prefix are covered by 16 bytes a message and 8 a record.
    const HEAD: usize = 16;
    const PER_RECORD: usize = 8;
    let mut messages: Vec<Records> = Vec::new();
    let mut size = usize::MAX;
    for (age, bytes) in items {
        let cost = bytes.len() + PER_RECORD;
        let full = messages.last().is_none_or(|m| m.items.len() >= MAX_RECORDS);
        if full || size.saturating_add(cost) > MAX_MESSAGE_BYTES {
            messages.push(Records { items: Vec::new() });
            size = HEAD;
        }
        if let Some(message) = messages.last_mut() {
            message.items.push((age, bytes));
            size += cost;
        }
    }
    messages
}
