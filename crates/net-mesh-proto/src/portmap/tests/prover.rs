//! Sending to a member's mapping.

use super::*;
use crate::outbox::SocketId;
use crate::reflex::stun;

#[test]
fn a_prover_sends_three_probes_to_the_askers_own_ip_and_nowhere_else() {
    let mut prover = Prover::new(Rng::from_u64(3));
    let mut out = Outbox::new();
    let ask = Ask { token: ProbeToken(9), addr: "198.51.100.9:5000".parse().unwrap() };
    let seen: SocketAddr = "198.51.100.9:41000".parse().unwrap();
    let now = Time::from_millis(10);
    let told = |out: &mut Outbox<Event>| match out.pop_event() {
        Some(Event::ToPeer { message: Message::Told(told), .. }) => told.outcome,
        other => panic!("{other:?}"),
    };
    prover.handle_ask(now, member(1), (Some(seen), true), ask, &mut out);
    assert_eq!(told(&mut out), Outcome::Sent);
    let mut at = now;
    let mut sent = vec![];
    while let Some(deadline) = prover.poll_timeout() {
        at = deadline.at;
        prover.handle_timeout(at, &mut out);
    }
    while let Some(transmit) = out.pop_transmit() {
        sent.push(transmit);
    }
    assert_eq!(sent.len(), 3);
    assert!(at - now < Duration::from_secs(1));
    for transmit in sent {
        assert_eq!((transmit.from, transmit.to), (SocketId::OTHER, ask.addr));
        assert!(transmit.bytes.len() <= 36);
        assert!(matches!(
            stun::Message::parse(&transmit.bytes),
            Ok(stun::Message::ProbeIndication(probe)) if probe.token == ask.token
        ));
    }
    // The same member again at once, one seen elsewhere, one over a relay, a private target, no other port.
    let other: SocketAddr = "192.0.2.1:41000".parse().unwrap();
    let private = Ask { addr: "192.168.1.20:5000".parse().unwrap(), ..ask };
    let later = now + Duration::from_secs(10);
    prover.handle_ask(now, member(1), (Some(seen), true), ask, &mut out);
    prover.handle_ask(later, member(2), (Some(other), true), ask, &mut out);
    prover.handle_ask(later, member(3), (None, true), ask, &mut out);
    prover.handle_ask(later, member(4), (Some("192.168.1.20:1".parse().unwrap()), true), private, &mut out);
    prover.handle_ask(later, member(5), (Some(seen), false), ask, &mut out);
    let outcomes: Vec<Outcome> = (0..5).map(|_| told(&mut out)).collect();
    assert_eq!(
        outcomes,
        [Outcome::Busy, Outcome::NotYours, Outcome::NotYours, Outcome::NotYours, Outcome::CannotSend]
    );
    assert!(out.pop_transmit().is_none());
}

#[test]
fn a_prover_serves_a_bounded_number() {
    let mut prover = Prover::new(Rng::from_u64(3));
    let mut out = Outbox::new();
    let seen: SocketAddr = "198.51.100.9:41000".parse().unwrap();
    for n in 0..=255 {
        let ask = Ask { token: ProbeToken(n), addr: "198.51.100.9:5000".parse().unwrap() };
        let peer = member(u8::try_from(n).unwrap());
        prover.handle_ask(Time::from_millis(5), peer, (Some(seen), true), ask, &mut out);
    }
    assert_eq!(prover.len(), 32);
}
