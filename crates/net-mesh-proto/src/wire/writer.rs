//! Writing a message: the mirror image of [`Reader`](super::Reader).

use alloc::vec::Vec;

/// A message under construction.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty message.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends a byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    /// Appends a 16-bit number.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends a 32-bit number.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends a 64-bit number.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends a truth value.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    /// Appends a variable-length integer (RFC 9000 §16). Values of 2^62 and above do not fit and are
    /// written as the largest that does; no field of ours comes near.
    pub fn varint(&mut self, value: u64) -> &mut Self {
        match value {
            0..=0x3f => self.bytes(&value.to_be_bytes()[7..]),
            0x40..=0x3fff => self.bytes(&(value | 0x4000).to_be_bytes()[6..]),
            0x4000..=0x3fff_ffff => self.bytes(&(value | 0x8000_0000).to_be_bytes()[4..]),
            _ => self.u64(value.min((1 << 62) - 1) | 0xc000_0000_0000_0000),
        }
    }

    /// Appends a count of things.
    pub fn count(&mut self, n: usize) -> &mut Self {
        self.varint(n as u64)
    }

    /// Appends a length and as many bytes of UTF-8.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.count(text.len()).bytes(text.as_bytes())
    }

    /// The finished message.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// How long it is so far, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}
