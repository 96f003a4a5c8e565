//! Whatever arrives, nothing panics, nothing gets lost without a count, and nobody gets what is another's.

use net_mesh_proto::route::CircuitId;
use proptest::prelude::*;

use super::relaying::{addr, end, forward, frame};
use super::*;

/// What a datagram of a generated buffer is.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// QUIC straight from the relay's address.
    Direct,
    /// QUIC over circuit 1 or 2.
    Circuit(u64),
    /// For another node.
    Forward,
    /// A label that nobody knows.
    Unknown,
    /// A ping over circuit 1.
    Ping,
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Direct),
        Just(Kind::Circuit(1)),
        Just(Kind::Circuit(2)),
        Just(Kind::Forward),
        Just(Kind::Unknown),
        Just(Kind::Ping),
    ]
}

/// A datagram of `len` bytes whose payload says what it is.
fn datagram(kind: Kind, len: usize) -> Vec<u8> {
    let payload = |first: u8| vec![first; len - 9];
    match kind {
        Kind::Direct => vec![b'D'; len],
        Kind::Circuit(1) => frame(5, &payload(b'A')),
        Kind::Circuit(_) => frame(7, &payload(b'B')),
        Kind::Forward => frame(9, &payload(b'F')),
        Kind::Unknown => frame(77, &payload(b'U')),
        Kind::Ping => frame(5, &payload(0x81)),
    }
}

fn node() -> (Bench, [SlotId; 3]) {
    let bench = bench();
    bench.socket.apply(end(5, addr(1), 1, 6));
    bench.socket.apply(end(7, addr(1), 2, 8));
    bench.socket.apply(forward(9, addr(1), addr(2), 10));
    let circuit = |n| Route::Relayed(CircuitId(n));
    // Not a session: what has an unknown label is dropped at once, and counted.
    let direct = bench.socket.slots().dial(None, &[Route::Direct(addr(1))]).unwrap();
    let slots = [direct, bench.session(circuit(1), 2), bench.session(circuit(2), 3)];
    (bench, slots)
}

fn dropped(bench: &Bench) -> usize {
    let all = DropReason::ALL.iter().map(|reason| bench.drops.of(*reason)).sum::<u64>();
    usize::try_from(all).unwrap()
}

proptest! {
    #[test]
    fn every_datagram_of_every_mix_gets_where_it_belongs(
        rounds in prop::collection::vec(
            prop::collection::vec((prop::collection::vec(kind(), 1..20), 11..60usize, 10..60usize), 1..4),
            1..4,
        )
    ) {
        let (mut bench, [direct, first, second]) = node();
        let mut expected = std::collections::BTreeMap::<u8, usize>::new();
        for round in rounds {
            let mut arrivals = Vec::new();
            for (kinds, stride, last) in round {
                let mut bytes = Vec::new();
                for (i, kind) in kinds.iter().enumerate() {
                    let len = if i + 1 == kinds.len() { last.min(stride) } else { stride };
                    let datagram = datagram(*kind, len);
                    *expected.entry(datagram[len - 1]).or_default() += 1;
                    bytes.extend(datagram);
                }
                arrivals.push((addr(1), stride, bytes));
            }
            bench.arrive(arrivals);
        }
        let mut got = std::collections::BTreeMap::<u8, usize>::new();
        for (from, stride, bytes) in bench.poll_all() {
            let mark = match from {
                a if a == direct.addr() => b'D',
                a if a == first.addr() => b'A',
                a if a == second.addr() => b'B',
                other => panic!("nobody has {other}"),
            };
            for datagram in bytes.chunks(stride) {
                prop_assert!(datagram.iter().all(|b| *b == mark), "{mark} got {datagram:?}");
                *got.entry(mark).or_default() += 1;
            }
        }
        for sent in bench.sent() {
            prop_assert_eq!(sent.to, addr(2));
            for datagram in sent.bytes.chunks(sent.segment.unwrap_or(sent.bytes.len())) {
                let payload = vec![b'F'; datagram.len() - 9];
                prop_assert_eq!(datagram, frame(10, &payload));
                *got.entry(b'F').or_default() += 1;
            }
        }
        while bench.inbox.try_recv().is_ok() {
            *got.entry(0x81).or_default() += 1;
        }
        let unknown = dropped(&bench);
        if unknown > 0 {
            got.insert(b'U', unknown);
        }
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn arbitrary_bytes_end_somewhere_and_only_as_what_they_were(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0x80), Just(0), Just(5)], 0..400),
        stride in 0..40usize,
        known in any::<bool>(),
    ) {
        let (mut bench, [direct, first, second]) = node();
        let from = if known { addr(1) } else { addr(9) };
        bench.arrive(vec![(from, stride, bytes.clone())]);
        let stride = stride.max(1);
        let mut seen = 0;
        for (to, stride, got) in bench.poll_all() {
            prop_assert!([direct, first, second].map(SlotId::addr).contains(&to));
            for datagram in got.chunks(stride) {
                // As it came, or behind a header.
                let whole = |d: &[u8]| d == datagram && to == direct.addr();
                let relayed = |d: &[u8]| d.get(9..) == Some(datagram) && d[0] == 0x80 && to != direct.addr();
                prop_assert!(bytes.chunks(stride).any(whole) || bytes.chunks(stride + 9).any(relayed));
                seen += 1;
            }
        }
        while bench.inbox.try_recv().is_ok() {
            seen += 1;
        }
        let sent = bench.sent();
        seen += sent.iter().map(|s| s.bytes.len().div_ceil(stride)).sum::<usize>();
        prop_assert_eq!(seen + dropped(&bench), bytes.len().div_ceil(stride).max(1));
    }
}
