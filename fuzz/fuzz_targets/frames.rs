//! Frames of the mesh's own, and the table they are looked up in: whatever is said of labels and whatever
//! arrives with them, nothing panics, the table stays bounded, and no frame that was not made with the
//! session's key is taken for genuine.
#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use net_mesh_proto::id::NodeId;
use net_mesh_proto::liveness::wire::Unverified;
use net_mesh_proto::liveness::{Frame, SessionKey};
use net_mesh_proto::relay::{Change, LabelTable, Limits};
use net_mesh_proto::route::CircuitId;
use net_mesh_proto::time::Time;
use net_mesh_proto::wire::frame;

fn addr(byte: u8) -> SocketAddr {
    ([203, 0, 113, byte % 4], 7000).into()
}

fuzz_target!(|bytes: &[u8]| {
    let (key, sender) = (SessionKey::new([7; 32]), NodeId([1; 32]));
    if let Ok(parsed) = Unverified::parse(bytes)
        && let Some(genuine) = parsed.verify(&key, &sender)
    {
        // Padding may follow.
        assert!(bytes.starts_with(&Frame::encode(&genuine, &key, &sender)));
    }
    if let Some(label) = frame::label(bytes) {
        assert_eq!(frame::relay_header(label)[..], bytes[..frame::RELAY_HEADER]);
    }
    let limits = Limits { circuits: 8, circuits_per_neighbour: 4, bytes_per_second: 1 << 20 };
    let mut table = LabelTable::new(limits);
    let mut now = Time::ZERO;
    for step in bytes.chunks_exact(4) {
        let [what, label, from, more] = [step[0], step[1], step[2], step[3]];
        now = Time::from_millis(now.as_millis() + u64::from(what >> 4));
        let (label, from, expires) =
            (u64::from(label % 32), addr(from), Time::from_millis(now.as_millis() + 50));
        let circuit = CircuitId(u64::from(more % 8));
        let (to, user, out) = (addr(more), NodeId([more % 8; 32]), u64::from(more));
        match what % 4 {
            0 => table.apply(Change::Forward { label, from, to, out, user, expires }),
            1 => table.apply(Change::End { label, from, circuit, out, expires }),
            2 => table.apply(Change::Remove { label }),
            _ => {
                table.step(now, from, label, usize::from(more), usize::from(more) * 1200);
            }
        }
        if let Some((to, _)) = table.out(circuit) {
            assert_eq!(to.port(), 7000);
        }
    }
});
