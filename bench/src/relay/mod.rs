//! Datagrams forwarded by one relay on one core: a node of net-mesh against a bare loop around
//! `recvmmsg` and `sendmmsg` (with GRO and GSO, and without) and against coturn.
//!
//! Senders and receivers share the other core. Every contestant gets the same load in turn, round by round.
//! Counted is what arrives.

mod cpu;
mod load;
mod mmsg;
mod relays;
mod turn;

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::usage::median;
use load::Pair;
use relays::{HEADER, Relay, Way};

const RELAY_CORE: usize = 0;
const LOAD_CORE: usize = 1;

const ROUNDS: usize = 5;
const WARM_UP: Duration = Duration::from_millis(100);
const ROUND: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Contestant {
    NetMesh,
    BareRuns,
    Bare,
    Coturn,
}

const CONTESTANTS: [Contestant; 4] =
    [Contestant::BareRuns, Contestant::NetMesh, Contestant::Bare, Contestant::Coturn];

impl Contestant {
    fn name(self) -> &'static str {
        match self {
            Self::NetMesh => "net-mesh",
            Self::BareRuns => "bare mmsg, GRO+GSO",
            Self::Bare => "bare mmsg",
            Self::Coturn => "coturn",
        }
    }
}

/// Of one round: packets a second, packets a second of the relay's processor time, the share of its core that
/// it used, the share of datagrams lost.
#[derive(Clone, Copy)]
struct Figures {
    rate: f64,
    per_cpu: f64,
    busy: f64,
    lost: f64,
}

pub fn run() -> Result<()> {
    println!(
        "relay: one relay on core {RELAY_CORE}, load on core {LOAD_CORE} of {}, {ROUNDS} rounds of {ROUND:?} each",
        cpu::cores()
    );
    // Threads started later inherit the core, and those of relays choose their own.
    std::thread::spawn(|| {
        cpu::stay_on(LOAD_CORE);
        for payload in [64, 1200] {
            for pairs in [1, 32] {
                for batch in [1, 10, 50] {
                    row(payload, pairs, batch)?;
                }
            }
        }
        anyhow::Ok(())
    })
    .join()
    .expect("the load panicked")
}

fn row(payload: usize, pairs: usize, batch: usize) -> Result<()> {
    println!("  {payload} B, {pairs} pairs, batches of {batch}:");
    let mut all: Vec<Vec<Figures>> = vec![Vec::new(); CONTESTANTS.len()];
    for _ in 0..ROUNDS {
        for (contestant, figures) in CONTESTANTS.iter().zip(&mut all) {
            figures.extend(round(*contestant, payload, pairs, batch)?);
        }
    }
    let middle = |figures: &[Figures], pick: fn(&Figures) -> f64| median(figures.iter().map(pick).collect());
    let ours = &all[1];
    for (contestant, figures) in CONTESTANTS.iter().zip(&all) {
        if figures.is_empty() {
            println!("    {:<19} not installed (Debian: coturn)", contestant.name());
            continue;
        }
        let rate = middle(figures, |f| f.rate);
        println!(
            "    {:<19} {:6.3} M packets/s  {:6.2} Gbit/s  {:6.3} M per second of processor ({:3.0} % busy, {:.1} % lost)  \
             net-mesh has {:.0} % ({:.0} % per processor)",
            contestant.name(),
            rate / 1e6,
            rate * payload as f64 * 8.0 / 1e9,
            middle(figures, |f| f.per_cpu) / 1e6,
            100.0 * middle(figures, |f| f.busy),
            100.0 * middle(figures, |f| f.lost),
            100.0 * middle(ours, |f| f.rate) / rate,
            100.0 * middle(ours, |f| f.per_cpu) / middle(figures, |f| f.per_cpu),
        );
    }
    Ok(())
}

/// `None` if the contestant is not installed.
fn round(contestant: Contestant, payload: usize, pairs: usize, batch: usize) -> Result<Option<Figures>> {
    let pairs = (0..pairs).map(|_| Pair::new()).collect::<Result<Vec<_>>>()?;
    let ways: Vec<Way> = pairs
        .iter()
        .enumerate()
        .map(|(i, pair)| {
            let i = i as u64;
            // Labels are random in earnest; these only have to differ.
            Way { label: !i.rotate_left(32), from: pair.from, to: pair.to, out: i.swap_bytes() | 1 }
        })
        .collect();
    let relay = match contestant {
        Contestant::NetMesh => relays::node(&ways)?,
        Contestant::BareRuns => relays::bare(&ways, true)?,
        Contestant::Bare => relays::bare(&ways, false)?,
        Contestant::Coturn => match relays::coturn()? {
            Some(relay) => relay,
            None => return Ok(None),
        },
    };
    for pair in &pairs {
        pair.sender.connect(relay.addr)?;
    }
    let body = vec![0x5a; payload];
    let frame = |label: u64| [&[0x80][..], &label.to_be_bytes(), &body].concat();
    let (datagrams, expected): (Vec<_>, Vec<_>) = if contestant == Contestant::Coturn {
        for pair in &pairs {
            turn::open(&pair.sender, pair.to)?;
        }
        pairs.iter().map(|_| ([&turn::header(payload)[..], &body].concat(), body.clone())).unzip()
    } else {
        debug_assert_eq!(frame(0).len(), HEADER + payload);
        ways.iter().map(|way| (frame(way.label), frame(way.out))).unzip()
    };
    load::check(&pairs, &datagrams, &expected)?;
    load::run(&pairs, &datagrams, batch, WARM_UP)?;
    measure(&relay, &pairs, &datagrams, batch).map(Some)
}

fn measure(relay: &Relay, pairs: &[Pair], datagrams: &[Vec<u8>], batch: usize) -> Result<Figures> {
    let (start, cpu) = (Instant::now(), relay.clock.now());
    let counts = load::run(pairs, datagrams, batch, ROUND)?;
    let (wall, cpu) = (start.elapsed().as_secs_f64(), (relay.clock.now() - cpu).as_secs_f64());
    let arrived = counts.arrived as f64;
    Ok(Figures {
        rate: arrived / wall,
        per_cpu: arrived / cpu,
        busy: cpu / wall,
        // What the warm-up left behind may arrive on top.
        lost: (1.0 - arrived / counts.sent as f64).max(0.0),
    })
}
