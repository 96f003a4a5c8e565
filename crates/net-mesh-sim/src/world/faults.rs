//! What befalls the nodes of a world: plugs pulled, moves to other networks, NATs that forget, ways that are cut.
//!
//! A node hears of what its system would tell it: that its addresses or its default route changed, [`NOTICED`] later.
//! What happens farther away it has to find out.

use std::cmp::Reverse;
use std::time::Duration;

use net_mesh_proto::node::Input;

use super::machine::Machine;
use super::{NodeIx, World};
use crate::host::Families;
use crate::nat::Chain;
use crate::topology::{NatId, Place};

/// Between a change of a host's network and its node's hearing of it: systems tell within milliseconds, and whoever
/// listens waits a little for the rest of the change.
pub const NOTICED: Duration = Duration::from_millis(100);

impl World {
    /// Lets nothing pass from `from` to `to` by the straight way, or lets it pass again. Their other traffic, also
    /// with each other through third nodes, is not touched.
    pub fn set_cut(&mut self, from: NodeIx, to: NodeIx, cut: bool) {
        let (from, to) = (self.host(from), self.host(to));
        self.net.set_cut(from, to, cut);
    }

    /// The same in both directions.
    pub fn forbid(&mut self, a: NodeIx, b: NodeIx) {
        self.set_cut(a, b, true);
        self.set_cut(b, a, true);
    }

    /// Lets everything pass between two nodes again.
    pub fn allow(&mut self, a: NodeIx, b: NodeIx) {
        self.set_cut(a, b, false);
        self.set_cut(b, a, false);
    }

    /// Lets datagrams of at most `limit` bytes pass from `from` to `to` by the straight way; all where `None`.
    pub fn set_limit(&mut self, from: NodeIx, to: NodeIx, limit: Option<usize>) {
        let (from, to) = (self.host(from), self.host(to));
        self.net.set_limit(from, to, limit);
    }

    /// Holds back everything on a node's access link, both ways, for so long.
    pub fn stall(&mut self, ix: NodeIx, time: Duration) {
        self.net.stall(self.host(ix), self.now + time);
    }

    /// Pulls the plug of the network that a node's packets leave through; that network.
    pub fn unplug(&mut self, ix: NodeIx) -> Place {
        let place = self.net.place(self.host(ix));
        self.net.set_plugged(self.host(ix), place, false);
        self.notice(ix);
        place
    }

    /// Plugs it in again.
    pub fn plug(&mut self, ix: NodeIx, place: Place) {
        self.net.set_plugged(self.host(ix), place, true);
        self.notice(ix);
    }

    /// Attaches a node to one more network on the public internet, behind new boxes; its packets leave where they did.
    pub fn attach(&mut self, ix: NodeIx, chain: impl Into<Chain>, families: Families) -> Place {
        let place = self.net.topology.add_chain(Place::Public, &chain.into());
        self.net.attach(self.host(ix), place, families);
        self.notice(ix);
        place
    }

    /// Lets a node's packets leave at `place`, where it is attached.
    pub fn set_default(&mut self, ix: NodeIx, place: Place) {
        self.net.set_default(self.host(ix), place);
        self.notice(ix);
    }

    /// Moves a node from the network it is in to another one, behind new boxes and with new addresses.
    pub fn roam(&mut self, ix: NodeIx, chain: impl Into<Chain>, families: Families) -> Place {
        let host = self.host(ix);
        let old = self.net.place(host);
        let new = self.net.topology.add_chain(Place::Public, &chain.into());
        self.net.attach(host, new, families);
        self.net.set_default(host, new);
        self.net.detach(host, old);
        self.notice(ix);
        new
    }

    /// The outermost box around a node.
    #[must_use]
    pub fn gateway(&self, ix: NodeIx) -> Option<NatId> {
        self.net.nats(self.host(ix)).last().copied()
    }

    /// All boxes around a node lose their tables; with `renumber` they come back with other external IPs.
    pub fn reboot_nats(&mut self, ix: NodeIx, renumber: bool) {
        for nat in self.net.nats(self.host(ix)) {
            self.net.reboot_nat(nat, renumber);
        }
    }

    /// All boxes around a node give every mapping another external port.
    pub fn rebind_nats(&mut self, ix: NodeIx) {
        for nat in self.net.nats(self.host(ix)) {
            self.net.rebind_nat(self.now, nat);
        }
    }

    /// A node hears of its network as it is, soon.
    pub fn notice(&mut self, ix: NodeIx) {
        self.notices.push(Reverse((self.now + NOTICED, ix)));
    }

    pub(super) fn tell_network(&mut self) {
        let Some(Reverse((_, ix))) = self.notices.pop() else { return };
        if let Some(machine) = &mut self.seats[ix.0 as usize].machine {
            machine.network_changed(&mut self.net, self.now);
            self.arm(ix);
            self.hear(ix);
        }
    }
}

impl Machine {
    /// Tells the node what its host's network is now.
    fn network_changed(&mut self, net: &mut crate::Internet, now: net_mesh_proto::time::Time) {
        let ips = net.ips(self.host).to_vec();
        self.bind_missing(net, &ips, 0);
        let [main, other] = self.all_ports();
        self.handle(net, now, Input::Network { ips, main, other });
    }
}

#[cfg(test)]
mod tests {
    use net_mesh_proto::node::Event;

    use super::*;
    use crate::{Nat, PathKind};

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn home(seed: u64, nat: Nat) -> (World, NodeIx) {
        let mut world = World::seeded(seed).with_public_nodes(2);
        let home = world.add(nat);
        world.run_for(secs(20));
        (world, home)
    }

    fn reflexive(world: &World, ix: NodeIx) -> Vec<std::net::IpAddr> {
        let mut said = world.events(ix).filter_map(|(_, event)| match event {
            Event::Reflexive(addrs) => Some(addrs.iter().map(|addr| addr.ip()).collect()),
            _ => None,
        });
        said.next_back().unwrap_or_default()
    }

    #[test]
    fn a_node_that_moved_hears_of_its_new_network_and_learns_its_new_address() {
        let (mut world, home) = home(1, Nat::port_restricted());
        let before = reflexive(&world, home);
        world.roam(home, Nat::full_cone(), Families::V4);
        world.run_for(secs(60));
        let gateway = world.gateway(home).unwrap();
        assert_ne!(reflexive(&world, home), before);
        assert_eq!(reflexive(&world, home), world.net().external_ips(gateway));
        assert_eq!(world.path(home, NodeIx(0)), PathKind::Direct);
    }

    #[test]
    fn an_unplugged_node_says_nothing_and_a_replugged_one_is_heard_again() {
        let (mut world, home) = home(2, Nat::port_restricted());
        let place = world.unplug(home);
        world.run_for(secs(1));
        world.publish(home, NodeIx(0), 1);
        let sent = |world: &World| world.net().trace().counts().sent;
        let refused = |world: &World| world.net().trace().counts().lost(crate::Lost::NoSource);
        world.run_for(secs(5));
        assert!(!world.all_delivered() && refused(&world) > 0 && sent(&world) > refused(&world));
        world.plug(home, place);
        assert!(world.run_until(secs(60), World::all_delivered));
    }

    #[test]
    fn a_limit_on_a_pair_stops_its_handshakes_and_nobody_elses() {
        let mut world = World::seeded(3).with_public_nodes(1);
        let [a, b] = [(), ()].map(|()| {
            let join = world.address(NodeIx(0)).into_iter().collect();
            world.add_with(crate::world::Spec { join, full_mesh: 0, relays: false, ..Default::default() })
        });
        world.set_limit(a, b, Some(600));
        world.set_limit(b, a, Some(600));
        world.connect(a, b).run_for(secs(20));
        assert_eq!(world.path(a, NodeIx(0)), PathKind::Direct);
        assert!(world.net().trace().counts().lost(crate::Lost::Cut) > 0);
    }
}
