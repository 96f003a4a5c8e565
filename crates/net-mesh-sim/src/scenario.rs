//! What happens to one node in a given place: runs that tests and the lab share.

use std::time::Duration;

use net_mesh_proto::nat::{NatClass, Verdict};
use net_mesh_proto::node::Event;

use crate::link::Link;
use crate::nat::Chain;
use crate::oracle;
use crate::world::World;

/// How a node fared that joined two public nodes and asked what its NAT does.
#[derive(Clone, Debug, PartialEq)]
pub struct Classification {
    /// What it said in the end, and what it missed.
    pub verdict: Verdict,
    /// What it missed, where an axis stayed unknown.
    pub missing: Option<&'static str>,
    /// From its start to the first verdict with both axes; `None` where it had none in time.
    pub took: Option<Duration>,
    /// What it ever said that is not true.
    pub wrong: Option<String>,
    /// The fingerprint of the whole run.
    pub trace: u64,
}

/// Lets a node behind `chain` join `helpers` public nodes and classify its NAT. Every access link, the
/// helpers' too, is `link`. Ends with the first verdict that has both axes, or after `limit`.
#[must_use]
pub fn classify(seed: u64, chain: &Chain, link: &Link, helpers: u32, limit: Duration) -> Classification {
    let mut world = World::seeded(seed).with_public_nodes_on(helpers, link);
    // The helpers know each other by then, as members of a mesh do.
    world.run_for(Duration::from_secs(5));
    let node = world.add_on(chain.clone(), link.clone());
    let started = world.now();
    let known = |world: &World| world.verdict(node).0.class() != NatClass::Unknown;
    let took = world.run_until(limit, known).then(|| world.now() - started);
    let (verdict, missing) = world.verdict(node);
    let nature = world.actual(node);
    let said = world.events(node).filter_map(|(_, event)| match event {
        Event::Classified { verdict, .. } => Some(verdict),
        _ => None,
    });
    let wrong = said.chain([&verdict]).find_map(|verdict| oracle::check(&nature, verdict).err());
    Classification { verdict, missing, took, wrong, trace: world.net().trace().hash() }
}
