//! What breaks, when, and for how long: drawn from a seed.

use std::fmt;
use std::time::Duration;

use net_mesh_proto::rng::Rng;
use net_mesh_sim::nat::Ports;
use net_mesh_sim::{Families, Link, Nat, NodeIx, Place, World};

use super::common::secs;

/// From the first fault until all have healed.
pub(super) const FAULTS_LAST: Duration = secs(100);

/// Faults of one schedule.
const FAULTS: u64 = 12;

/// When the last fault begins, at most, and how long the longest lasts.
const BEGIN_BEFORE: u64 = 60_000;
const LONGEST: u64 = 40_000;

/// Datagrams above this are lost where only large ones are.
const LARGE: usize = 600;

/// One thing that goes wrong.
#[derive(Clone, Debug)]
enum Kind {
    /// These are cut off from all others.
    Partition(Vec<NodeIx>),
    /// Nothing passes from the one to the other.
    OneWay(NodeIx, NodeIx),
    /// Nothing large does.
    LargeLost(NodeIx, NodeIx),
    /// Nothing passes either way.
    BlackHole(NodeIx, NodeIx),
    /// A link holds everything back.
    Stall(NodeIx),
    /// A link loses everything again and again.
    Bursts(NodeIx),
    Unplugged(NodeIx),
    /// The node crashes, and starts again.
    Restart(NodeIx),
    /// It moves to another network.
    Roam(NodeIx, Nat),
    /// It has a second network, and its packets leave there for a while.
    DefaultRoute(NodeIx, Nat),
    Flush(NodeIx),
    Renumber(NodeIx),
    Rebind(NodeIx),
    /// Its NAT becomes another one for a while.
    Become(NodeIx, Nat),
}

#[derive(Clone, Debug)]
struct Fault {
    /// Milliseconds from the first instant.
    at: u64,
    until: u64,
    kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) struct Schedule(Vec<Fault>);

/// Any of the usual NATs.
pub(super) fn some_nat(rng: &mut Rng) -> Nat {
    match rng.below(6) {
        0 => Nat::full_cone(),
        1 => Nat::restricted_cone(),
        2 => Nat::symmetric(),
        3 => Nat::firewall(),
        4 => Nat::port_restricted().with_ports(Ports::Random),
        _ => Nat::port_restricted(),
    }
}

fn some_translator(rng: &mut Rng) -> Nat {
    loop {
        let nat = some_nat(rng);
        if nat.translates() {
            return nat;
        }
    }
}

impl Schedule {
    pub(super) fn draw(seed: u64, world: &World, pairs: &[(NodeIx, NodeIx)]) -> Self {
        let mut rng = Rng::from_u64(seed).fork("faults");
        let mut faults: Vec<Fault> = (0..FAULTS)
            .map(|_| {
                let at = rng.below(BEGIN_BEFORE);
                let until = at + 500 + rng.below(LONGEST - 500);
                Fault { at, until, kind: Kind::draw(&mut rng, world, pairs) }
            })
            .collect();
        faults.sort_by_key(|fault| fault.at);
        // Of one node, one at a time is unplugged, restarted or moved: what heals must be what broke.
        let mut kept: Vec<Fault> = Vec::new();
        for fault in faults {
            let node = fault.kind.node();
            let clashes =
                |other: &Fault| node.is_some() && other.kind.node() == node && other.until + 1_000 > fault.at;
            if !kept.iter().any(clashes) {
                kept.push(fault);
            }
        }
        Self(kept)
    }

    /// Lets it all happen; afterwards everything has healed.
    pub(super) fn carry_out(&self, world: &mut World) {
        let began = world.now();
        let mut due: Vec<(u64, usize, bool)> =
            self.0.iter().enumerate().flat_map(|(i, f)| [(f.at, i, true), (f.until, i, false)]).collect();
        due.sort_unstable();
        let mut places = vec![None; self.0.len()];
        for (at, i, begins) in due {
            let passed = world.now() - began;
            world.run_for(Duration::from_millis(at).saturating_sub(passed));
            let kind = &self.0[i].kind;
            if begins {
                places[i] = kind.begin(world, Duration::from_millis(self.0[i].until - at));
            } else {
                kind.end(world, places[i]);
                // Of two cuts of a pair the other one may still be on.
                let still = self.0.iter().filter(|fault| fault.at < at && fault.until > at);
                still.for_each(|fault| fault.kind.cut(world, true));
            }
        }
    }
}

impl Kind {
    fn draw(rng: &mut Rng, world: &World, pairs: &[(NodeIx, NodeIx)]) -> Self {
        let some = |rng: &mut Rng| NodeIx(u32::try_from(rng.below(u64::from(world.len()))).unwrap());
        // Faults where nobody talks test nothing.
        let pair = pairs[usize::try_from(rng.below(pairs.len() as u64)).unwrap()];
        let (a, b) = if rng.chance(0.5) { pair } else { (pair.1, pair.0) };
        let home = if world.gateway(a).is_some() { a } else { b };
        match rng.below(16) {
            0 => {
                let count = 1 + rng.below(u64::from(world.len() / 2));
                let mut side: Vec<NodeIx> = (0..count).map(|_| some(rng)).collect();
                side.sort_unstable();
                side.dedup();
                Self::Partition(side)
            }
            1 => Self::OneWay(a, b),
            2 => Self::LargeLost(a, b),
            3 => Self::BlackHole(a, b),
            4 => Self::Stall(a),
            5 => Self::Bursts(a),
            6 => Self::Unplugged(a),
            7 => Self::Restart(a),
            // The public ones relay.
            8 | 9 => Self::Restart(NodeIx(u32::try_from(rng.below(4)).unwrap())),
            10 => Self::Roam(home, some_nat(rng)),
            11 => Self::DefaultRoute(home, some_nat(rng)),
            12 => Self::Flush(home),
            13 => Self::Renumber(home),
            14 => Self::Rebind(home),
            _ => Self::Become(home, some_translator(rng)),
        }
    }

    /// The node whose host or network it changes.
    fn node(&self) -> Option<NodeIx> {
        match self {
            Self::Partition(_) | Self::OneWay(..) | Self::LargeLost(..) | Self::BlackHole(..) => None,
            Self::Stall(ix)
            | Self::Bursts(ix)
            | Self::Unplugged(ix)
            | Self::Restart(ix)
            | Self::Roam(ix, _)
            | Self::DefaultRoute(ix, _)
            | Self::Flush(ix)
            | Self::Renumber(ix)
            | Self::Rebind(ix)
            | Self::Become(ix, _) => Some(*ix),
        }
    }

    /// Cuts what it cuts, or heals it.
    fn cut(&self, world: &mut World, on: bool) {
        match self {
            Self::Partition(side) => {
                for a in side {
                    for b in (0..world.len()).map(NodeIx).filter(|b| !side.contains(b)) {
                        world.set_cut(*a, b, on);
                        world.set_cut(b, *a, on);
                    }
                }
            }
            Self::OneWay(a, b) => world.set_cut(*a, *b, on),
            Self::LargeLost(a, b) => world.set_limit(*a, *b, on.then_some(LARGE)),
            Self::BlackHole(a, b) => {
                world.set_cut(*a, *b, on);
                world.set_cut(*b, *a, on);
            }
            _ => {}
        }
    }

    fn begin(&self, world: &mut World, lasts: Duration) -> Option<(Place, Place)> {
        self.cut(world, true);
        match self {
            Self::Stall(ix) => world.stall(*ix, lasts.min(secs(3))),
            Self::Bursts(ix) => world.set_link(*ix, &Link::bursty()),
            Self::Unplugged(ix) => {
                let place = world.unplug(*ix);
                return Some((place, place));
            }
            Self::Restart(ix) => world.crash(*ix),
            Self::Roam(ix, nat) => _ = world.roam(*ix, nat.clone(), Families::V4),
            Self::DefaultRoute(ix, nat) => {
                let first = world.net().place(world.host(*ix));
                let second = world.attach(*ix, nat.clone(), Families::V4);
                world.set_default(*ix, second);
                return Some((first, second));
            }
            Self::Flush(ix) => world.reboot_nats(*ix, false),
            Self::Renumber(ix) => world.reboot_nats(*ix, true),
            Self::Rebind(ix) => world.rebind_nats(*ix),
            Self::Become(ix, nat) => {
                if let Some(gateway) = world.gateway(*ix) {
                    world.net_mut().change_nat(gateway, nat.clone());
                }
            }
            Self::Partition(_) | Self::OneWay(..) | Self::LargeLost(..) | Self::BlackHole(..) => {}
        }
        None
    }

    fn end(&self, world: &mut World, places: Option<(Place, Place)>) {
        self.cut(world, false);
        match (self, places) {
            (Self::Bursts(ix), _) => world.set_link(*ix, &Link::default()),
            (Self::Unplugged(ix), Some((place, _))) => world.plug(*ix, place),
            (Self::Restart(ix), _) => world.start(*ix),
            (Self::DefaultRoute(ix, _), Some((first, second))) => {
                world.set_default(*ix, first);
                let host = world.host(*ix);
                world.net_mut().detach(host, second);
                world.notice(*ix);
            }
            _ => {}
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Fault { at, until, kind } in &self.0 {
            writeln!(f, "  {at:>6} to {until:>6} ms: {kind:?}")?;
        }
        Ok(())
    }
}

/// Prints the schedule of a seed that panics.
pub(super) struct PrintOnPanic(pub(super) u64, pub(super) String);

impl Drop for PrintOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("faults of seed {}:\n{}", self.0, self.1);
        }
    }
}
