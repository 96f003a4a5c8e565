//! The oracle against the book, and against brute force: a puncher that has every means the oracle assumes,
//! run on the model itself.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use net_mesh_proto::time::Time;

use super::*;
use crate::host::Families;
use crate::internet::Delivery;
use crate::nat::{Chain, Ports};
use crate::topology::Place;

const PORT: u16 = 4000;

/// Two hosts that do all they may: each pings every address it knows of the other one and answers every
/// ping to where it came from.
struct Punch<'a> {
    net: &'a mut Internet,
    now: Time,
    hosts: [HostId; 2],
    /// Who pings. The other one only answers.
    active: [bool; 2],
    known: [BTreeSet<SocketAddr>; 2],
    /// Where each ping went.
    pings: Vec<SocketAddr>,
    done: bool,
}

impl<'a> Punch<'a> {
    /// Learns both outside addresses from a public host and tells the other side.
    fn new(net: &'a mut Internet, hosts: [HostId; 2], active: [bool; 2]) -> Self {
        let server = net.add_behind(Nat::direct());
        let (any, there) = (unspecified(), SocketAddr::new(net.ips(server)[0], PORT));
        for host in [hosts[0], hosts[1], server] {
            net.bind(host, any).unwrap();
        }
        let mut now = Time::ZERO;
        let [of_a, of_b] = hosts.map(|host| {
            net.send(now, host, any, there, b"?".to_vec());
            now += Duration::from_secs(1);
            let reflexive = net.poll_delivery(now).map(|seen| seen.from);
            let local = SocketAddr::new(net.ips(host)[0], PORT);
            [Some(local), reflexive].into_iter().flatten().collect()
        });
        Self { net, now, hosts, active, known: [of_b, of_a], pings: Vec::new(), done: false }
    }

    /// Whether a ping was answered from the very address it went to: then that pair of addresses works both
    /// ways, and keeps working.
    fn succeeds(mut self) -> bool {
        for _ in 0..8 {
            for side in 0..2 {
                self.ping_all(side);
            }
            self.now += Duration::from_secs(1);
            while let Some(got) = self.net.poll_delivery(self.now) {
                self.hear(&got);
            }
        }
        self.done
    }

    fn ping_all(&mut self, side: usize) {
        for to in self.known[side].clone() {
            if self.active[side] {
                let id = u8::try_from(self.pings.len()).unwrap();
                self.pings.push(to);
                self.net.send(self.now, self.hosts[side], unspecified(), to, vec![b'P', side as u8, id]);
            }
        }
    }

    fn hear(&mut self, got: &Delivery) {
        let Some(side) = self.hosts.iter().position(|host| *host == got.host) else { return };
        let [kind, author, id] = got.payload[..] else { return };
        match kind {
            // Homes share private ranges, so a host may hear its own ping.
            b'P' if usize::from(author) != side => {
                self.known[side].insert(got.from);
                self.net.send(got.at, got.host, unspecified(), got.from, vec![b'A', author, id]);
            }
            b'A' if usize::from(author) == side => {
                self.done |= self.pings[usize::from(id)] == got.from;
            }
            _ => {}
        }
    }
}

fn unspecified() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT)
}

/// Holds the oracle to what the puncher achieves, with a rendezvous and without.
fn agree(what: &str, build: impl Fn(&mut Internet) -> [HostId; 2]) {
    let punched = |active| {
        let mut net = Internet::new(11);
        let hosts = build(&mut net);
        Punch::new(&mut net, hosts, active).succeeds()
    };
    let mut net = Internet::new(11);
    let [a, b] = build(&mut net);
    for (rendezvous, possible) in
        [(true, punched([true, true])), (false, punched([true, false]) || punched([false, true]))]
    {
        let outlook = pair(&net, a, b, Means { rendezvous, relay: true });
        assert_eq!(outlook.reach == Reach::Direct, possible, "{what}, rendezvous {rendezvous}: {outlook:?}");
        assert_eq!(pair(&net, b, a, Means { rendezvous, relay: true }), outlook, "{what}: both ways alike");
    }
}

fn chains() -> Vec<(String, Chain)> {
    let mut chains: Vec<(String, Chain)> = Vec::new();
    let both = |f: &mut dyn FnMut(Dependence, Dependence)| {
        for mapping in Dependence::ALL {
            Dependence::ALL.iter().for_each(|filtering| f(mapping, *filtering));
        }
    };
    both(&mut |m, f| chains.push((format!("{m:?}/{f:?}"), Nat::new(m, f).into())));
    let roaming = |m, f| Nat::new(m, f).with_pool(Pool::Arbitrary(200));
    both(&mut |m, f| chains.push((format!("{m:?}/{f:?} roaming"), roaming(m, f).into())));
    for filtering in Dependence::ALL {
        let wall = Nat { filtering, ..Nat::firewall() };
        chains.push((format!("firewall {filtering:?}"), wall.clone().into()));
        chains.push((format!("full cone behind firewall {filtering:?}"), [Nat::full_cone(), wall].into()));
    }
    chains.push(("direct".into(), Nat::direct()));
    chains.push(("carrier".into(), Nat::cgn()));
    let roaming_cone = Nat::full_cone().with_pool(Pool::Arbitrary(200));
    for outer in [Dependence::Address, Dependence::AddressAndPort] {
        let outer = Nat::new(outer, Dependence::Independent);
        for inner in [Nat::full_cone(), Nat::restricted_cone(), Nat::port_restricted(), roaming_cone.clone()]
        {
            let name = format!("{:?} {:?} behind {:?}", inner.filtering, inner.pool, outer.mapping);
            chains.push((name.clone(), [inner.clone(), outer.clone()].into()));
            chains.push((format!("{name}, swapped"), [outer.clone(), inner].into()));
        }
    }
    chains.push(("blocked".into(), Nat::udp_blocked().into()));
    chains
}

#[test]
fn brute_force_agrees_on_every_pair_of_chains() {
    let chains = chains();
    for (i, (name_a, a)) in chains.iter().enumerate() {
        for (name_b, b) in &chains[i..] {
            agree(&format!("{name_a} with {name_b}"), |net| [a, b].map(|c| net.add_behind(c.clone())));
        }
    }
}

#[test]
fn brute_force_agrees_on_hosts_that_share_boxes() {
    // Two hosts that roam over the same few IPs do meet, by luck, which the oracle does not count on.
    let lucky = |chain: &Chain| chain.0.iter().any(|nat| nat.pool != Pool::Paired(1));
    for (name, chain) in chains().into_iter().filter(|(_, chain)| !chain.0.is_empty() && !lucky(chain)) {
        agree(&format!("one network behind {name}"), |net| {
            let place = net.topology.add_chain(Place::Public, &chain);
            [net.add_host(place), net.add_host(place)]
        });
        for filtering in Dependence::ALL {
            let home = Chain::from(Nat::new(Dependence::Independent, filtering));
            for hairpin in [false, true] {
                let mut chain = chain.clone();
                chain.0.iter_mut().for_each(|nat| nat.hairpin = hairpin);
                agree(&format!("two {filtering:?} homes behind {name}, hairpin {hairpin}"), |net| {
                    let place = net.topology.add_chain(Place::Public, &chain);
                    let homes = [(), ()].map(|()| net.topology.add_chain(place, &home));
                    homes.map(|home| net.add_host(home))
                });
                agree(&format!("a host and a {filtering:?} home behind {name}, hairpin {hairpin}"), |net| {
                    let place = net.topology.add_chain(Place::Public, &chain);
                    let home = net.topology.add_chain(place, &home);
                    [net.add_host(place), net.add_host(home)]
                });
            }
        }
    }
}

#[test]
fn the_well_known_pairs_come_out_as_in_the_book() {
    use Reach::{Direct, None, Relayed};
    let restricted = || Chain::from(Nat::restricted_cone());
    let port_restricted = || Chain::from(Nat::port_restricted());
    let symmetric = || Chain::from(Nat::symmetric());
    for (a, b, introduced, alone) in [
        (Nat::direct(), symmetric(), Direct, Direct),
        (Nat::full_cone().into(), symmetric(), Direct, Direct),
        (restricted(), symmetric(), Direct, Relayed),
        (port_restricted(), port_restricted(), Direct, Relayed),
        (port_restricted(), symmetric(), Relayed, Relayed),
        (symmetric(), symmetric(), Relayed, Relayed),
        (Nat::firewall().into(), port_restricted(), Direct, Relayed),
        (Nat::cgn(), port_restricted(), Relayed, Relayed),
        (Nat::udp_blocked().into(), Nat::direct(), None, None),
    ] {
        let mut net = Internet::new(1);
        let [a, b] = [a, b].map(|chain| net.add_behind(chain));
        for (rendezvous, expected) in [(true, introduced), (false, alone)] {
            let with_relay = pair(&net, a, b, Means { rendezvous, relay: true });
            assert_eq!(with_relay.reach, expected, "{with_relay:?}");
            let without = pair(&net, a, b, Means { rendezvous, relay: false });
            assert_eq!(without.reach, if expected == Relayed { None } else { expected });
        }
    }
}

#[test]
fn the_nature_of_a_chain_is_its_most_dependent_mapping_and_strictest_filter() {
    use NatClass::{Direct, FullCone, PortRestricted, RestrictedCone, Symmetric};
    let restricted_wall = Nat { filtering: Dependence::Address, ..Nat::firewall() };
    let sequential = Nat::symmetric().with_ports(Ports::Sequential { step: 1 });
    for (chain, class, ports) in [
        (Nat::direct(), Direct, PortRule::Preserving),
        (Nat::full_cone().into(), FullCone, PortRule::Preserving),
        (Nat::restricted_cone().into(), RestrictedCone, PortRule::Preserving),
        (Nat::port_restricted().into(), PortRestricted, PortRule::Preserving),
        (Nat::firewall().into(), PortRestricted, PortRule::Preserving),
        (restricted_wall.into(), RestrictedCone, PortRule::Preserving),
        (Nat::symmetric().into(), Symmetric, PortRule::Random),
        ([Nat::full_cone(), Nat::restricted_cone()].into(), RestrictedCone, PortRule::Preserving),
        ([Nat::full_cone(), Nat::firewall()].into(), PortRestricted, PortRule::Preserving),
        ([sequential.clone(), Nat::full_cone()].into(), Symmetric, PortRule::Sequential),
        ([Nat::full_cone(), sequential].into(), Symmetric, PortRule::Sequential),
        (Nat::cgn(), Symmetric, PortRule::Random),
    ] {
        let mut net = Internet::new(1);
        let host = net.add_behind(chain.clone());
        let nature = actual(&net, host);
        assert_eq!((nature.class, nature.ports), (class, ports), "{chain:?}");
        assert!(!nature.udp_blocked);
    }
    let mut net = Internet::new(1);
    let host = net.add_behind(Nat::udp_blocked());
    assert!(actual(&net, host).udp_blocked);
}

#[test]
fn ipv6_on_both_sides_makes_symmetric_homes_direct_once_introduced() {
    let mut net = Internet::new(1);
    let [a, b, c] = [Families::Dual, Families::Dual, Families::V4].map(|families| {
        let nat = net.add_nat(Place::Public, Nat::symmetric());
        net.add_host_with(Place::Behind(nat), families)
    });
    let means = Means { rendezvous: true, relay: true };
    assert_eq!(pair(&net, a, b, means).reach, Reach::Direct);
    assert_eq!(pair(&net, a, c, means).reach, Reach::Relayed);
}
