//! Writes the seeds: one well-formed input of every kind, from which mutation starts.
//!
//! `cargo run --manifest-path fuzz/Cargo.toml --example seeds`, after a change of a wire format. The
//! files are committed, together with the inputs that once broke something.

use std::fs;
use std::io;
use std::path::Path;

use ed25519_dalek::SigningKey;
use net_mesh_proto::id::{ChannelId, MeshId, NodeId};
use net_mesh_proto::membership::{Flags, Record};
use net_mesh_proto::reflex::stun::{self, Probe, ProbeToken};

fn main() -> io::Result<()> {
    for (name, bytes) in stun_seeds() {
        write("decode_stun", name, &bytes)?;
    }
    for (name, record) in record_seeds() {
        write("decode_record", name, record.sign(&key(), &mesh()).bytes())?;
    }
    Ok(())
}

fn write(target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(name), bytes)
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[2; 32])
}

fn mesh() -> MeshId {
    MeshId([1; 32])
}

fn stun_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let probe = Probe { token: ProbeToken(0x0102_0304_0506_0708), slot: 3 };
    let v4 = "192.0.2.1:32853".parse().expect("an address");
    let v6 = "[2001:db8::1]:32853".parse().expect("an address");
    vec![
        ("request", stun::binding_request(1, None)),
        ("request_with_probe", stun::binding_request(2, Some(probe))),
        ("response_v4", stun::binding_response(3, v4, false)),
        ("response_v6_fingerprint", stun::binding_response(4, v6, true)),
        ("unknown_attributes", stun::unknown_attributes(5, &[0x7fff, 0x0042], true)),
        ("probe", stun::probe_indication(6, probe)),
        // RFC 8489 §5: nothing but the header.
        ("bare_request", b"\x00\x01\x00\x00\x21\x12\xa4\x42\0\0\0\0\0\0\0\0\0\0\0\x07".to_vec()),
    ]
}

fn record_seeds() -> Vec<(&'static str, Record)> {
    let node = NodeId(key().verifying_key().to_bytes());
    let bare = Record { seq: 1, ..Record::new(node, 7, "") };
    let mut full = Record { seq: 1_700_000_000_000, ..Record::new(node, 7, "a node with a name") };
    full.candidates = ["192.0.2.1:1", "10.0.0.1:65535", "[2001:db8::1]:2"]
        .map(|text| text.parse().expect("an address"))
        .to_vec();
    full.links = vec![(NodeId([3; 32]), 12), (NodeId([4; 32]), 65_535)];
    full.flags = Flags { relays: true, subscribes_to_many: false, leaving: false };
    full.subscriptions = vec![ChannelId::of("news"), ChannelId::of("weather")];
    vec![("bare", bare), ("full", full)]
}
