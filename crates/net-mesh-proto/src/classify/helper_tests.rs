//! What P and H promise, message by message.

use std::vec;

use super::*;
use crate::nat::NatClass;
use crate::outbox::Transmit;
use crate::reflex::stun::BindingRequest;

const TXID: u128 = 77;

fn id(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn mapped() -> SocketAddr {
    addr("198.51.100.7:40000")
}

fn peer(n: u8, at: &str, class: NatClass) -> HelperInfo {
    HelperInfo { id: id(n), addr: addr(at), class, rtt: Duration::from_millis(20) }
}

/// P, which saw transaction 77 come from 198.51.100.7:40000 and is itself at 203.0.113.1.
fn primary() -> (Prober, Server, Outbox<Event>) {
    let mut prober = Prober::new(Rng::from_u64(1));
    prober.set_external(&[addr("203.0.113.1:4000")], &[addr("203.0.113.1:4001")]);
    let mut server = Server::default();
    let request = BindingRequest {
        txid: TXID,
        probe: None,
        check: None,
        has_fingerprint: false,
        unknown_required: vec![],
    };
    server.handle_request(Time::ZERO, SocketId::MAIN, mapped(), &request, false, &mut Outbox::<Event>::new());
    (prober, server, Outbox::new())
}

fn setup(exclude: &[NodeId]) -> ProbeSetup {
    ProbeSetup { txid: TXID, mapped: mapped(), exclude: exclude.to_vec() }
}

fn to_peer(out: &mut Outbox<Event>) -> (NodeId, Message) {
    match out.pop_event() {
        Some(Event::ToPeer { peer, message }) => (peer, message),
        other => panic!("no message: {other:?}"),
    }
}

fn granted(out: &mut Outbox<Event>) -> (NodeId, ProbeGrant) {
    match to_peer(out) {
        (peer, Message::Grant(grant)) => (peer, grant),
        other => panic!("no grant: {other:?}"),
    }
}

fn offered(out: &mut Outbox<Event>) -> ProbeOffer {
    match to_peer(out) {
        (peer, Message::Offer(offer)) if peer == id(1) => offer,
        other => panic!("no offer to the requester: {other:?}"),
    }
}

#[test]
fn nobody_unfit_is_picked_as_third_node() {
    let (mut prober, server, mut out) = primary();
    let peers = [
        peer(1, "203.0.120.1:4000", NatClass::Direct),
        peer(2, "198.51.100.7:4000", NatClass::Direct),
        peer(3, "203.0.113.1:5000", NatClass::Direct),
        peer(4, "192.168.1.4:4000", NatClass::Direct),
        peer(5, "[2001:db8::5]:4000", NatClass::Direct),
        peer(6, "203.0.113.6:4000", NatClass::Direct),
    ];
    prober.handle_setup(Time::ZERO, id(1), setup(&[id(6)]), &peers, &server, &mut out);
    let offer = offered(&mut out);
    assert_eq!(offer.third, None, "requester, its IP, P's IP, private, other family, excluded");
    assert_eq!(offer.other_addr, Some(addr("203.0.113.1:4001")));
    assert_eq!(offer.txid, TXID);
}

#[test]
fn whoever_is_reachable_is_preferred_and_offered_once_ready() {
    let (mut prober, server, mut out) = primary();
    let peers = [
        peer(2, "203.0.113.2:4000", NatClass::PortRestricted),
        peer(3, "203.0.113.3:4000", NatClass::Unknown),
        peer(4, "203.0.113.4:4000", NatClass::FullCone),
    ];
    prober.handle_setup(Time::ZERO, id(1), setup(&[]), &peers, &server, &mut out);
    let (to, grant) = granted(&mut out);
    assert_eq!((to, grant.target, grant.count), (id(4), mapped(), 0));
    let ready = ProbeReady { token: grant.token, accepted: true };
    prober.handle_ready(Time::ZERO, id(3), ready, &peers, &mut out);
    assert_eq!(out.take_drops().of(DropReason::UnknownToken), 1, "an answer from someone else");
    prober.handle_ready(Time::ZERO, id(4), ready, &peers, &mut out);
    let third = offered(&mut out).third.unwrap();
    assert_eq!((third.id, third.addr, third.reachable), (id(4), addr("203.0.113.4:4000"), true));
}

#[test]
fn a_third_node_that_declines_is_replaced_and_one_that_is_hidden_is_said_to_be() {
    let (mut prober, server, mut out) = primary();
    let peers = [
        peer(2, "203.0.113.2:4000", NatClass::Direct),
        peer(3, "203.0.113.3:4000", NatClass::PortRestricted),
    ];
    prober.handle_setup(Time::ZERO, id(1), setup(&[]), &peers, &server, &mut out);
    let (to, grant) = granted(&mut out);
    assert_eq!(to, id(2));
    let declined = ProbeReady { token: grant.token, accepted: false };
    prober.handle_ready(Time::ZERO, id(2), declined, &peers, &mut out);
    let (to, grant) = granted(&mut out);
    assert_eq!((to, grant.count), (id(3), SELF_PACED), "strangers may not reach it, so it probes on its own");
    let accepted = ProbeReady { token: grant.token, accepted: true };
    prober.handle_ready(Time::ZERO, id(3), accepted, &peers, &mut out);
    assert!(!offered(&mut out).third.unwrap().reachable);
}

#[test]
fn a_third_node_that_is_silent_or_gone_is_done_without() {
    let peers = [peer(2, "203.0.113.2:4000", NatClass::Direct)];
    let (mut prober, server, mut out) = primary();
    prober.handle_setup(Time::ZERO, id(1), setup(&[]), &peers, &server, &mut out);
    granted(&mut out);
    let deadline = prober.poll_timeout().unwrap();
    assert_eq!(deadline.at, Time::ZERO + READY_TIMEOUT);
    prober.handle_timeout(deadline.at, &mut out);
    assert_eq!(offered(&mut out).third, None);
    assert_eq!(prober.poll_timeout(), None);

    let (mut prober, server, mut out) = primary();
    prober.handle_setup(Time::ZERO, id(1), setup(&[]), &peers, &server, &mut out);
    granted(&mut out);
    prober.session_lost(id(2), &mut out);
    assert_eq!(offered(&mut out).third, None);
    prober.session_lost(id(1), &mut out);
    assert_eq!(prober.len(), 0, "nothing is kept for a requester that is gone");
}

fn sent(out: &mut Outbox<Event>) -> Vec<Transmit> {
    core::iter::from_fn(|| out.pop_transmit()).collect()
}

#[test]
fn a_probe_for_p_leaves_from_its_other_port_to_whoever_asked() {
    let (mut prober, server, mut out) = primary();
    prober.handle_setup(Time::ZERO, id(1), setup(&[]), &[], &server, &mut out);
    let probe = Probe { token: offered(&mut out).token, slot: 3 };
    assert!(prober.handle_probe(Time::ZERO, SocketId::MAIN, mapped(), probe, &mut out));
    let probes = sent(&mut out);
    assert_eq!((probes[0].from, probes[0].to), (SocketId::OTHER, mapped()));
    assert_eq!(stun::Message::parse(&probes[0].bytes), Ok(stun::Message::ProbeIndication(probe)));
    assert!(!prober.handle_probe(Time::ZERO, SocketId::OTHER, mapped(), probe, &mut out));
    assert_eq!((sent(&mut out).len(), out.take_drops().of(DropReason::UnknownToken)), (0, 1));
}

#[test]
fn a_probe_for_h_leaves_from_its_main_port_to_the_granted_address_whoever_asks() {
    let mut prober = Prober::new(Rng::from_u64(2));
    let mut out = Outbox::new();
    let token = ProbeToken(9);
    let grant = ProbeGrant { token, target: mapped(), count: 0 };
    prober.handle_grant(Time::ZERO, id(1), grant, &mut out);
    assert_eq!(to_peer(&mut out), (id(1), Message::Ready(ProbeReady { token, accepted: true })));
    let asker = addr("198.51.100.7:41111");
    assert!(prober.handle_probe(Time::ZERO, SocketId::MAIN, asker, Probe { token, slot: 0 }, &mut out));
    let probes = sent(&mut out);
    assert_eq!((probes[0].from, probes[0].to), (SocketId::MAIN, mapped()));
}

#[test]
fn probes_of_ones_own_are_paced_and_counted() {
    let mut prober = Prober::new(Rng::from_u64(3));
    let mut out = Outbox::new();
    let grant = ProbeGrant { token: ProbeToken(9), target: mapped(), count: 3 };
    prober.handle_grant(Time::ZERO, id(1), grant, &mut out);
    let mut times = vec![0; sent(&mut out).len()];
    while let Some(deadline) = prober.poll_timeout() {
        prober.handle_timeout(deadline.at, &mut out);
        times.extend(sent(&mut out).iter().map(|_| deadline.at.as_millis()));
    }
    assert_eq!(times, [0, 50, 100]);
}

#[test]
fn a_grant_for_a_private_address_or_a_token_in_use_is_declined() {
    let mut prober = Prober::new(Rng::from_u64(4));
    let mut out = Outbox::new();
    let token = ProbeToken(9);
    let accepted = |prober: &mut Prober, out: &mut Outbox<Event>, target| {
        prober.handle_grant(Time::ZERO, id(1), ProbeGrant { token, target, count: 8 }, out);
        to_peer(out) == (id(1), Message::Ready(ProbeReady { token, accepted: true }))
    };
    assert!(!accepted(&mut prober, &mut out, addr("192.168.1.1:53")));
    assert!(!accepted(&mut prober, &mut out, addr("127.0.0.1:53")));
    assert!(sent(&mut out).is_empty());
    assert!(accepted(&mut prober, &mut out, mapped()));
    assert!(!accepted(&mut prober, &mut out, addr("203.0.113.77:1")));
}

#[test]
fn a_requester_with_too_many_tokens_is_told_that_p_is_busy() {
    let (mut prober, server, mut out) = primary();
    for _ in 0..MAX_GRANTS_PER_PEER {
        prober.handle_setup(Time::ZERO, id(1), setup(&[]), &[], &server, &mut out);
        offered(&mut out);
    }
    prober.handle_setup(Time::ZERO, id(1), setup(&[]), &[], &server, &mut out);
    let refused = ProbeRefused { txid: TXID, reason: Refusal::Busy };
    assert_eq!(to_peer(&mut out), (id(1), Message::Refused(refused)));
    let private = ProbeSetup { mapped: addr("10.0.0.1:1"), ..setup(&[]) };
    prober.handle_setup(Time::ZERO, id(1), private, &[], &server, &mut out);
    let refused = ProbeRefused { txid: TXID, reason: Refusal::Scope };
    assert_eq!(to_peer(&mut out), (id(1), Message::Refused(refused)));
}
