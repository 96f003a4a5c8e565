//! Base 32 (RFC 4648 §6) in lower case without padding: how ids and tickets are printed.

use alloc::string::String;
use alloc::vec::Vec;

use data_encoding::BASE32_NOPAD;

/// The printed form of `bytes`.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let mut text = BASE32_NOPAD.encode(bytes);
    text.make_ascii_lowercase();
    text
}

/// The bytes of a printed form, in either case; `None` if it is not one.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok()
}
