//! A control message from a member: it parses or is refused, and what was parsed comes back from its
//! bytes as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use net_mesh_proto::node::control::{Control, ControlError};

fuzz_target!(|bytes: &[u8]| {
    match Control::parse(bytes) {
        Ok(control) => assert_eq!(Control::parse(&control.encode()), Ok(control)),
        Err(ControlError::UnknownKind(kind)) => assert_eq!(bytes[..2], kind.to_be_bytes()),
        Err(ControlError::Malformed(_)) => {}
    }
});
