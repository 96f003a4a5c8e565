//! What a subscriber asks for: it is taken or refused, and what is taken names a channel.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Version, subscription, the length and one byte of a name, and whether it goes on.
    assert!(!net_mesh::fuzz_subscription(bytes) || bytes.len() >= 1 + 8 + 2 + 1);
});
