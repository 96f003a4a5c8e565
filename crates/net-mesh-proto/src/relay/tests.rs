//! What circuits promise: several machines, with reliable sessions between neighbours.

mod abuse;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::circuits::{LIFETIME, OPEN_LIMIT, RENEW_EVERY};
use super::{Change, Event, LabelTable, Limits, Message, Reason, Refusal, Relay, Step};
use crate::drops::DropReason;
use crate::id::NodeId;
use crate::outbox::Outbox;
use crate::rng::Rng;
use crate::route::CircuitId;
use crate::time::Time;

/// The machines, and what became of what they said.
struct Net {
    now: Time,
    nodes: Vec<Relay>,
    tables: Vec<LabelTable>,
    addrs: Vec<SocketAddr>,
    links: BTreeSet<(usize, usize)>,
    queue: VecDeque<(usize, usize, Message)>,
    events: Vec<Vec<Event>>,
    drops: Vec<DropReason>,
    /// Messages towards these are lost, as if the node had vanished.
    deaf: BTreeSet<usize>,
}

fn id(n: usize) -> NodeId {
    NodeId([u8::try_from(n).unwrap() + 1; 32])
}

impl Net {
    fn new(count: usize, links: &[(usize, usize)]) -> Self {
        Self::with_limits(count, links, Limits::default())
    }

    fn with_limits(count: usize, links: &[(usize, usize)], limits: Limits) -> Self {
        let addr = |n: usize| SocketAddr::from(([203, 0, 113, u8::try_from(n).unwrap()], 7000));
        let mut net = Self {
            now: Time::from_millis(1),
            nodes: (0..count).map(|n| Relay::new(id(n), Rng::from_u64(n as u64), Some(limits))).collect(),
            tables: (0..count).map(|_| LabelTable::new(limits)).collect(),
            addrs: (0..count).map(addr).collect(),
            links: BTreeSet::new(),
            queue: VecDeque::new(),
            events: vec![vec![]; count],
            drops: vec![],
            deaf: BTreeSet::new(),
        };
        for (a, b) in links {
            net.link(*a, *b);
        }
        net
    }

    fn chain(count: usize) -> Self {
        let links: Vec<_> = (0..count - 1).map(|n| (n, n + 1)).collect();
        Self::new(count, &links)
    }

    fn with<T>(&mut self, n: usize, act: impl FnOnce(&mut Relay, Time, &mut Outbox<Event>) -> T) -> T {
        let mut out = Outbox::new();
        let result = act(&mut self.nodes[n], self.now, &mut out);
        while let Some(event) = out.pop_event() {
            match &event {
                Event::Send { to, message } => {
                    let to = (0..self.nodes.len()).find(|m| id(*m) == *to).unwrap();
                    if self.links.contains(&(n, to)) && !self.deaf.contains(&to) {
                        self.queue.push_back((n, to, message.clone()));
                    }
                }
                Event::Label(change) => self.tables[n].apply(change.clone()),
                _ => {}
            }
            self.events[n].push(event);
        }
        self.drops.extend(out.take_drops().iter().map(|(reason, _)| reason));
        result
    }

    fn link(&mut self, a: usize, b: usize) {
        for (a, b) in [(a, b), (b, a)] {
            self.links.insert((a, b));
            let addr = self.addrs[b];
            self.with(a, |node, now, out| node.set_link(now, id(b), Some(addr), out));
        }
    }

    fn unlink(&mut self, a: usize, b: usize) {
        for (a, b) in [(a, b), (b, a)] {
            self.links.remove(&(a, b));
        }
        for (a, b) in [(a, b), (b, a)] {
            self.with(a, |node, now, out| node.set_link(now, id(b), None, out));
        }
    }

    fn settle(&mut self) {
        while let Some((from, to, message)) = self.queue.pop_front() {
            if self.links.contains(&(from, to)) {
                self.with(to, |node, now, out| node.handle(now, id(from), message, out));
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        while let Some(next) =
            self.nodes.iter().filter_map(|n| Some(n.poll_timeout()?.at)).min().filter(|at| *at <= end)
        {
            self.now = self.now.max(next);
            for n in 0..self.nodes.len() {
                self.with(n, |node, now, out| node.handle_timeout(now, out));
                let next = self.nodes[n].poll_timeout();
                assert!(next.is_none_or(|d| d.at > self.now), "{next:?}");
            }
            self.settle();
        }
        self.now = end;
    }

    fn open(&mut self, from: usize, to: usize, path: &[usize]) -> Option<CircuitId> {
        let path = path.iter().map(|n| id(*n)).collect();
        let circuit = self.with(from, |node, now, out| node.open(now, id(to), path, out));
        self.settle();
        circuit
    }

    /// Where a frame ends that `from` sends over `circuit`: node and circuit there, and the nodes it passed.
    fn follow(&mut self, from: usize, circuit: CircuitId) -> Option<(usize, CircuitId)> {
        let (mut to, mut label) = self.tables[from].out(circuit)?;
        let mut at = from;
        for _ in 0..20 {
            let next = self.addrs.iter().position(|addr| *addr == to)?;
            let source = self.addrs[at];
            match self.tables[next].step(self.now, source, label, 1, 100) {
                Step::Forward { to: onward, label: out } => (to, label, at) = (onward, out, next),
                Step::Deliver(circuit) => return Some((next, circuit)),
                Step::Drop(_) => return None,
            }
        }
        panic!("a loop");
    }

    fn downs(&self, n: usize) -> Vec<Reason> {
        let down = |event: &Event| match event {
            Event::Down { reason, .. } => Some(*reason),
            _ => None,
        };
        self.events[n].iter().filter_map(down).collect()
    }

    fn is_empty(&self) -> bool {
        self.nodes.iter().all(|n| n.carried() == 0 && n.circuits().next().is_none())
            && self.nodes.iter().all(|n| (0..9).all(|peer| !n.carries(&id(peer))))
    }
}

fn installed(event: &Event) -> Option<u64> {
    match event {
        Event::Label(Change::Forward { label, .. } | Change::End { label, .. }) => Some(*label),
        _ => None,
    }
}

#[test]
fn a_circuit_over_any_number_of_hops_carries_both_ways_and_costs_no_round_trip() {
    for count in 3..=8 {
        let mut net = Net::chain(count);
        let last = count - 1;
        let inner: Vec<usize> = (1..last).collect();
        let here = net.open(0, last, &inner).unwrap();
        let (target, there) = net.follow(0, here).unwrap();
        assert_eq!(target, last);
        assert_eq!(net.follow(last, there), Some((0, here)));
        assert!(net.events[0].iter().any(|e| matches!(e, Event::Confirmed { .. })));
        let view = net.nodes[last].circuit(there).unwrap();
        assert_eq!(
            (view.peer, view.path, view.opened_by_us),
            (id(0), &inner.iter().rev().map(|n| id(*n)).collect::<Vec<_>>()[..], false)
        );
        assert_eq!((view.confirmed, view.since), (true, net.now));
        // A label of the table of one node is in no other's: whoever knows one hop knows nothing of the next.
        let labels: Vec<u64> = net.events.iter().flatten().filter_map(installed).collect();
        assert_eq!(labels.len(), 2 * (count - 1), "one for each node and direction");
        assert_eq!(labels.iter().collect::<BTreeSet<_>>().len(), labels.len());
    }
}

#[test]
fn the_first_frames_may_be_sent_before_anyone_has_answered() {
    let mut net = Net::chain(3);
    let circuit = net.with(0, |node, now, out| node.open(now, id(2), vec![id(1)], out)).unwrap();
    assert!(net.tables[0].out(circuit).is_some());
    let (_, to, open) = net.queue.pop_front().unwrap();
    net.with(to, |node, now, out| node.handle(now, id(0), open, out));
    let (addr, label) = net.tables[0].out(circuit).unwrap();
    assert_eq!(addr, net.addrs[1]);
    let from = net.addrs[0];
    assert!(matches!(net.tables[1].step(net.now, from, label, 1, 100), Step::Forward { .. }));
}

#[test]
fn a_label_works_only_for_the_neighbour_it_was_proposed_by() {
    let mut net = Net::chain(3);
    let circuit = net.open(0, 2, &[1]).unwrap();
    let (_, label) = net.tables[0].out(circuit).unwrap();
    let stranger = "198.51.100.9:7000".parse().unwrap();
    assert_eq!(net.tables[1].step(net.now, stranger, label, 1, 1), Step::Drop(DropReason::UnknownLabel));
    let other_end = net.addrs[2];
    assert_eq!(net.tables[1].step(net.now, other_end, label, 1, 1), Step::Drop(DropReason::UnknownLabel));
}

#[test]
fn either_end_closes_it_for_all() {
    for closer in [0, 3] {
        let mut net = Net::chain(4);
        let here = net.open(0, 3, &[1, 2]).unwrap();
        let (_, there) = net.follow(0, here).unwrap();
        let circuit = if closer == 0 { here } else { there };
        net.with(closer, |node, _, out| node.close(circuit, out));
        net.settle();
        assert!(net.is_empty());
        assert_eq!((net.downs(0), net.downs(3)), (vec![Reason::Closed], vec![Reason::Closed]));
        assert_eq!(net.follow(0, here), None);
        assert_eq!(net.drops, [], "nobody is told twice");
    }
}

#[test]
fn a_session_that_ends_on_the_way_takes_the_circuit_down_on_both_sides() {
    for (a, b) in [(0, 1), (1, 2), (2, 3)] {
        let mut net = Net::chain(4);
        net.open(0, 3, &[1, 2]).unwrap();
        net.unlink(a, b);
        net.settle();
        assert!(net.is_empty(), "between {a} and {b}");
        assert_eq!((net.downs(0).len(), net.downs(3).len()), (1, 1));
    }
}

#[test]
fn a_refusal_travels_back_and_names_who_refused() {
    let mut net = Net::chain(4);
    net.nodes[2] = Relay::new(id(2), Rng::from_u64(9), None);
    net.link(1, 2);
    net.link(2, 3);
    net.open(0, 3, &[1, 2]).unwrap();
    assert_eq!(net.downs(0), [Reason::Refused { at: id(2), why: Refusal::NotRelaying }]);
    assert!(net.is_empty());
    let mut net = Net::new(4, &[(0, 1), (2, 3)]);
    net.open(0, 3, &[1, 2]).unwrap();
    assert_eq!(net.downs(0), [Reason::Refused { at: id(1), why: Refusal::NoLink }]);
    assert!(net.is_empty());
}

#[test]
fn who_does_not_relay_still_has_circuits_of_its_own_and_ends_those_of_others() {
    let mut net = Net::chain(3);
    for n in [0, 2] {
        net.nodes[n] = Relay::new(id(n), Rng::from_u64(9), None);
        net.link(n, 1);
    }
    let circuit = net.open(0, 2, &[1]).unwrap();
    assert_eq!(net.follow(0, circuit).map(|(n, _)| n), Some(2));
}

#[test]
fn paths_that_lead_back_are_not_opened_and_not_carried() {
    let mut net = Net::new(4, &[(0, 1), (1, 2), (2, 0), (2, 3)]);
    for path in [&[][..], &[0], &[1, 1], &[1, 3], &[1, 0], &[3]] {
        assert_eq!(net.open(0, 3, path), None, "{path:?}");
    }
    for path in [vec![id(0), id(3)], vec![id(1)], vec![id(2), id(2)]] {
        let open = super::wire::Open { circuit: 1, origin: id(0), path, passed: vec![], forward: 1, back: 2 };
        net.with(1, |node, now, out| node.handle(now, id(0), Message::Open(open), out));
        assert_eq!(net.nodes[1].carried(), 0);
    }
    assert_eq!(net.drops, [DropReason::Refused; 3]);
}

#[test]
fn a_label_or_number_in_use_is_refused_and_what_uses_it_stays() {
    let mut net = Net::chain(3);
    let circuit = net.open(0, 2, &[1]).unwrap();
    let (_, forward) = net.tables[0].out(circuit).unwrap();
    let again =
        super::wire::Open { circuit: 77, origin: id(0), path: vec![id(2)], passed: vec![], forward, back: 5 };
    net.with(1, |node, now, out| node.handle(now, id(0), Message::Open(again), out));
    net.settle();
    assert_eq!(net.follow(0, circuit).map(|(n, _)| n), Some(2));
    assert_eq!(net.nodes[1].carried(), 1);
}

#[test]
fn renewals_keep_a_circuit_and_without_them_it_ends_everywhere() {
    let mut net = Net::chain(4);
    let here = net.open(0, 3, &[1, 2]).unwrap();
    net.run(LIFETIME * 3);
    let (_, there) = net.follow(0, here).unwrap();
    assert_eq!(net.follow(3, there), Some((0, here)));
    // The origin vanishes without a word, and its sessions are not missed.
    net.deaf.insert(0);
    let links: Vec<_> = net.links.iter().filter(|(a, _)| *a == 0).copied().collect();
    links.iter().for_each(|link| {
        net.links.remove(link);
    });
    net.run(LIFETIME + Duration::from_secs(1));
    assert!((1..4).all(|n| net.nodes[n].carried() == 0 && net.nodes[n].circuits().next().is_none()));
    assert_eq!(net.downs(3), [Reason::Expired]);
    assert!(RENEW_EVERY * 2 < LIFETIME);
}

#[test]
fn an_opening_that_nobody_answers_is_given_up() {
    let mut net = Net::chain(3);
    net.deaf.insert(2);
    net.open(0, 2, &[1]).unwrap();
    net.run(OPEN_LIMIT);
    assert_eq!(net.downs(0), [Reason::TimedOut { at: id(1) }]);
    assert_eq!(net.nodes[1].carried(), 0, "the relay is told");
}

#[test]
fn a_neighbour_that_moves_takes_its_circuits_along() {
    let mut net = Net::chain(3);
    let here = net.open(0, 2, &[1]).unwrap();
    net.addrs[1] = "198.51.100.200:4000".parse().unwrap();
    net.link(0, 1);
    net.link(1, 2);
    let (_, there) = net.follow(0, here).unwrap();
    assert_eq!(net.follow(2, there), Some((0, here)));
    net.addrs[0] = "198.51.100.201:4000".parse().unwrap();
    net.link(0, 1);
    assert_eq!(net.follow(2, there), Some((0, here)));
    assert_eq!(net.follow(0, here), Some((2, there)));
}

#[test]
fn a_neighbour_that_came_back_finds_no_labels_of_before() {
    let mut net = Net::chain(3);
    net.open(0, 2, &[1]).unwrap();
    net.nodes[1] = Relay::new(id(1), Rng::from_u64(77), Some(Limits::default()));
    net.tables[1] = LabelTable::new(Limits::default());
    for (at, peer) in [(0, 1), (2, 1), (1, 0), (1, 2)] {
        net.with(at, |node, now, out| node.set_link(now, id(peer), None, out));
        net.link(at, peer);
    }
    net.settle();
    assert!(net.is_empty());
    assert!(net.tables.iter().all(LabelTable::is_empty));
    let again = net.open(0, 2, &[1]).unwrap();
    assert_eq!(net.follow(0, again).map(|(n, _)| n), Some(2));
}

#[test]
fn who_renews_what_has_ended_is_told() {
    let mut net = Net::chain(3);
    let here = net.open(0, 2, &[1]).unwrap();
    // The relay forgets, and nobody notices.
    net.nodes[1] = Relay::new(id(1), Rng::from_u64(77), Some(Limits::default()));
    net.with(1, |node, now, out| node.set_link(now, id(0), Some("203.0.113.0:7000".parse().unwrap()), out));
    net.run(RENEW_EVERY);
    assert_eq!(net.downs(0), [Reason::Closed]);
    assert!(net.nodes[0].circuit(here).is_none());
}

#[test]
fn a_label_that_ends_on_the_way_is_the_end_for_both_sides() {
    let mut net = Net::chain(4);
    net.open(0, 3, &[1, 2]).unwrap();
    // Renewals get lost at first, and are late at the first relay only.
    let lost = net.links.take(&(0, 1)).unwrap();
    net.run(LIFETIME - Duration::from_secs(1));
    net.links.insert(lost);
    let number = net.nodes[0].circuits().next().map(|c| c.circuit);
    net.run(Duration::from_secs(1));
    assert!(number.is_some() && net.is_empty());
    assert!(net.tables.iter().all(LabelTable::is_empty));
    assert_eq!((net.downs(0).len(), net.downs(3).len()), (1, 1));
}

#[test]
fn what_is_carried_is_limited_for_each_neighbour_and_for_all() {
    let limits = Limits { circuits: 5, circuits_per_neighbour: 3, ..Limits::default() };
    let mut net = Net::with_limits(5, &[(0, 2), (1, 2), (2, 3), (2, 4)], limits);
    let opened = |net: &mut Net, from: usize| {
        (0..10).filter(|_| net.open(from, 3, &[2]).is_some()).count();
        net.nodes[from].circuits().count()
    };
    assert_eq!(opened(&mut net, 0), 3);
    assert_eq!(opened(&mut net, 1), 2, "one neighbour does not use up all");
    assert_eq!(net.nodes[2].carried(), 5);
}

#[test]
fn messages_about_circuits_of_others_do_nothing() {
    let mut net = Net::new(4, &[(0, 1), (1, 2), (1, 3)]);
    let here = net.open(0, 2, &[1]).unwrap();
    let numbers: Vec<u64> = net
        .events
        .iter()
        .flatten()
        .filter_map(|event| match event {
            Event::Send { message: Message::Open(open), .. } => Some(open.circuit),
            _ => None,
        })
        .collect();
    for circuit in numbers {
        for message in [
            Message::Close { circuit, by_opener: true },
            Message::Close { circuit, by_opener: false },
            Message::Renew { circuit },
            Message::Opened { circuit },
            Message::Refused { circuit, at: id(1), why: Refusal::NoLink },
        ] {
            net.with(1, |node, now, out| node.handle(now, id(3), message, out));
        }
    }
    net.settle();
    assert_eq!(net.drops.iter().collect::<BTreeSet<_>>(), BTreeSet::from([&DropReason::UnknownTransaction]));
    assert_eq!(net.follow(0, here).map(|(n, _)| n), Some(2));
}

/// Whatever is opened, closed and lost: labels lead from an end to the other end, or nowhere.
#[test]
fn labels_never_lead_elsewhere() {
    for seed in 0..40 {
        let mut rng = Rng::from_u64(seed);
        let links = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (1, 3), (0, 2)];
        let mut net = Net::new(5, &links);
        let mut open: BTreeMap<(usize, CircuitId), usize> = BTreeMap::new();
        for _ in 0..60 {
            let pick = |rng: &mut Rng, n: usize| usize::try_from(rng.below(n as u64)).unwrap();
            match rng.below(6) {
                0..=2 => {
                    let (from, to) = (pick(&mut rng, 5), pick(&mut rng, 5));
                    let path: Vec<usize> = (0..=pick(&mut rng, 3)).map(|_| pick(&mut rng, 5)).collect();
                    if let Some(circuit) = net.open(from, to, &path) {
                        open.insert((from, circuit), to);
                    }
                }
                3 => {
                    if let Some(key) = open.keys().nth(pick(&mut rng, open.len().max(1))).copied() {
                        net.with(key.0, |node, _, out| node.close(key.1, out));
                        net.settle();
                    }
                }
                4 => {
                    let (a, b) = links[pick(&mut rng, links.len())];
                    net.unlink(a, b);
                    if rng.chance(0.5) {
                        net.settle();
                    }
                    net.link(a, b);
                    net.settle();
                }
                _ => net.run(Duration::from_secs(rng.below(60))),
            }
            for ((from, circuit), to) in open.clone() {
                match net.follow(from, circuit) {
                    Some((at, there)) => {
                        assert_eq!(at, to, "seed {seed}");
                        assert_eq!(net.follow(at, there), Some((from, circuit)), "seed {seed}");
                    }
                    None => assert!(net.nodes[from].circuit(circuit).is_none(), "seed {seed}"),
                }
            }
        }
        for (from, circuit) in open.into_keys() {
            net.with(from, |node, _, out| node.close(circuit, out));
        }
        net.settle();
        assert!(net.is_empty(), "seed {seed}");
        assert!(net.tables.iter().all(LabelTable::is_empty), "seed {seed}");
    }
}
