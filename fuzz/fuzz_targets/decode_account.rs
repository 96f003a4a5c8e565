//! What a peer answers that is asked for its account of the pair: it parses or is refused, what parses comes back from
//! its bytes as it was, and can be laid beside any other account.
#![no_main]

use libfuzzer_sys::fuzz_target;
use net_mesh_proto::account::timeline;
use net_mesh_proto::account::wire::{Answer, MAX_BYTES};

fuzz_target!(|bytes: &[u8]| {
    let Ok(answer) = Answer::decode(bytes) else { return };
    let again = answer.encode();
    assert!(again.len() <= MAX_BYTES);
    assert_eq!(Answer::decode(&again), Ok(answer.clone()));
    if let Answer::Told(account) = answer {
        let lines = timeline(&account, Some(&account)).len();
        assert!(lines >= 2 * (account.attempts.len() + account.changes.len()));
    }
});
