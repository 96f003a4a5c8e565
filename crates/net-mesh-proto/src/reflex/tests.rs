//! What reflex promises: whom it asks, which answers it believes, whom it answers and how much.

use std::net::SocketAddr;
use std::string::String;
use std::time::Duration;
use std::vec::Vec;

use super::stun::{MAX_SURPLUS, Probe, ProbeToken};
use super::*;
use crate::drops::DropReason;
use crate::outbox::Transmit;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn peer(n: u8) -> ServerKey {
    ServerKey::Peer(NodeId([n; 32]))
}

fn txid_of(transmit: &Transmit) -> u128 {
    match Message::parse(&transmit.bytes) {
        Ok(Message::BindingRequest(request)) => request.txid,
        other => panic!("not a request: {other:?}"),
    }
}

fn sent(out: &mut Outbox<Event>) -> Vec<Transmit> {
    core::iter::from_fn(|| out.pop_transmit()).collect()
}

fn events(out: &mut Outbox<Event>) -> Vec<Event> {
    core::iter::from_fn(|| out.pop_event()).collect()
}

/// A machine that has asked peer 1 at 203.0.113.1:4000, and the requests.
fn asked() -> (Reflex, Vec<Transmit>, Outbox<Event>) {
    let mut machine = Reflex::new(Rng::from_u64(1));
    let mut out = Outbox::new();
    machine.add_server(Time::ZERO, peer(1), addr("203.0.113.1:4000"), &mut out);
    let requests = sent(&mut out);
    (machine, requests, out)
}

fn answer(machine: &mut Reflex, now: Time, request: &Transmit, mapped: &str, out: &mut Outbox<Event>) {
    let response = Message::BindingResponse { txid: txid_of(request), mapped: addr(mapped) };
    machine.handle_response(now, request.from, request.to, &response, out);
}

#[test]
fn a_peer_is_asked_from_both_sockets_and_a_plain_server_from_the_main_one() {
    let (mut machine, requests, mut out) = asked();
    let from: Vec<_> = requests.iter().map(|t| (t.from, t.to)).collect();
    let to = addr("203.0.113.1:4000");
    assert_eq!(from, [(SocketId::MAIN, to), (SocketId::OTHER, to)]);
    let stun = addr("192.0.2.9:3478");
    machine.add_server(Time::ZERO, ServerKey::Stun(stun), stun, &mut out);
    assert_eq!(sent(&mut out).iter().map(|t| (t.from, t.to)).collect::<Vec<_>>(), [(SocketId::MAIN, stun)]);
    machine.add_server(Time::ZERO, peer(1), to, &mut out);
    assert!(sent(&mut out).is_empty(), "a server known at that address is not asked again");
}

#[test]
fn an_answer_becomes_an_address_with_its_round_trip_time() {
    let (mut machine, requests, mut out) = asked();
    let now = Time::from_millis(40);
    answer(&mut machine, now, &requests[0], "198.51.100.7:40000", &mut out);
    answer(&mut machine, now, &requests[1], "198.51.100.7:40001", &mut out);
    assert_eq!(machine.reflexive(), [addr("198.51.100.7:40000")]);
    assert_eq!(machine.other_external(), [addr("198.51.100.7:40001")]);
    assert_eq!(
        events(&mut out),
        [
            Event::Reflexive([addr("198.51.100.7:40000")].into()),
            Event::OtherExternal([addr("198.51.100.7:40001")].into()),
        ]
    );
    let view = machine.servers().next().unwrap();
    assert_eq!(view.main.unwrap().rtt, Some(ms(40)));
    assert_eq!(view.main.unwrap().at, now);
}

#[test]
fn an_answer_counts_only_with_its_transaction_source_and_socket() {
    let (mut machine, requests, mut out) = asked();
    let response = Message::BindingResponse { txid: txid_of(&requests[0]), mapped: addr("9.9.9.9:9") };
    let stranger = Message::BindingResponse { txid: 1, mapped: addr("9.9.9.9:9") };
    let server = requests[0].to;
    let now = Time::from_millis(1);
    machine.handle_response(now, SocketId::MAIN, addr("203.0.113.1:4001"), &response, &mut out);
    machine.handle_response(now, SocketId::OTHER, server, &response, &mut out);
    machine.handle_response(now, SocketId::MAIN, server, &stranger, &mut out);
    assert!(machine.reflexive().is_empty());
    assert_eq!(out.take_drops().of(DropReason::UnknownTransaction), 3);
    machine.handle_response(now, SocketId::MAIN, server, &response, &mut out);
    machine.handle_response(now, SocketId::MAIN, server, &response, &mut out);
    assert_eq!(machine.reflexive().len(), 1);
    assert_eq!(out.take_drops().of(DropReason::UnknownTransaction), 1, "a second copy of the answer");
}

#[test]
fn a_question_is_repeated_with_doubling_waits_and_given_up_after_five() {
    let (mut machine, first, mut out) = asked();
    let mut times = Vec::new();
    while let Some(deadline) = machine.poll_timeout().filter(|d| d.at < Time::from_millis(60_000)) {
        machine.handle_timeout(deadline.at, &mut out);
        for transmit in sent(&mut out).iter().filter(|t| t.from == SocketId::MAIN) {
            assert_eq!(txid_of(transmit), txid_of(&first[0]));
            times.push(deadline.at.as_millis());
        }
        assert!(machine.poll_timeout().is_none_or(|d| d.at > deadline.at));
    }
    assert_eq!(times, [250, 750, 1750, 3750]);
}

#[test]
fn an_old_answer_is_asked_for_again_and_forgotten_if_the_server_is_gone() {
    let (mut machine, requests, mut out) = asked();
    answer(&mut machine, Time::ZERO, &requests[0], "198.51.100.7:40000", &mut out);
    events(&mut out);
    let again = Time::ZERO + client::MAX_AGE;
    while let Some(deadline) = machine.poll_timeout().filter(|d| d.at <= again) {
        machine.handle_timeout(deadline.at, &mut out);
    }
    let renewed: Vec<_> = sent(&mut out).into_iter().filter(|t| t.from == SocketId::MAIN).collect();
    assert_eq!(renewed.len(), 1);
    assert_ne!(txid_of(&renewed[0]), txid_of(&requests[0]), "a new question has a new transaction");
    assert_eq!(machine.reflexive().len(), 1, "the old answer stays meanwhile");
    while let Some(deadline) = machine.poll_timeout().filter(|d| d.at <= again + ms(10_000)) {
        machine.handle_timeout(deadline.at, &mut out);
    }
    assert!(machine.reflexive().is_empty());
    assert_eq!(events(&mut out), [Event::Reflexive(Vec::new())]);
}

#[test]
fn a_change_of_network_asks_everyone_again_at_once() {
    let (mut machine, requests, mut out) = asked();
    answer(&mut machine, Time::ZERO, &requests[0], "198.51.100.7:40000", &mut out);
    machine.network_changed(Time::from_millis(9000), &mut out);
    let again = sent(&mut out);
    assert_eq!(again.len(), 2);
    answer(&mut machine, Time::from_millis(9010), &requests[0], "1.1.1.1:1", &mut out);
    assert_eq!(machine.reflexive(), [addr("198.51.100.7:40000")], "the old transaction is void");
    answer(&mut machine, Time::from_millis(9020), &again[0], "198.51.100.8:40000", &mut out);
    assert_eq!(machine.reflexive(), [addr("198.51.100.8:40000")]);
}

#[test]
fn the_address_most_servers_see_comes_first() {
    let mut machine = Reflex::new(Rng::from_u64(2));
    let mut out = Outbox::new();
    for (n, mapped) in [(1, "9.0.0.1:1"), (2, "9.0.0.2:2"), (3, "9.0.0.2:2")] {
        machine.add_server(Time::ZERO, peer(n), SocketAddr::new([203, 0, 113, n].into(), 4000), &mut out);
        let request = sent(&mut out).remove(0);
        answer(&mut machine, Time::ZERO, &request, mapped, &mut out);
    }
    assert_eq!(machine.reflexive(), [addr("9.0.0.2:2"), addr("9.0.0.1:1")]);
    machine.remove_server(&peer(2), &mut out);
    machine.remove_server(&peer(3), &mut out);
    assert_eq!(machine.reflexive(), [addr("9.0.0.1:1")]);
}

#[test]
fn servers_are_bounded() {
    let mut machine = Reflex::new(Rng::from_u64(3));
    let mut out = Outbox::new();
    for n in 0..1000u16 {
        let addr = SocketAddr::new([203, 0, 113, 1].into(), n + 1);
        machine.add_server(Time::ZERO, ServerKey::Stun(addr), addr, &mut out);
    }
    assert_eq!(machine.servers().count(), client::MAX_SERVERS);
}

fn request(txid: u128) -> BindingRequest {
    BindingRequest { txid, probe: None, check: None, has_fingerprint: false, unknown_required: Vec::new() }
}

#[test]
fn a_request_is_answered_on_its_socket_to_its_source() {
    let mut machine = Reflex::new(Rng::from_u64(4));
    let mut out = Outbox::new();
    for source in ["203.0.113.5:777", "[2001:db8::5]:777"] {
        machine.handle_request(Time::ZERO, SocketId::OTHER, addr(source), &request(7), false, &mut out);
        let answer = out.pop_transmit().unwrap();
        assert_eq!((answer.from, answer.to), (SocketId::OTHER, addr(source)));
        assert_eq!(
            Message::parse(&answer.bytes),
            Ok(Message::BindingResponse { txid: 7, mapped: addr(source) })
        );
    }
}

#[test]
fn a_request_with_unknown_required_attributes_gets_420_with_their_list() {
    let mut machine = Reflex::new(Rng::from_u64(4));
    let mut out = Outbox::new();
    let strange = BindingRequest { unknown_required: [0x0003, 0x7abc].into(), ..request(9) };
    machine.handle_request(Time::ZERO, SocketId::MAIN, addr("203.0.113.5:7"), &strange, false, &mut out);
    let answer = out.pop_transmit().unwrap();
    assert_eq!(Message::parse(&answer.bytes), Ok(Message::BindingError { txid: 9, code: 420 }));
    let listed: String = answer.bytes[28..].iter().map(|b| std::format!("{b:02x}")).collect();
    assert_eq!(listed, "000a000400037abc");
    assert!(!machine.saw(Time::ZERO, 9, addr("203.0.113.5:7")), "a refused request proves nothing");
}

#[test]
fn only_what_was_answered_on_the_main_socket_is_vouched_for_and_not_for_long() {
    let mut machine = Reflex::new(Rng::from_u64(4));
    let mut out = Outbox::new();
    let source = addr("203.0.113.5:777");
    machine.handle_request(Time::ZERO, SocketId::MAIN, source, &request(7), false, &mut out);
    machine.handle_request(Time::ZERO, SocketId::OTHER, source, &request(8), false, &mut out);
    assert!(machine.saw(Time::from_millis(10_000), 7, source));
    assert!(!machine.saw(Time::from_millis(10_001), 7, source));
    assert!(!machine.saw(Time::ZERO, 7, addr("203.0.113.5:778")));
    assert!(!machine.saw(Time::ZERO, 8, source));
}

fn answers(machine: &mut Reflex, now: Time, sources: impl Iterator<Item = SocketAddr>) -> usize {
    let mut out = Outbox::new();
    for (n, source) in sources.enumerate() {
        machine.handle_request(now, SocketId::MAIN, source, &request(n as u128), false, &mut out);
    }
    sent(&mut out).len()
}

#[test]
fn one_source_gets_its_share_and_all_together_theirs() {
    let mut machine = Reflex::new(Rng::from_u64(4));
    let one = || (0..500u16).map(|n| SocketAddr::new([203, 0, 113, 5].into(), 1000 + n));
    assert_eq!(answers(&mut machine, Time::ZERO, one()), 100, "ports do not matter");
    assert_eq!(answers(&mut machine, Time::from_millis(1000), one()), 20);
    let prefix =
        |n: u16| SocketAddr::new(core::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, n).into(), 7);
    assert_eq!(answers(&mut machine, Time::from_millis(1000), (0..500).map(prefix)), 100, "one IPv6 /64");
    let flood =
        (0..50_000u32).map(|n| SocketAddr::new(core::net::Ipv4Addr::from_bits((9 << 24) + n).into(), 7));
    let answered = answers(&mut machine, Time::from_millis(10_000), flood);
    assert_eq!(answered, 2000);
    let (sources, seen) = machine.server().sizes();
    assert!(sources <= 1024 && seen <= 1024);
}

#[test]
fn a_request_with_a_token_does_not_count_against_its_source() {
    let mut machine = Reflex::new(Rng::from_u64(4));
    let source = addr("203.0.113.5:777");
    assert_eq!(answers(&mut machine, Time::ZERO, core::iter::repeat_n(source, 200)), 100);
    let mut out = Outbox::new();
    machine.handle_request(Time::ZERO, SocketId::MAIN, source, &request(1), true, &mut out);
    assert_eq!(sent(&mut out).len(), 1);
    machine.handle_request(Time::ZERO, SocketId::MAIN, source, &request(1), false, &mut out);
    assert_eq!(out.take_drops().of(DropReason::RateLimited), 1);
}

fn reply_length(bytes: &[u8], source: SocketAddr) -> usize {
    let mut machine = Reflex::new(Rng::from_u64(5));
    let mut out = Outbox::new();
    match Message::parse(bytes) {
        Ok(Message::BindingRequest(request)) => {
            machine.handle_request(Time::ZERO, SocketId::MAIN, source, &request, false, &mut out);
        }
        Ok(other) => machine.handle_response(Time::ZERO, SocketId::MAIN, source, &other, &mut out),
        Err(_) => {}
    }
    sent(&mut out).iter().map(|t| t.bytes.len()).sum()
}

#[test]
fn our_requests_are_at_least_as_long_as_all_they_cause() {
    let probe = Probe { token: ProbeToken(1), slot: 0 };
    let indication = stun::probe_indication(0, probe).len();
    for source in ["203.0.113.5:777", "[2001:db8::5]:777"] {
        let (plain, probing) = (stun::binding_request(1, None), stun::binding_request(1, Some(probe)));
        assert!(reply_length(&plain, addr(source)) <= plain.len());
        assert!(reply_length(&probing, addr(source)) + indication <= probing.len());
    }
}

proptest::proptest! {
    #[test]
    fn no_stranger_gets_more_bytes_than_it_sent_but_for_the_stated_surplus(
        attributes in proptest::collection::vec((0u16..0x9000, 0u16..12), 0..40), class in 0u8..4,
    ) {
        let mut bytes: Vec<u8> = [class & 2, 1 | (class & 1) << 4, 0, 0].into();
        bytes[0] = (class & 2) >> 1;
        bytes.extend(0x2112_a442_u32.to_be_bytes());
        bytes.extend([7; 12]);
        for (kind, length) in attributes {
            bytes.extend(kind.to_be_bytes());
            bytes.extend(length.to_be_bytes());
            bytes.extend(core::iter::repeat_n(1, usize::from(length.next_multiple_of(4))));
        }
        let length = u16::try_from(bytes.len() - 20).unwrap();
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        proptest::prop_assert!(reply_length(&bytes, addr("[2001:db8::5]:777")) <= bytes.len() + MAX_SURPLUS);
    }
}

#[test]
fn what_was_asked_and_what_came_of_it_is_counted() {
    let (mut machine, requests, mut out) = asked();
    answer(&mut machine, Time::from_millis(40), &requests[0], "198.51.100.7:40000", &mut out);
    answer(&mut machine, Time::from_millis(50), &requests[0], "198.51.100.7:40000", &mut out);
    let mut now = Time::from_millis(50);
    while let Some(deadline) = machine.poll_timeout().filter(|d| d.at < Time::from_millis(60_000)) {
        now = deadline.at;
        machine.handle_timeout(now, &mut out);
    }
    let (asked, told) = machine.counts();
    assert_eq!((asked.answered, asked.unmatched, asked.refused, asked.given_up), (1, 1, 0, 1));
    assert_eq!(asked.sent, 6, "one question answered at once, five copies of the other");
    assert_eq!(told, Told::default());
    let request = |unknown: &[u16]| BindingRequest {
        txid: 7,
        unknown_required: unknown.to_vec(),
        has_fingerprint: false,
        probe: None,
        check: None,
    };
    let from = addr("192.0.2.1:5000");
    for _ in 0..101 {
        machine.handle_request(now, SocketId::MAIN, from, &request(&[]), false, &mut out);
    }
    machine.handle_request(now, SocketId::MAIN, from, &request(&[]), true, &mut out);
    machine.handle_request(now, SocketId::MAIN, addr("192.0.2.2:5000"), &request(&[1]), false, &mut out);
    machine.handle_request(now, SocketId::MAIN, addr("192.0.2.2:0"), &request(&[]), false, &mut out);
    let told = machine.counts().1;
    assert_eq!((told.answered, told.limited, told.probes, told.rejected, told.unusable), (100, 1, 1, 1, 1));
}
