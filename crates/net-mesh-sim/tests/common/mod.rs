//! What the tests of pairs share: who should reach whom how, and what became of it.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::time::Duration;

use net_mesh_proto::time::Time;
use net_mesh_sim::oracle::{Means, Outlook};
use net_mesh_sim::world::Spec;
use net_mesh_sim::{Chain, Link, NodeIx, PathKind, World};

/// Everything that members do for each other.
pub(crate) const ALL_MEANS: Means = Means { rendezvous: true, relay: true };

/// How exactly the instant is known at which a path came about.
const LOOK: Duration = Duration::from_millis(10);

pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Joins through the first public node, and keeps no session that nobody asks for but those with anchors.
pub(crate) fn member(world: &World, chain: impl Into<Chain>, link: &Link) -> Spec {
    let first = (!world.is_empty()).then_some(NodeIx(0));
    let join = first.and_then(|ix| world.address(ix)).into_iter().collect();
    Spec { chain: chain.into(), link: link.clone(), join, full_mesh: 0, ..Spec::default() }
}

/// A world with so many public nodes that have found each other.
pub(crate) fn with_public(seed: u64, count: u32, link: &Link) -> World {
    let mut world = World::seeded(seed);
    for _ in 0..count {
        let spec = member(&world, Chain::default(), link);
        world.add_with(spec);
    }
    world.run_for(secs(5));
    world
}

/// One node that has something to say to another one, and how that went.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) from: NodeIx,
    pub(crate) to: NodeIx,
    pub(crate) outlook: Outlook,
    pub(crate) said: Time,
    /// From then until the path was as good as the oracle says.
    pub(crate) took: Option<Duration>,
}

impl Pair {
    /// Lets `from` say something to `to`.
    pub(crate) fn publish(world: &mut World, from: NodeIx, to: NodeIx) -> Self {
        let outlook = world.outlook(from, to, ALL_MEANS);
        let said = world.now();
        world.publish(from, to, 1);
        let mut pair = Self { from, to, outlook, said, took: None };
        pair.look(world);
        pair
    }

    pub(crate) fn wanted(&self) -> PathKind {
        self.outlook.reach.into()
    }

    pub(crate) fn look(&mut self, world: &World) {
        if self.took.is_none() && world.path(self.from, self.to) == self.wanted() {
            self.took = Some(world.now() - self.said);
        }
    }

    /// From the publication to the arrival.
    pub(crate) fn first(&self, world: &World) -> Option<Duration> {
        world.flow(self.from, self.to).and_then(|flow| flow.first)
    }
}

/// Lets time pass and looks at the pairs.
pub(crate) fn watch(world: &mut World, time: Duration, pairs: &mut [Pair]) {
    let end = world.now() + time;
    while world.now() < end {
        world.run_for(LOOK.min(end - world.now()));
        pairs.iter_mut().for_each(|pair| pair.look(world));
    }
}

/// The same until every pair is as the oracle says and has delivered, for `limit` at most.
pub(crate) fn settle(world: &mut World, limit: Duration, pairs: &mut [Pair]) -> bool {
    let end = world.now() + limit;
    let settled = |world: &World, pair: &Pair| {
        pair.took.is_some() && (pair.wanted() == PathKind::None || pair.first(world).is_some())
    };
    while !pairs.iter().all(|pair| settled(world, pair)) {
        if world.now() >= end {
            return false;
        }
        watch(world, LOOK, pairs);
    }
    true
}

/// A pair's story, for failure messages.
pub(crate) fn story(world: &World, pair: &Pair) -> String {
    let (from, to) = (pair.from, pair.to);
    let events: Vec<String> = [from, to]
        .iter()
        .map(|ix| {
            let of_peer = |other: NodeIx| {
                let id = world.id(other).map(|id| format!("{id:?}")).unwrap_or_default();
                move |event: &String| event.contains(&id)
            };
            let other = if *ix == from { to } else { from };
            let events = world.events(*ix).map(|(at, event)| format!("{at:?} {event:?}"));
            let mut told: Vec<String> = events.filter(of_peer(other)).collect();
            told.drain(..told.len().saturating_sub(12));
            format!("{ix:?} {:?}:\n  {}", world.verdict(*ix).0.class(), told.join("\n  "))
        })
        .collect();
    format!(
        "{from:?} to {to:?} is {:?} via {:?}, said at {:?}, should be {:?}; flow {:?}\n{}",
        world.path(from, to),
        world.via(from, to),
        pair.said,
        pair.outlook,
        world.flow(from, to),
        events.join("\n")
    )
}
