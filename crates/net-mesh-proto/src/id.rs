//! Who is who: node ids, mesh ids, channel ids.

use alloc::string::String;
use core::fmt;

use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::wire::base32;

/// A node: its Ed25519 public key (RFC 8032).
///
/// Printed as 52 letters and digits (base 32, lower case); any unambiguous prefix names it in commands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

/// A mesh: the SHA-256 of its root certificate's public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeshId(pub [u8; 32]);

/// A channel as it appears in records: the first 8 bytes of the SHA-256 of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub [u8; 8]);

impl NodeId {
    /// Whether `signature` over `message` was made with this node's key. Uses the strict check, which
    /// accepts exactly one signature per message and key, and no key of small order.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
    }

    /// The first ten characters of the printed form, for tables and logs.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = base32::encode(&self.0);
        text.truncate(10);
        text
    }

    /// Parses the printed form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = base32::decode(text)?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl MeshId {
    /// The id of the mesh whose root has the public key `root`.
    #[must_use]
    pub fn of_root(root: &[u8]) -> Self {
        Self(Sha256::digest(root).into())
    }
}

impl ChannelId {
    /// The id of the channel called `name`.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let hash: [u8; 32] = Sha256::digest(name.as_bytes()).into();
        let mut id = [0; 8];
        id.copy_from_slice(&hash[..8]);
        Self(id)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32::encode(&self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl fmt::Display for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32::encode(&self.0))
    }
}

impl fmt::Debug for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32::encode(&self.0))
    }
}
