//! A STUN datagram from anyone: it parses or is refused, and the messages of our own making come back
//! from their bytes as they were.
#![no_main]

use libfuzzer_sys::fuzz_target;
use net_mesh_proto::reflex::stun::{self, Message};

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = Message::parse(bytes) else { return };
    let again = match &message {
        Message::BindingRequest(request) => {
            assert!(request.unknown_required.len() <= 16);
            let refusal = stun::unknown_attributes(request.txid, &request.unknown_required, true);
            let refused = Message::parse(&refusal);
            assert_eq!(refused, Ok(Message::BindingError { txid: request.txid, code: 420 }));
            if !request.has_fingerprint || !request.unknown_required.is_empty() {
                return;
            }
            match (request.check, request.probe) {
                (None, probe) => stun::binding_request(request.txid, probe),
                (Some(name), None) => stun::check_request(request.txid, name, &[3; 32]),
                // Nobody sends both.
                (Some(_), Some(_)) => return,
            }
        }
        Message::BindingResponse { txid, mapped } => stun::binding_response(*txid, *mapped, true),
        Message::ProbeIndication(probe) => stun::probe_indication(7, *probe),
        Message::BindingError { code, .. } => {
            assert!(*code < 800);
            return;
        }
    };
    assert_eq!(Message::parse(&again), Ok(message));
});
