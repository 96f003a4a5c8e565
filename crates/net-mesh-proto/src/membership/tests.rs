//! Promises of membership: bytes, spreading, lifetimes.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;

use ed25519_dalek::SigningKey;

use super::wire::{Digest, MAX_DIGEST_ENTRIES, MAX_MESSAGE_BYTES, Records, Summary, Want, pack};
use super::*;
use crate::drops::DropCounts;
use crate::nat::{Filtering, Mapping, PortRule, Verdict};
use crate::node::control::Control;
use crate::wire::{Malformed, Writer};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn mesh() -> MeshId {
    MeshId([7; 32])
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn id(n: u8) -> NodeId {
    NodeId(key(n).verifying_key().to_bytes())
}

fn example() -> Record {
    Record {
        node: id(1),
        seq: 0x0000_0190_0000_0000,
        boot: 5,
        name: "gärten".into(),
        candidates: vec!["203.0.113.9:7000".parse().unwrap(), "[2001:db8::9]:7001".parse().unwrap()],
        verdict: VerdictSummary {
            mapping: Mapping::EndpointIndependent,
            filtering: Filtering::AddressAndPortDependent,
            port_rule: PortRule::Preserving,
            confidence: 95,
        },
        links: vec![(NodeId([0xaa; 32]), 40)],
        flags: Flags { relays: true, subscribes_to_many: false, leaving: false, mapped: false },
        subscriptions: vec![ChannelId([1, 2, 3, 4, 5, 6, 7, 8])],
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| alloc::format!("{b:02x}")).collect()
}

fn message(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut out = Writer::new();
    write(&mut out);
    out.finish()
}

fn cut_anywhere_fails<T: core::fmt::Debug>(bytes: &[u8], parse: impl Fn(&[u8]) -> Result<T, Malformed>) {
    for end in 0..bytes.len() {
        assert!(parse(&bytes[..end]).is_err(), "cut at {end}");
    }
    assert!(parse(&[bytes, &[0]].concat()).is_err(), "a byte too many");
}

// ---------------------------------------------------------------- bytes

#[test]
fn a_record_has_these_bytes() {
    let signed = example().sign(&key(1), &mesh());
    let (body, signature) = signed.bytes().split_last_chunk::<64>().unwrap();
    assert_eq!(
        hex(body),
        "01\
         8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c\
         0000019000000000\
         0000000000000005\
         0767c3a47274656e\
         0204cb0071091b580620010db80000000000000000000000091b59\
         0203015f\
         01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa0028\
         01\
         010102030405060708"
    );
    assert!(id(1).verify(&[b"net-mesh record 1\0", &mesh().0[..], body].concat(), signature));
    let parsed = Unverified::parse(signed.bytes()).unwrap().verify(&mesh()).unwrap();
    assert_eq!(parsed, signed);
    assert_eq!(*parsed.record(), example());
}

#[test]
fn a_record_cut_or_changed_anywhere_is_refused() {
    let signed = example().sign(&key(1), &mesh());
    let good = |bytes: &[u8]| Unverified::parse(bytes).ok().and_then(|u| u.verify(&mesh())).is_some();
    assert!(good(signed.bytes()));
    for end in 0..signed.bytes().len() {
        assert!(!good(&signed.bytes()[..end]), "cut at {end}");
        let mut flipped = signed.bytes().to_vec();
        flipped[end] ^= 0x20;
        assert!(!good(&flipped), "changed at {end}");
    }
    assert!(!good(&[signed.bytes(), &[0][..]].concat()));
    assert!(Unverified::parse(signed.bytes()).unwrap().verify(&MeshId([8; 32])).is_none(), "of another mesh");
}

#[test]
fn the_longest_record_has_exactly_the_stated_size() {
    let mut record = example();
    record.name = "x".repeat(500);
    record.candidates = vec!["[2001:db8::9]:7001".parse().unwrap(); 40];
    record.links = vec![(NodeId([1; 32]), 1); 100];
    record.subscriptions = vec![ChannelId([0; 8]); 100];
    let signed = record.sign(&key(1), &mesh());
    assert_eq!(signed.bytes().len(), MAX_RECORD_BYTES);
    assert!(Unverified::parse(signed.bytes()).unwrap().verify(&mesh()).is_some());
}

#[test]
fn names_are_printable_and_cut_at_a_character() {
    assert_eq!(sanitised("a\u{1b}[31mb\n\u{202e}c"), "a[31mbc");
    assert_eq!(sanitised(&"ä".repeat(40)).len(), 64);
    assert_eq!(sanitised(&["x", &"ä".repeat(40)].concat()).len(), 63);
    let bytes = example().sign(&key(1), &mesh()).bytes().to_vec();
    let at = bytes.windows(3).position(|w| w == b"ten").unwrap();
    let mut evil = bytes;
    evil[at] = 0x1b;
    assert_eq!(Unverified::parse(&evil).unwrap_err(), RecordError::Malformed(Malformed::Invalid("a name")));
}

#[test]
fn the_messages_have_these_bytes() {
    let digest =
        Digest { from: NodeId([0; 32]), to: NodeId([0xff; 32]), entries: vec![(NodeId([0x11; 32]), 7)] };
    let bytes = message(|out| digest.write(out));
    let expected =
        ["00".repeat(32), "ff".repeat(32), "01".into(), "11".repeat(32), "0000000000000007".into()];
    assert_eq!(hex(&bytes), expected.concat());
    assert_eq!(Digest::parse(&bytes), Ok(digest));
    cut_anywhere_fails(&bytes, Digest::parse);

    let records = Records { items: vec![(3, vec![9, 8].into()), (4, vec![].into())] };
    let bytes = message(|out| records.write(out));
    assert_eq!(hex(&bytes), "02000000030209080000000400");
    assert_eq!(Records::parse(&bytes), Ok(records));
    cut_anywhere_fails(&bytes, Records::parse);

    let want = Want { ids: vec![NodeId([0x22; 32])] };
    let bytes = message(|out| want.write(out));
    assert_eq!(hex(&bytes), ["01".into(), "22".repeat(32)].concat());
    assert_eq!(Want::parse(&bytes), Ok(want));
    cut_anywhere_fails(&bytes, Want::parse);
}

#[test]
fn a_summary_has_these_bytes_and_tells_two_tables_apart() {
    let known = |seq| alloc::collections::BTreeMap::from([(NodeId([0x11; 32]), seq)]);
    let summary = Summary::of(&known(7));
    assert_eq!(summary, Summary::of(&known(7)));
    assert_ne!(summary, Summary::of(&known(8)));
    let bytes = message(|out| summary.write(out));
    assert_eq!(bytes, summary.hash);
    assert_eq!(Summary::parse(&bytes), Ok(summary));
    cut_anywhere_fails(&bytes, Summary::parse);
}

#[test]
fn a_digest_out_of_order_or_out_of_bounds_is_refused() {
    let entry = |n: u8| (NodeId([n; 32]), 1);
    for entries in [vec![entry(2), entry(1)], vec![entry(2), entry(2)], vec![entry(9)]] {
        let digest = Digest { from: NodeId([1; 32]), to: NodeId([5; 32]), entries };
        assert!(Digest::parse(&message(|out| digest.write(out))).is_err(), "{digest:?}");
    }
}

#[test]
fn packed_messages_stay_below_their_limit_and_lose_nothing() {
    let items: Vec<(u32, Arc<[u8]>)> =
        (0..1_000u32).map(|n| (n, vec![0; MAX_RECORD_BYTES - (n as usize % 3) * 1_000].into())).collect();
    let messages = pack(items.clone());
    for records in &messages {
        let control = Control::Membership(Message::Records(records.clone()));
        assert!(control.encode().len() <= MAX_MESSAGE_BYTES);
    }
    assert_eq!(messages.into_iter().flat_map(|m| m.items).collect::<Vec<_>>(), items);
}

// ---------------------------------------------------------------- machines

/// Nodes with sessions that deliver at once and in order.
struct Mesh {
    now: Time,
    nodes: Vec<Membership>,
    events: Vec<Vec<Event>>,
    drops: Vec<DropCounts>,
    flying: VecDeque<(usize, NodeId, Message)>,
    carried: usize,
    bytes: usize,
}

fn started(n: u8, now: Time, unix_ms: u64) -> Membership {
    let (secret, mesh, name) = ([n; 32], mesh(), alloc::format!("node {n}"));
    let identity = Identity { secret: &secret, mesh: &mesh, name: &name, boot: unix_ms, unix_ms };
    Membership::new(now, &Rng::from_u64(u64::from(n)), &identity)
}

impl Mesh {
    fn of(count: u8) -> Self {
        let now = Time::from_millis(1_000);
        let nodes: Vec<_> = (1..=count).map(|n| started(n, now, 1_700_000_000_000)).collect();
        let events = nodes.iter().map(|_| Vec::new()).collect();
        let drops = nodes.iter().map(|_| DropCounts::default()).collect();
        Self { now, nodes, events, drops, flying: VecDeque::new(), carried: 0, bytes: 0 }
    }

    fn hear(&mut self, node: usize, mut out: Outbox<Event>) {
        while let Some(event) = out.pop_event() {
            match event {
                Event::Send { to, message } => {
                    self.carried += 1;
                    let encoded = Control::Membership(message.clone()).encode();
                    assert!(encoded.len() <= MAX_MESSAGE_BYTES);
                    assert_eq!(Control::parse(&encoded), Ok(Control::Membership(message.clone())));
                    self.bytes += encoded.len();
                    if let Some(to) = self.nodes.iter().position(|m| m.id() == to) {
                        self.flying.push_back((to, self.nodes[node].id(), message));
                    }
                }
                other => self.events[node].push(other),
            }
        }
        self.drops[node].add(&out.take_drops());
    }

    fn settle(&mut self) {
        while let Some((to, from, message)) = self.flying.pop_front() {
            let mut out = Outbox::new();
            self.nodes[to].handle(self.now, from, message, &mut out);
            self.hear(to, out);
        }
    }

    fn connect(&mut self, a: usize, b: usize) {
        let ids = [self.nodes[a].id(), self.nodes[b].id()];
        for (node, peer) in [(a, ids[1]), (b, ids[0])] {
            let mut out = Outbox::new();
            self.nodes[node].session_up(self.now, peer, node == a, &mut out);
            self.hear(node, out);
        }
        self.settle();
    }

    fn disconnect(&mut self, a: usize, b: usize) {
        let ids = [self.nodes[a].id(), self.nodes[b].id()];
        self.nodes[a].session_down(&ids[1]);
        self.nodes[b].session_down(&ids[0]);
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let due = self.nodes.iter().filter_map(|n| Some(n.poll_timeout()?.at)).min();
            let Some(at) = due.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            for node in 0..self.nodes.len() {
                let mut out = Outbox::new();
                self.nodes[node].handle_timeout(self.now, &mut out);
                assert!(self.nodes[node].poll_timeout().is_none_or(|d| d.at > self.now));
                self.hear(node, out);
            }
            self.settle();
        }
        self.now = end;
    }

    fn knows(&self, who: usize, whom: usize) -> bool {
        self.nodes[who].members().contains_key(&self.nodes[whom].id())
    }

    fn seen(&self, who: usize, whom: usize) -> &Record {
        self.nodes[who].members()[&self.nodes[whom].id()].record()
    }
}

fn candidate(n: u8) -> Vec<SocketAddr> {
    vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, n)), 7000)]
}

#[test]
fn a_node_that_joins_through_one_member_learns_all_and_all_learn_of_it() {
    let mut mesh = Mesh::of(20);
    for n in 1..19 {
        mesh.connect(n - 1, n);
    }
    mesh.connect(19, 7);
    for n in 0..20 {
        assert_eq!(mesh.nodes[n].members().len(), 19, "node {n}");
    }
}

#[test]
fn a_change_reaches_everyone_within_its_wait() {
    let mut mesh = Mesh::of(10);
    for n in 1..10 {
        mesh.connect(n - 1, n);
    }
    mesh.run(secs(2));
    mesh.nodes[0].set_candidates(mesh.now, candidate(1));
    mesh.run(Duration::from_millis(100));
    assert_eq!(mesh.seen(9, 0).candidates, candidate(1));
    assert!(mesh.events[9].contains(&Event::Changed { peer: id(1), reachability: true }));
    mesh.nodes[0].set_subscriptions(mesh.now, vec![ChannelId::of("news")]);
    mesh.run(secs(1));
    assert!(mesh.seen(9, 0).subscribes_to(ChannelId::of("news")));
    assert!(!mesh.seen(9, 0).subscribes_to(ChannelId::of("olds")));
}

#[test]
fn changes_in_a_burst_make_one_record_a_second() {
    let mut mesh = Mesh::of(2);
    mesh.connect(0, 1);
    mesh.run(secs(2));
    let mut seqs = alloc::collections::BTreeSet::new();
    for n in 0..100u8 {
        mesh.nodes[0].set_candidates(mesh.now, candidate(n));
        mesh.run(Duration::from_millis(100));
        seqs.insert(mesh.seen(1, 0).seq);
    }
    assert!((9..=12).contains(&seqs.len()), "{} records in 10 s", seqs.len());
    mesh.run(secs(1));
    assert_eq!(mesh.seen(1, 0).candidates, candidate(99), "and the last word is heard");
}

#[test]
fn round_trip_times_alone_do_not_make_records() {
    let mut mesh = Mesh::of(2);
    mesh.connect(0, 1);
    mesh.nodes[0].set_links(mesh.now, vec![(id(2), 40)]);
    mesh.run(secs(10));
    let seq = mesh.seen(1, 0).seq;
    assert_eq!(mesh.seen(1, 0).links, [(id(2), 40)]);
    for n in 0..40 {
        mesh.nodes[0].set_links(mesh.now, vec![(id(2), 30 + n % 20)]);
        mesh.run(secs(1));
    }
    assert_eq!(mesh.seen(1, 0).seq, seq, "small changes");
    mesh.nodes[0].set_links(mesh.now, vec![(id(2), 400)]);
    mesh.run(secs(60));
    assert_eq!(mesh.seen(1, 0).links, [(id(2), 400)], "large ones are told within a minute");
}

#[test]
fn too_many_channels_become_a_flag_and_too_many_links_a_stable_choice() {
    let mut mesh = Mesh::of(2);
    mesh.connect(0, 1);
    mesh.nodes[0].set_subscriptions(mesh.now, (0..65).map(|n| ChannelId([n; 8])).collect());
    mesh.nodes[0].set_links(mesh.now, (0..100).map(|n| (NodeId([n; 32]), 200 - u16::from(n))).collect());
    mesh.run(secs(6));
    assert!(mesh.seen(1, 0).subscribes_to(ChannelId::of("anything")));
    let named = mesh.seen(1, 0).links.clone();
    assert_eq!(named.len(), MAX_LINKS);
    assert!(named.iter().all(|(_, rtt)| *rtt <= 132), "the fastest ones");
    let mut links: Vec<_> = (0..100).map(|n| (NodeId([n; 32]), 200 - u16::from(n))).collect();
    links.push((NodeId([150; 32]), 1));
    mesh.nodes[0].set_links(mesh.now, links);
    mesh.run(secs(6));
    assert_eq!(mesh.seen(1, 0).links, named);
}

#[test]
fn records_are_refreshed_and_a_vanished_node_is_forgotten_everywhere_in_time() {
    let mut mesh = Mesh::of(3);
    mesh.connect(0, 1);
    mesh.connect(1, 2);
    mesh.run(secs(3_600));
    assert!(mesh.knows(2, 0), "a quiet node stays");
    let age = mesh.nodes[2].members()[&id(1)].age(mesh.now);
    assert!(age <= REFRESH, "{age:?}");
    mesh.disconnect(0, 1);
    let lost = mesh.now;
    let mut gone = None;
    while gone.is_none() && mesh.now.since(lost) < secs(3_600) {
        mesh.run(secs(1));
        gone = (!mesh.knows(1, 0) && !mesh.knows(2, 0)).then_some(mesh.now);
    }
    let took = gone.expect("forgotten").since(lost);
    assert!(took <= TTL + SWEEP + secs(1), "{took:?}");
    assert!(took >= TTL - REFRESH, "{took:?}");
    assert!(mesh.events[2].contains(&Event::Gone { peer: id(1) }));
}

#[test]
fn the_name_of_a_vanished_node_cannot_be_kept_alive_by_newcomers() {
    // A chain of nodes, each joining just before the one before it would forget.
    let mut mesh = Mesh::of(8);
    mesh.connect(0, 1);
    mesh.disconnect(0, 1);
    for n in 2..8 {
        mesh.run(TTL / 3);
        mesh.connect(n, n - 1);
    }
    let knowing: Vec<_> = (1..8).filter(|n| mesh.knows(*n, 0)).collect();
    assert_eq!(knowing, [0usize; 0]);
}

#[test]
fn a_goodbye_is_heard_at_once_and_a_late_copy_is_no_news() {
    let mut mesh = Mesh::of(4);
    mesh.connect(0, 1);
    mesh.connect(1, 2);
    mesh.run(secs(2));
    // The fourth learns the old record and is away when the goodbye is said.
    mesh.connect(2, 3);
    mesh.disconnect(2, 3);
    let mut out = Outbox::new();
    mesh.nodes[0].leave(mesh.now, &mut out);
    mesh.hear(0, out);
    mesh.settle();
    assert!(!mesh.knows(1, 0) && !mesh.knows(2, 0) && mesh.knows(3, 0));
    assert!(mesh.events[2].contains(&Event::Gone { peer: id(1) }));
    mesh.connect(3, 2);
    assert!(!mesh.knows(2, 0) && !mesh.knows(3, 0), "the goodbye wins over the old record");
    mesh.run(secs(600));
    assert!(!mesh.knows(1, 0), "who has left does not speak again");
}

#[test]
fn a_node_that_comes_back_is_welcome_whatever_its_clock_says() {
    for (clock, name) in [
        (1_700_000_100_000, "right"),
        (1_000, "1970"),
        (1_699_000_000_000, "two weeks behind"),
        (4_000_000_000_000, "2096"),
    ] {
        let mut mesh = Mesh::of(3);
        mesh.connect(0, 1);
        mesh.connect(1, 2);
        mesh.run(secs(5));
        let mut out = Outbox::new();
        mesh.nodes[0].leave(mesh.now, &mut out);
        mesh.hear(0, out);
        mesh.settle();
        mesh.disconnect(0, 1);
        mesh.nodes[0] = started(1, mesh.now, clock);
        mesh.connect(0, 1);
        mesh.run(secs(3));
        assert!(mesh.knows(2, 0), "clock {name}");
        assert_eq!(mesh.seen(2, 0).boot, clock, "clock {name}");
        // And its next words are heard too.
        mesh.nodes[0].set_candidates(mesh.now, candidate(9));
        mesh.run(secs(2));
        assert_eq!(mesh.seen(2, 0).candidates, candidate(9), "clock {name}");
        assert!(!mesh.events[0].iter().any(|event| matches!(event, Event::Doubled)), "clock {name}");
    }
}

#[test]
fn two_copies_of_one_node_are_noticed_by_the_one_that_was_there_first() {
    let mut mesh = Mesh::of(3);
    mesh.connect(0, 1);
    mesh.run(secs(5));
    // The second copy, with another member.
    mesh.nodes.push(started(1, mesh.now, 1_700_000_900_000));
    mesh.events.push(Vec::new());
    mesh.drops.push(DropCounts::default());
    let copy = mesh.nodes.len() - 1;
    for _ in 0..30 {
        // What one says comes to the other by way of the second member.
        for (from, to) in [(copy, 0), (0, copy)] {
            let mut out = Outbox::new();
            let other = mesh.nodes[1].id();
            mesh.nodes[from].session_up(mesh.now, other, true, &mut out);
            while let Some(event) = out.pop_event() {
                let Event::Send { message, .. } = event else { continue };
                let mut heard = Outbox::new();
                mesh.nodes[to].handle(mesh.now, other, message, &mut heard);
                mesh.hear(to, heard);
            }
        }
        mesh.run(secs(1));
    }
    let told = |node: usize| mesh.events[node].iter().filter(|event| matches!(event, Event::Doubled)).count();
    assert_eq!((told(0), told(copy)), (1, 0), "once, and by the first alone");
}

#[test]
fn a_missed_push_is_repaired_by_comparing_notes() {
    let mut mesh = Mesh::of(3);
    mesh.connect(0, 1);
    mesh.connect(1, 2);
    mesh.run(secs(5));
    mesh.nodes[0].set_candidates(mesh.now, candidate(1));
    // Everything in flight is lost for a while.
    mesh.now += secs(1);
    for node in 0..3 {
        let now = mesh.now;
        mesh.nodes[node].handle_timeout(now, &mut Outbox::new());
    }
    assert_ne!(mesh.seen(2, 0).candidates, candidate(1));
    mesh.run(DIGEST_EVERY * 5);
    assert_eq!(mesh.seen(2, 0).candidates, candidate(1));
}

#[test]
fn a_quiet_mesh_in_agreement_sends_digests_and_nothing_else() {
    let mut mesh = Mesh::of(2);
    mesh.connect(0, 1);
    mesh.run(secs(5));
    let before = mesh.carried;
    mesh.run(secs(100));
    let sent = mesh.carried - before;
    assert!((6..=8).contains(&sent), "{sent} messages");
}

#[test]
fn forged_records_are_counted_and_teach_nothing() {
    let mut mesh = Mesh::of(2);
    mesh.connect(0, 1);
    let forged = example().sign(&key(9), &self::mesh());
    let foreign = Record { node: id(9), ..example() }.sign(&key(9), &MeshId([9; 32]));
    let mut later = example().sign(&key(1), &self::mesh()).bytes().to_vec();
    later[0] = 2;
    let good = Record { node: id(5), ..example() }.sign(&key(5), &self::mesh());
    let items = vec![
        (0, forged.bytes().clone()),
        (0, foreign.bytes().clone()),
        (0, later.into()),
        (0, vec![1, 2, 3].into()),
        (u32::MAX, Record { node: id(6), ..example() }.sign(&key(6), &self::mesh()).bytes().clone()),
        (1, good.bytes().clone()),
    ];
    let mut out = Outbox::new();
    mesh.nodes[0].handle(mesh.now, id(2), Message::Records(Records { items }), &mut out);
    mesh.hear(0, out);
    let drops = mesh.drops[0];
    assert_eq!(drops.of(DropReason::BadRecord), 3, "forged, foreign, malformed");
    assert_eq!(drops.of(DropReason::UnknownControl), 1, "a later version is skipped");
    assert_eq!(drops.of(DropReason::OldRecord), 1, "too old");
    let known: Vec<_> = mesh.nodes[0].members().keys().copied().collect();
    assert_eq!(known.len(), 2);
    assert!(known.contains(&id(5)) && known.contains(&id(2)));
}

#[test]
fn a_full_table_refuses_newcomers_and_keeps_those_it_has() {
    let mut node = started(1, Time::ZERO, 1_700_000_000_000);
    let mut drops = DropCounts::default();
    for n in 0..MAX_MEMBERS + 10 {
        let mut secret = [3; 32];
        secret[..8].copy_from_slice(&(n as u64).to_be_bytes());
        let key = SigningKey::from_bytes(&secret);
        let record = Record::new(NodeId(key.verifying_key().to_bytes()), 1, "x");
        let signed = Record { seq: 1, ..record }.sign(&key, &mesh());
        let mut out = Outbox::new();
        let records = Records { items: vec![(0, signed.bytes().clone())] };
        node.handle(Time::ZERO, id(2), Message::Records(records), &mut out);
        drops.add(&out.take_drops());
    }
    assert_eq!(node.members().len(), MAX_MEMBERS);
    assert_eq!(drops.of(DropReason::TableFull), 10);
    // A digest of all that takes several messages, each below the limit and all without a gap.
    let mut out = Outbox::new();
    node.session_up(Time::ZERO, id(2), true, &mut out);
    let mut next = NodeId([0; 32]);
    let mut entries = 0;
    while let Some(event) = out.pop_event() {
        if let Event::Send { message: Message::Digest(digest), .. } = event {
            assert_eq!(digest.from, next);
            assert!(digest.entries.len() <= MAX_DIGEST_ENTRIES);
            let bytes = Control::Membership(Message::Digest(digest.clone())).encode();
            assert!(bytes.len() <= MAX_MESSAGE_BYTES);
            entries += digest.entries.len();
            next = successor(digest.to);
        }
    }
    assert_eq!(next, NodeId([0; 32]), "the last one ends where the first began");
    assert_eq!(entries, MAX_MEMBERS + 1);
    // Time forgets them all, and then the graves too.
    let mut out = Outbox::new();
    for n in 0..200u64 {
        node.handle_timeout(Time::ZERO + secs(n * 10), &mut out);
    }
    assert!(node.members().is_empty());
    assert_eq!(node.buried(), 0);
}

#[test]
fn a_verdict_is_summed_up_in_percent() {
    let verdict = Verdict { mapping: Mapping::None, confidence: 0.955, ..Verdict::UNKNOWN };
    assert_eq!(VerdictSummary::from(&verdict).confidence, 96);
    let beyond = Verdict { confidence: f32::NAN, ..Verdict::UNKNOWN };
    assert!(VerdictSummary::from(&beyond).confidence <= 100);
}
