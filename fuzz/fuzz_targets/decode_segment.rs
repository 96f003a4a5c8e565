//! A run of events from a publisher: it is taken or refused, and needs at least a header to be taken.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Header of 24 bytes, and two for the smallest event.
    assert!(!net_mesh::fuzz_segment(bytes) || bytes.len() >= 26);
});
