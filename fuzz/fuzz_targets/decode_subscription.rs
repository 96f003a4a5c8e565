//! What a subscriber asks for: it is taken or refused, and what is taken names a channel.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Version, subscription, the length of a name; then at least its first byte, and whether it goes on.
    assert!(!net_mesh::fuzz_subscription(bytes) || bytes.len() > 1 + 8 + 2);
});
