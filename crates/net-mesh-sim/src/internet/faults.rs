//! What goes wrong on the internet, and comes right again: cut ways, pulled plugs, hosts that move, NATs that forget.
//!
//! Faults of a link as such (loss, bursts, stalls, cuts of everything) are rules of that [`Link`](crate::Link).

use net_mesh_proto::time::Time;

use super::Internet;
use crate::host::{Families, HostId};
use crate::nat::Nat;
use crate::topology::{NatId, Place};

impl Internet {
    /// Lets nothing pass from `from` to `to`, or lets it pass again. Packets are lost at the end of their way, so
    /// NATs see them.
    pub fn set_cut(&mut self, from: HostId, to: HostId, cut: bool) {
        self.set_limit(from, to, cut.then_some(0));
    }

    /// Lets datagrams of at most `limit` bytes pass from `from` to `to`, and no larger ones; all where `None`. Lost at
    /// the end of their way, too.
    pub fn set_limit(&mut self, from: HostId, to: HostId, limit: Option<usize>) {
        match limit {
            Some(limit) => _ = self.cuts.insert((from, to), limit),
            None => _ = self.cuts.remove(&(from, to)),
        }
    }

    /// Holds back everything on a host's access link, both ways, until then.
    pub fn stall(&mut self, host: HostId, until: Time) {
        let host = self.topology.host_mut(host);
        host.up.stall(until);
        host.down.stall(until);
    }

    /// Pulls a host's plug at `place`, or plugs it in again: meanwhile it does not have its addresses there.
    pub fn set_plugged(&mut self, host: HostId, place: Place, plugged: bool) {
        let realm = self.topology.place(place);
        self.topology.host_mut(host).set_plugged(realm, plugged);
    }

    /// Attaches a host to one more network, with new addresses. Its packets still leave where they did.
    pub fn attach(&mut self, host: HostId, place: Place, families: Families) {
        self.topology.attach(host, place, families);
    }

    /// Takes a host off a network for good, unless it is the only one it has.
    pub fn detach(&mut self, host: HostId, place: Place) {
        self.topology.detach(host, place);
    }

    /// Lets a host's packets leave at `place` from now on, where it is attached: its default route moves.
    pub fn set_default(&mut self, host: HostId, place: Place) {
        let realm = self.topology.place(place);
        self.topology.host_mut(host).prefer(realm);
    }

    /// Where a host's packets leave.
    #[must_use]
    pub fn place(&self, host: HostId) -> Place {
        let realm = self.topology.host(host).realm();
        self.topology.realm(realm).owner.map_or(Place::Public, Place::Behind)
    }

    /// A NAT loses its table; with `renumber` it comes back with other external IPs.
    pub fn reboot_nat(&mut self, nat: NatId, renumber: bool) {
        self.topology.reboot(nat, renumber);
    }

    /// A NAT gives every mapping another external port, and admits only whom is sent to through the new ones.
    pub fn rebind_nat(&mut self, now: Time, nat: NatId) {
        self.topology.gate_mut(nat).table.rebind(now);
    }

    /// A NAT forgets everything and behaves like `rule` from now on. It stays what it is: a translator with its
    /// addresses inside and outside, or a firewall.
    pub fn change_nat(&mut self, nat: NatId, rule: Nat) {
        self.topology.gate_mut(nat).table.change(rule);
    }

    /// What a NAT is told to do.
    #[must_use]
    pub fn nat(&self, nat: NatId) -> &Nat {
        self.topology.gate(nat).table.rule()
    }
}

#[cfg(test)]
mod tests;
