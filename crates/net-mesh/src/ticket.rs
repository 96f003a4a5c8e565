//! The one string that lets a node join: which mesh, by what right, and where to start.
//!
//! `nm1` followed by base 32 of: a byte of flags (bit 0: the secret is inside), the mesh secret or
//! the mesh id (32 bytes), the addresses (count, then length and text of each), and the first four
//! bytes of the SHA-256 of all that, so that a damaged ticket is recognised as such.

use std::fmt;
use std::str::FromStr;

use net_mesh_proto::id::MeshId;
use net_mesh_proto::wire::{Malformed, Reader, Writer, base32};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::identity::{MeshSecret, mesh_of};

/// Addresses in one ticket. A few are enough to start from; the mesh tells the rest.
pub const MAX_TICKET_ADDRS: usize = 16;

/// A DNS name is at most 253 bytes long (RFC 1035 §2.3.4), and a port adds six.
const MAX_ADDR_BYTES: usize = 260;

const PREFIX: &str = "nm";
const VERSION: char = '1';
const FLAG_SECRET: u8 = 1;

/// An invitation into a mesh. Whoever holds one with a secret is a member: treat it as a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Which mesh.
    pub mesh: MeshId,
    /// The mesh's secret; `None` where an operator's own PKI admits nodes.
    pub secret: Option<MeshSecret>,
    /// Where members can be reached, as `HOST:PORT`.
    pub addrs: Vec<String>,
}

/// Why a text is not a ticket.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TicketError {
    /// It does not look like one at all.
    #[error("this is not a ticket: a ticket starts with nm1")]
    NotATicket,
    /// It is of a later version.
    #[error("this ticket is of a version that this program does not know: update net-mesh")]
    UnknownVersion,
    /// It was cut or changed on its way.
    #[error("this ticket is damaged: copy it again, the whole line")]
    Damaged,
}

impl Ticket {
    /// A ticket that admits whoever holds it. Addresses past [`MAX_TICKET_ADDRS`] are left out.
    #[must_use]
    pub fn with_secret(secret: MeshSecret, addrs: Vec<String>) -> Self {
        Self { mesh: mesh_of(&secret), secret: Some(secret), addrs: bounded(addrs) }
    }

    /// A ticket that tells where a mesh is, for nodes that an operator's own PKI admits.
    #[must_use]
    pub fn without_secret(mesh: MeshId, addrs: Vec<String>) -> Self {
        Self { mesh, secret: None, addrs: bounded(addrs) }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        match &self.secret {
            Some(secret) => out.u8(FLAG_SECRET).bytes(secret.as_bytes()),
            None => out.u8(0).bytes(&self.mesh.0),
        };
        out.count(self.addrs.len());
        for addr in &self.addrs {
            out.text(addr);
        }
        let mut bytes = out.finish();
        bytes.extend_from_slice(&checksum(&bytes));
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        let flags = from.u8()?;
        if flags & !FLAG_SECRET != 0 {
            return Err(Malformed::Invalid("a flag"));
        }
        let key: [u8; 32] = from.array()?;
        let count = from.count(MAX_TICKET_ADDRS, "the number of addresses")?;
        let addrs = (0..count)
            .map(|_| from.text(MAX_ADDR_BYTES, "an address").map(str::to_owned))
            .collect::<Result<_, _>>()?;
        from.finish()?;
        Ok(if flags & FLAG_SECRET == 0 {
            Self::without_secret(MeshId(key), addrs)
        } else {
            Self::with_secret(MeshSecret::from_bytes(key), addrs)
        })
    }
}

fn bounded(mut addrs: Vec<String>) -> Vec<String> {
    addrs.retain(|a| a.len() <= MAX_ADDR_BYTES);
    addrs.truncate(MAX_TICKET_ADDRS);
    addrs
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    [hash[0], hash[1], hash[2], hash[3]]
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{VERSION}{}", base32::encode(&self.encode()))
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        // Codes to scan have capitals only, and phones begin sentences with one.
        let text = text.trim().to_ascii_lowercase();
        let rest = text.strip_prefix(PREFIX).ok_or(TicketError::NotATicket)?;
        let mut chars = rest.chars();
        match chars.next() {
            Some(VERSION) => {}
            Some(c) if c.is_ascii_digit() => return Err(TicketError::UnknownVersion),
            _ => return Err(TicketError::NotATicket),
        }
        let bytes = base32::decode(chars.as_str()).ok_or(TicketError::Damaged)?;
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(TicketError::Damaged)?;
        if *sum != checksum(body) {
            return Err(TicketError::Damaged);
        }
        Self::decode(body).map_err(|_| TicketError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket::with_secret(MeshSecret::from_bytes([7; 32]), vec!["mesh.example:4433".to_owned()])
    }

    #[test]
    fn a_ticket_has_these_characters() {
        // Flags 1, 32 bytes of 7, one address of 17 bytes, checksum.
        let golden =
            "nm1aedqobyha4dqobyha4dqobyha4dqobyha4dqobyha4dqobyha4dqoairnvsxg2bomv4gc3lqnrstunbugmzvkso66q";
        assert_eq!(ticket().to_string(), golden);
        assert_eq!(ticket().to_string().parse(), Ok(ticket()));
        let bare = Ticket::without_secret(MeshId([9; 32]), vec![]);
        assert_eq!(bare.to_string().parse(), Ok(bare));
    }

    #[test]
    fn a_ticket_in_capitals_is_the_same_ticket() {
        let text = ticket().to_string();
        assert_eq!(text.to_ascii_uppercase().parse(), Ok(ticket()));
        assert_eq!(format!(" N{}\n", &text[1..]).parse(), Ok(ticket()));
    }

    #[test]
    fn a_changed_or_cut_ticket_is_damaged_not_another_ticket() {
        let text = ticket().to_string();
        for i in 3..text.len() {
            let mut other: Vec<char> = text.chars().collect();
            other[i] = if other[i] == 'a' { 'b' } else { 'a' };
            let other: String = other.into_iter().collect();
            assert_eq!(other.parse::<Ticket>(), Err(TicketError::Damaged), "changed at {i}");
            assert!(text[..i].parse::<Ticket>().is_err(), "cut at {i}");
        }
    }

    #[test]
    fn what_is_no_ticket_is_told_apart_from_a_later_version() {
        assert_eq!("hello".parse::<Ticket>(), Err(TicketError::NotATicket));
        assert_eq!("nm2abc".parse::<Ticket>(), Err(TicketError::UnknownVersion));
        assert_eq!("nmx".parse::<Ticket>(), Err(TicketError::NotATicket));
    }
}
