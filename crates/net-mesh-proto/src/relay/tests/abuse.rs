//! What a neighbour cannot do that does not keep to the rules.

use super::*;
use crate::relay::circuits::{MAX_ENDED, MAX_ENDING, RENEW_PAUSE};
use crate::relay::neighbours::{OPENING_EVERY, OPENINGS_AT_ONCE};
use crate::relay::wire::Open;

/// What node `n` said since, and whom to.
fn said(net: &mut Net, n: usize, act: impl FnOnce(&mut Net)) -> Vec<(NodeId, Message)> {
    let before = net.events[n].len();
    act(net);
    let sent = |event: &Event| match event {
        Event::Send { to, message } => Some((*to, message.clone())),
        _ => None,
    };
    net.events[n][before..].iter().filter_map(sent).collect()
}

fn hear(net: &mut Net, n: usize, from: usize, message: Message) {
    net.with(n, |node, now, out| node.handle(now, id(from), message, out));
}

fn open(circuit: u64, origin: usize, path: Vec<NodeId>) -> Message {
    Message::Open(Open {
        circuit,
        origin: id(origin),
        path,
        passed: vec![],
        forward: circuit + (1 << 40),
        back: circuit,
    })
}

#[test]
fn opening_and_closing_over_and_over_is_passed_on_only_so_often() {
    let mut net = Net::chain(3);
    let flood = |net: &mut Net, first: u64| {
        said(net, 1, |net| {
            for circuit in first..first + 5_000 {
                hear(net, 1, 0, open(circuit, 0, vec![id(2)]));
                hear(net, 1, 0, Message::Close { circuit, by_opener: true });
            }
        })
    };
    let to_next = |sent: &[(NodeId, Message)]| sent.iter().filter(|(to, _)| *to == id(2)).count();
    let sent = flood(&mut net, 0);
    assert_eq!(to_next(&sent), 2 * OPENINGS_AT_ONCE as usize);
    let refused = |m: &Message| matches!(m, Message::Refused { why: Refusal::TooFast, .. });
    assert_eq!(sent.iter().filter(|(_, m)| refused(m)).count(), 5_000 - OPENINGS_AT_ONCE as usize);
    assert_eq!(to_next(&flood(&mut net, 10_000)), 0);
    net.now += OPENING_EVERY * 10;
    assert_eq!(to_next(&flood(&mut net, 20_000)), 2 * 10);
    assert_eq!(net.nodes[1].carried(), 0);
}

#[test]
fn renewing_over_and_over_is_passed_on_only_so_often() {
    let mut net = Net::chain(3);
    hear(&mut net, 1, 0, open(1, 0, vec![id(2)]));
    let renew = |net: &mut Net| {
        said(net, 1, |net| (0..100).for_each(|_| hear(net, 1, 0, Message::Renew { circuit: 1 }))).len()
    };
    assert_eq!(renew(&mut net), 0);
    net.now += RENEW_PAUSE;
    assert_eq!(renew(&mut net), 1);
}

#[test]
fn confirming_over_and_over_is_passed_on_once() {
    let mut net = Net::chain(3);
    net.deaf.insert(2);
    let asked = said(&mut net, 1, |net| hear(net, 1, 0, open(1, 0, vec![id(2)])));
    let [(_, Message::Open(Open { circuit, .. }))] = asked[..] else { panic!("{asked:?}") };
    let sent = said(&mut net, 1, |net| (0..9).for_each(|_| hear(net, 1, 2, Message::Opened { circuit })));
    assert_eq!(sent, [(id(0), Message::Opened { circuit: 1 })]);
}

#[test]
fn a_number_in_use_is_ignored_and_the_circuit_that_has_it_stays() {
    let mut net = Net::chain(3);
    hear(&mut net, 1, 0, open(1, 0, vec![id(2)]));
    let sent = said(&mut net, 1, |net| hear(net, 1, 0, open(1, 0, vec![id(2)])));
    assert_eq!(sent, [], "a refusal would end the one that is there");
    assert_eq!((net.nodes[1].carried(), &net.drops[..]), (1, &[DropReason::Refused][..]));
}

#[test]
fn a_refusal_cannot_be_blamed_on_someone_who_is_not_on_the_way() {
    for (blamed, seen) in [(7, 1), (2, 2), (1, 1), (3, 3)] {
        let mut net = Net::chain(4);
        net.deaf.insert(1);
        let asked = said(&mut net, 0, |net| assert!(net.open(0, 3, &[1, 2]).is_some()));
        let [(_, Message::Open(Open { circuit, .. }))] = asked[..] else { panic!("{asked:?}") };
        let why = Refusal::Other(99);
        hear(&mut net, 0, 1, Message::Refused { circuit, at: id(blamed), why });
        assert_eq!(net.downs(0), [Reason::Refused { at: id(seen), why }]);
    }
}

#[test]
fn circuits_that_end_here_are_bounded_for_each_neighbour_and_in_all() {
    let neighbours = MAX_ENDED / MAX_ENDING + 2;
    let links: Vec<_> = (1..=neighbours).map(|n| (0, n)).collect();
    let mut net = Net::new(neighbours + 1, &links);
    for n in 1..=neighbours {
        for circuit in 0..MAX_ENDING as u64 + 10 {
            net.now += OPENING_EVERY / 100;
            let Message::Open(ending) = open(circuit + ((n as u64) << 20), 99, vec![]) else { panic!() };
            hear(&mut net, 0, n, Message::Open(Open { passed: vec![id(n)], ..ending }));
        }
        let expected = (n * MAX_ENDING).min(MAX_ENDED);
        assert_eq!(net.nodes[0].circuits().count(), expected, "over {n} neighbours");
        assert_eq!(net.tables[0].len().0, expected);
    }
    net.unlink(0, 1);
    assert_eq!(net.nodes[0].circuits().count(), MAX_ENDED - MAX_ENDING, "one that left makes room");
}

#[test]
fn who_is_reached_over_others_only_is_no_hop() {
    let mut net = Net::new(4, &[(0, 1), (1, 2)]);
    let sent = said(&mut net, 1, |net| hear(net, 1, 3, open(1, 3, vec![id(2)])));
    assert_eq!(sent, [(id(3), Message::Refused { circuit: 1, at: id(1), why: Refusal::NotDirect })]);
    let sent = said(&mut net, 1, |net| hear(net, 1, 0, open(1, 0, vec![])));
    let why = Refusal::BadPath;
    assert_eq!(
        sent,
        [(id(0), Message::Refused { circuit: 1, at: id(1), why })],
        "neighbours need no circuit"
    );
}
