//! Writes the seeds: one well-formed input of every kind, from which mutation starts.
//!
//! `cargo run --manifest-path fuzz/Cargo.toml --example seeds`, after a change of a wire format. The
//! files are committed, together with the inputs that once broke something.

use std::fs;
use std::io;
use std::path::Path;

use ed25519_dalek::SigningKey;
use net_mesh::{MeshSecret, Ticket};
use net_mesh_proto::account::wire::Answer;
use net_mesh_proto::account::{Account, Change, Line, Try};
use net_mesh_proto::classify::wire::{
    Message as Classify, ProbeGrant, ProbeOffer, ProbeReady, ProbeRefused, ProbeSetup, Refusal, Third,
};
use net_mesh_proto::id::{ChannelId, MeshId, NodeId};
use net_mesh_proto::liveness::{Cause, Frame, Health, Kind, SessionKey};
use net_mesh_proto::membership::Message as Membership;
use net_mesh_proto::membership::VerdictSummary;
use net_mesh_proto::membership::wire::{Digest, Records, Want};
use net_mesh_proto::membership::{Flags, Record};
use net_mesh_proto::node::control::Control;
use net_mesh_proto::peer::wire::{Adopt, Hello};
use net_mesh_proto::reflex::stun::{self, Probe, ProbeToken};
use net_mesh_proto::{relay, rendezvous};

fn main() -> io::Result<()> {
    for (name, bytes) in stun_seeds() {
        write("decode_stun", name, &bytes)?;
    }
    for (name, record) in record_seeds() {
        write("decode_record", name, record.sign(&key(), &mesh()).bytes())?;
    }
    for (name, control) in control_seeds() {
        write("decode_control", name, &control.encode())?;
    }
    for (name, ticket) in ticket_seeds() {
        write("decode_ticket", name, ticket.to_string().as_bytes())?;
    }
    write("decode_ticket", "content", &[&[7; 32][..], b"192.0.2.1:7000\nexample.org:1\n"].concat())?;
    write("decode_segment", "two_events", &segment())?;
    write("decode_subscription", "fresh", b"\x01\0\0\0\0\0\0\0\x05\x02ab\0")?;
    write("decode_subscription", "resumed", b"\x01\0\0\0\0\0\0\0\x05\x02ab\x01boot.8bynext.8by")?;
    write("decode_account", "later", &Answer::Later.encode())?;
    write("decode_account", "told", &Answer::Told(account()).encode())?;
    let ping = Frame {
        kind: Kind::Ping,
        in_use: true,
        doubt: false,
        nonce: 1,
        sent: 9,
        received: 7,
        addr: Some(([198, 51, 100, 4], 4433).into()),
    };
    write("frames", "ping", &ping.encode(&SessionKey::new([7; 32]), &NodeId([1; 32])))?;
    write("frames", "padded", &ping.encode_padded(&SessionKey::new([7; 32]), &NodeId([1; 32])))?;
    write("frames", "labels", &[0, 1, 2, 3, 1, 4, 1, 5, 3, 1, 2, 9, 3, 4, 1, 1, 2, 1, 0, 0])?;
    write("scenario", "a_life", &life())
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
        ("check", stun::check_request(7, stun::CheckName { attempt: 8, by_seeker: true }, &[3; 32])),
        ("check_answer", stun::check_response(7, v4, &[3; 32])),
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
    full.flags = Flags { relays: true, subscribes_to_many: false, leaving: false, mapped: true };
    full.subscriptions = vec![ChannelId::of("news"), ChannelId::of("weather")];
    vec![("bare", bare), ("full", full)]
}

fn control_seeds() -> Vec<(&'static str, Control)> {
    let mapped = "198.51.100.7:40000".parse().expect("an address");
    let (token, txid) = (ProbeToken(5), 9);
    let (from, to) = (NodeId([0; 32]), NodeId([0xff; 32]));
    let third = Some(Third { id: NodeId([3; 32]), addr: mapped, reachable: true });
    let offer = ProbeOffer { txid, token, other_addr: Some(mapped), third };
    let record = record_seeds().remove(1).1.sign(&key(), &mesh());
    vec![
        ("hello", Control::Hello(Hello { version: 1, boot: 2, has_session: false })),
        ("adopt", Control::Adopt(Adopt { count: 3 })),
        (
            "digest",
            Control::Membership(Membership::Digest(Digest { from, to, entries: vec![(NodeId([3; 32]), 4)] })),
        ),
        (
            "records",
            Control::Membership(Membership::Records(Records { items: vec![(5, record.bytes().clone())] })),
        ),
        ("want", Control::Membership(Membership::Want(Want { ids: vec![from, to] }))),
        ("setup", Control::Classify(Classify::Setup(ProbeSetup { txid, mapped, exclude: vec![to] }))),
        ("grant", Control::Classify(Classify::Grant(ProbeGrant { token, target: mapped, count: 1 }))),
        ("ready", Control::Classify(Classify::Ready(ProbeReady { token, accepted: true }))),
        ("offer", Control::Classify(Classify::Offer(offer))),
        ("refused", Control::Classify(Classify::Refused(ProbeRefused { txid, reason: Refusal::Busy }))),
        (
            "open",
            Control::Relay(relay::Message::Open(relay::wire::Open {
                circuit: 1,
                origin: from,
                path: vec![to],
                passed: vec![NodeId([3; 32])],
                forward: 2,
                back: 3,
            })),
        ),
        (
            "relay_refused",
            Control::Relay(relay::Message::Refused { circuit: 1, at: to, why: relay::Refusal::NoLink }),
        ),
        ("close", Control::Relay(relay::Message::Close { circuit: 1, by_opener: true })),
        (
            "seek",
            Control::Rendezvous(rendezvous::Message::Seek(rendezvous::wire::Seek {
                attempt: 1,
                target: to,
                plan: rendezvous::Plan::FireTogether,
                verdict: VerdictSummary::UNKNOWN,
                candidates: vec![mapped],
            })),
        ),
        (
            "introduction",
            Control::Rendezvous(rendezvous::Message::Introduction(rendezvous::wire::Introduction {
                attempt: 1,
                peer: from,
                to_seeker: false,
                plan: rendezvous::Plan::SymmetricSide,
                verdict: VerdictSummary::UNKNOWN,
                candidates: vec![mapped],
                key: [3; 32],
                fire_in_ms: 20,
                span_ms: 40,
            })),
        ),
        (
            "declined",
            Control::Rendezvous(rendezvous::Message::Declined { attempt: 1, why: rendezvous::Decline::Busy }),
        ),
    ]
}

fn ticket_seeds() -> Vec<(&'static str, Ticket)> {
    let addrs = || vec!["192.0.2.1:7000".to_owned(), "node.example.org:7000".to_owned()];
    vec![
        ("with_secret", Ticket::with_secret(MeshSecret::from_bytes([7; 32]), addrs())),
        ("without_secret", Ticket::without_secret(mesh(), addrs())),
    ]
}

fn account() -> Account {
    let ms = std::time::Duration::from_millis;
    let addr = "198.51.100.7:40000".parse().expect("an address");
    let relayed = Line::Relayed(vec![NodeId([3; 32]), NodeId([4; 32])]);
    let attempt = Try {
        id: 7,
        seeker: true,
        mediator: Some(NodeId([3; 32])),
        plan: rendezvous::Plan::FireTogether,
        ago: ms(9_000),
        took: Some(ms(80)),
        sent: 4,
        heard: 1,
        outcome: Some(rendezvous::Outcome::Found { addr, rtt: ms(31) }),
    };
    let declined = rendezvous::Outcome::Declined(rendezvous::Decline::Busy);
    let health = Change::Health { direct: Some(addr), health: Health::Suspect, cause: Cause::Silence };
    Account {
        line: Line::Direct(addr),
        since: Some(ms(8_000)),
        reason: "direct, because a rendezvous succeeded".into(),
        rests_for: Some(ms(130_000)),
        attempts: vec![Try { id: 6, mediator: None, outcome: Some(declined), ..attempt.clone() }, attempt],
        changes: vec![(ms(9_500), Change::Path(relayed)), (ms(1_000), health)],
    }
}

/// First sequence number 1, base time 1000 ms, two events ("a" at once, "bc" a millisecond later).
fn segment() -> Vec<u8> {
    let body = b"\x01\x00a\x02\x02bc";
    let mut bytes = Vec::new();
    bytes.extend(1u64.to_be_bytes());
    bytes.extend(1_000u64.to_be_bytes());
    bytes.extend(2u32.to_be_bytes());
    bytes.extend(u32::try_from(body.len()).expect("a short body").to_be_bytes());
    bytes.extend(body);
    bytes
}

/// A program for the scenario: peers connect and say everything there is to say, datagrams come in, a
/// second passes after each.
fn life() -> Vec<u8> {
    let mut program = Vec::new();
    let sized = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).expect("a short message").to_be_bytes();
        [&length[..], bytes].concat()
    };
    for peer in 1..4 {
        program.extend([6, peer, peer, peer, 30]);
    }
    for conn in 0..3 {
        for (_, control) in control_seeds() {
            program.extend([4, conn]);
            program.extend(sized(&control.encode()));
            program.extend([0, 0x03, 0xe8]);
        }
    }
    for (_, datagram) in stun_seeds() {
        program.extend([3, 0, 1]);
        program.extend(sized(&datagram));
    }
    program.extend([11, 0, 2, 60, 9, 1, 1, 2, 2, 60, 7, 0, 11, 3]);
    program
}
