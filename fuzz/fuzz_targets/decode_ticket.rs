//! A ticket as a person pasted it: it parses or is refused, and what was parsed prints as a ticket that
//! says the same.
//!
//! A random text is never past its checksum, so the bytes are tried as a text, and as the content of a
//! well-formed one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use net_mesh::{MAX_TICKET_ADDRS, MeshSecret, Ticket};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        check(text);
    }
    let Some((secret, rest)) = bytes.split_first_chunk::<32>() else { return };
    let addrs = String::from_utf8_lossy(rest).lines().map(str::to_owned).collect();
    let ticket = Ticket::with_secret(MeshSecret::from_bytes(*secret), addrs);
    assert_eq!(ticket.to_string().parse(), Ok(ticket));
});

fn check(text: &str) {
    let Ok(ticket) = text.parse::<Ticket>() else { return };
    assert!(ticket.addrs.len() <= MAX_TICKET_ADDRS);
    assert_eq!(ticket.to_string().parse(), Ok(ticket));
}
