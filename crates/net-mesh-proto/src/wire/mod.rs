//! What the bytes say: the first-byte table, and the reader and writer every message is made with.
//!
//! Integers are big-endian, lengths and counts are checked before anything is allocated for them, and
//! bytes left over after a message are an error.

pub mod addr;
pub mod base32;
mod first_byte;
pub mod frame;
mod reader;
mod writer;

pub use first_byte::DatagramKind;
pub use reader::{Malformed, Reader};
pub use writer::Writer;
