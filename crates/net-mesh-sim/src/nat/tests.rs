//! Promises of the NAT model, one sentence each.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use net_mesh_proto::rng::Rng;
use net_mesh_proto::time::Time;

use super::table::Table;
use super::{Dependence, Inside, Kind, Nat, Pool, Ports};
use crate::host::{Families, HostId};
use crate::internet::{Delivery, Internet};
use crate::topology::Place;
use crate::trace::Lost;

const INSIDE: &str = "192.168.1.10:5000";
/// Two ports of one remote host, and another host.
const R1: &str = "198.18.9.1:100";
const R1_OTHER_PORT: &str = "198.18.9.1:200";
const R2: &str = "198.18.9.2:100";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn at(secs: u64) -> Time {
    Time::from_millis(secs * 1000)
}

fn table(nat: Nat) -> Table {
    let ips = (0..nat.pool.size()).map(|i| Ipv4Addr::new(198, 18, 0, 1 + i)).collect();
    Table::new(nat, ips, Rng::from_u64(3))
}

fn out(table: &mut Table, secs: u64, src: &str, dst: &str) -> SocketAddr {
    table.outbound(at(secs), addr(src), addr(dst)).unwrap()
}

#[test]
fn the_mapping_rule_alone_decides_who_sees_the_same_external_address() {
    for mapping in Dependence::ALL {
        for filtering in Dependence::ALL {
            let mut nat = table(Nat::new(mapping, filtering));
            let first = out(&mut nat, 0, INSIDE, R1);
            let same_ip = out(&mut nat, 0, INSIDE, R1_OTHER_PORT) == first;
            let other_ip = out(&mut nat, 0, INSIDE, R2) == first;
            let expected = match mapping {
                Dependence::Independent => (true, true),
                Dependence::Address => (true, false),
                Dependence::AddressAndPort => (false, false),
            };
            assert_eq!((same_ip, other_ip), expected, "{mapping:?} {filtering:?}");
            assert_eq!(out(&mut nat, 1, INSIDE, R1), first, "and it stays the same");
        }
    }
}

#[test]
fn the_filtering_rule_alone_decides_who_may_send_in() {
    for mapping in Dependence::ALL {
        for filtering in Dependence::ALL {
            let mut nat = table(Nat::new(mapping, filtering));
            let external = out(&mut nat, 0, INSIDE, R1);
            let admits = |from| nat.inbound(at(1), addr(from), external) == Ok(addr(INSIDE));
            let admitted: Vec<bool> = [R1, R1_OTHER_PORT, R2].into_iter().map(admits).collect();
            let expected = match filtering {
                Dependence::Independent => [true, true, true],
                Dependence::Address => [true, true, false],
                Dependence::AddressAndPort => [true, false, false],
            };
            assert_eq!(admitted, expected, "{mapping:?} {filtering:?}");
        }
    }
}

#[test]
fn an_external_port_without_mapping_admits_nobody_even_of_a_full_cone() {
    let mut nat = table(Nat::full_cone());
    assert_eq!(nat.inbound(at(0), addr(R1), addr("198.18.0.1:5000")), Err(Lost::NoMapping));
}

#[test]
fn a_mapping_ends_when_nothing_went_out_for_its_idle_time() {
    let mut nat = table(Nat::full_cone());
    let external = out(&mut nat, 0, INSIDE, R1);
    out(&mut nat, 100, INSIDE, R1);
    assert!(nat.inbound(at(219), addr(R1), external).is_ok(), "outbound packets extend it");
    assert_eq!(nat.inbound(at(220), addr(R1), external), Err(Lost::NoMapping), "inbound ones do not");
    assert_eq!(nat.mappings(at(220)), 0);
}

#[test]
fn inbound_packets_extend_a_mapping_where_the_nat_counts_them() {
    let mut nat = table(Nat { refresh_inbound: true, ..Nat::port_restricted() });
    let external = out(&mut nat, 0, INSIDE, R1);
    assert!(nat.inbound(at(100), addr(R1), external).is_ok());
    assert!(nat.inbound(at(219), addr(R1), external).is_ok());
    assert!(nat.inbound(at(340), addr(R1), external).is_err());
}

#[test]
fn a_permission_ends_on_its_own_while_the_mapping_lives_on() {
    let mut nat = table(Nat::port_restricted());
    let external = out(&mut nat, 0, INSIDE, R1);
    out(&mut nat, 100, INSIDE, R2);
    assert_eq!(nat.inbound(at(130), addr(R1), external), Err(Lost::Filtered));
    assert!(nat.inbound(at(130), addr(R2), external).is_ok());
}

#[test]
fn an_absolute_lifetime_ends_a_mapping_in_full_use() {
    let lifetime = Some(Duration::from_secs(60));
    let mut nat = table(Nat { lifetime, ..Nat::full_cone().with_ports(Ports::Sequential { step: 1 }) });
    let external = out(&mut nat, 0, INSIDE, R1);
    assert_eq!(out(&mut nat, 59, INSIDE, R1), external);
    assert_eq!(nat.inbound(at(60), addr(R1), external), Err(Lost::NoMapping));
    assert_ne!(out(&mut nat, 60, INSIDE, R1), external);
}

#[test]
fn ports_are_preserved_until_two_inside_hosts_want_the_same_one() {
    let mut nat = table(Nat::port_restricted());
    let first = out(&mut nat, 0, INSIDE, R1);
    let second = out(&mut nat, 0, "192.168.1.11:5000", R1);
    assert_eq!(first.port(), 5000);
    assert_ne!(second.port(), 5000);
    assert!(second.port() >= 1024);
}

#[test]
fn sequential_ports_rise_by_their_step_and_skip_those_in_use() {
    let ports = Ports::Sequential { step: 2 };
    let mut nat = table(Nat { ports, port_range: (2000, 2009), ..Nat::symmetric() });
    let seen: Vec<u16> =
        (1..=5).map(|p| out(&mut nat, 0, INSIDE, &format!("198.18.9.1:{p}")).port()).collect();
    assert!(seen.windows(2).all(|w| w[1] == w[0] + 2 || w[1] + 8 == w[0]), "{seen:?}");
    let full = nat.outbound(at(0), addr(INSIDE), addr("198.18.9.1:6"));
    assert_eq!(full, Err(Lost::NatFull), "an even step meets every second of ten ports only");
    assert!(
        nat.outbound(at(120), addr(INSIDE), addr("198.18.9.1:6")).is_ok(),
        "expired ports are free again"
    );
}

#[test]
fn a_full_table_drops_new_sessions_and_keeps_the_old_ones() {
    let mut nat = table(Nat { sessions: 2, ..Nat::symmetric() });
    let first = out(&mut nat, 0, INSIDE, R1);
    out(&mut nat, 0, INSIDE, R2);
    assert_eq!(nat.outbound(at(1), addr(INSIDE), addr(R1_OTHER_PORT)), Err(Lost::NatFull));
    assert_eq!(out(&mut nat, 1, INSIDE, R1), first);
    assert!(nat.outbound(at(121), addr(INSIDE), addr(R1_OTHER_PORT)).is_ok(), "R2's has expired");
}

#[test]
fn a_paired_pool_gives_a_host_one_ip_and_an_arbitrary_pool_any() {
    let ips = |pool| {
        let mut nat = table(Nat::symmetric().with_pool(pool));
        let mut seen: Vec<IpAddr> =
            (1..=40).map(|p| out(&mut nat, 0, INSIDE, &format!("198.18.9.1:{p}")).ip()).collect();
        seen.sort_unstable();
        seen.dedup();
        seen.len()
    };
    assert_eq!(ips(Pool::Paired(4)), 1);
    assert_eq!(ips(Pool::Arbitrary(4)), 4);
}

#[test]
fn a_knock_from_outside_costs_a_poisoned_nat_the_port_for_the_answer_only() {
    let mut nat = table(Nat::port_restricted().with_poison());
    assert!(nat.inbound(at(0), addr(R1), addr("198.18.0.1:5000")).is_err());
    assert_ne!(out(&mut nat, 1, INSIDE, R1).port(), 5000);
    assert_eq!(out(&mut nat, 1, INSIDE, R2).port(), 5000, "others see the usual port");
    assert_eq!(nat.inbound(at(1), addr(R2), addr("198.18.0.1:5000")), Ok(addr(INSIDE)));

    let mut early = table(Nat::port_restricted().with_poison());
    assert_eq!(out(&mut early, 0, INSIDE, R1).port(), 5000);
    assert!(early.inbound(at(0), addr(R2), addr("198.18.0.1:5000")).is_err());
    assert_ne!(out(&mut early, 1, INSIDE, R2).port(), 5000, "an open port can be knocked at too");
    assert_eq!(out(&mut early, 1, INSIDE, R1).port(), 5000);

    let mut late = table(Nat::port_restricted().with_poison());
    assert!(late.inbound(at(0), addr(R1), addr("198.18.0.1:5000")).is_err());
    assert_eq!(out(&mut late, 30, INSIDE, R1).port(), 5000, "a knock is forgotten after 30 s");
}

#[test]
fn a_firewall_keeps_addresses_and_admits_answers_only() {
    for filtering in Dependence::ALL {
        let mut wall = table(Nat { filtering, ..Nat::firewall() });
        let inside = "198.18.0.7:5000";
        let before = wall.inbound(at(0), addr(R1), addr(inside)).is_ok();
        assert_eq!(before, filtering == Dependence::Independent);
        assert_eq!(out(&mut wall, 0, inside, R1), addr(inside));
        let admits = |from| wall.inbound(at(1), addr(from), addr(inside)).is_ok();
        let admitted: Vec<bool> = [R1, R1_OTHER_PORT, R2].into_iter().map(admits).collect();
        assert_eq!(admitted.iter().filter(|a| **a).count(), 3 - filtering as usize);
    }
}

#[test]
fn blocked_udp_passes_in_neither_direction() {
    let mut wall = table(Nat::udp_blocked());
    assert_eq!(wall.outbound(at(0), addr(INSIDE), addr(R1)), Err(Lost::UdpBlocked));
    assert_eq!(wall.inbound(at(0), addr(R1), addr("198.18.0.1:5000")), Err(Lost::UdpBlocked));
}

#[test]
fn a_reboot_forgets_every_mapping() {
    let mut nat = table(Nat::full_cone());
    let external = out(&mut nat, 0, INSIDE, R1);
    nat.reboot(None);
    assert_eq!(nat.inbound(at(0), addr(R1), external), Err(Lost::NoMapping));
    assert_eq!(nat.mappings(at(0)), 0);
}

/// An internet under test, with a clock.
struct Lab {
    net: Internet,
    now: Time,
}

impl Lab {
    fn new() -> Self {
        Self { net: Internet::new(5), now: Time::ZERO }
    }

    fn bind(&mut self, host: HostId, port: u16) -> SocketAddr {
        self.net.bind(host, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)).unwrap()
    }

    /// Sends from port 5000 of `from`; what arrives within a second.
    fn send(&mut self, from: HostId, to: SocketAddr) -> Option<Delivery> {
        let local = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 5000);
        self.net.send(self.now, from, local, to, b"x".to_vec());
        self.now += Duration::from_secs(1);
        self.net.poll_delivery(self.now)
    }

    fn lost(&self, reason: Lost) -> u64 {
        self.net.trace().counts().lost(reason)
    }
}

fn server(lab: &mut Lab) -> (HostId, SocketAddr) {
    let host = lab.net.add_behind(Nat::direct());
    lab.bind(host, 5000);
    (host, SocketAddr::new(lab.net.ips(host)[0], 5000))
}

#[test]
fn two_hosts_behind_one_nat_reach_each_other_on_private_addresses() {
    let mut lab = Lab::new();
    let nat = lab.net.add_nat(Place::Public, Nat::symmetric());
    let (a, b) = (lab.net.add_host(Place::Behind(nat)), lab.net.add_host(Place::Behind(nat)));
    lab.bind(a, 5000);
    lab.bind(b, 5000);
    let arrived = lab.send(a, SocketAddr::new(lab.net.ips(b)[0], 5000)).unwrap();
    assert_eq!((arrived.host, arrived.from.ip()), (b, lab.net.ips(a)[0]));
    assert_eq!(lab.net.mappings(lab.now, nat), 0);
}

#[test]
fn a_hairpin_turns_packets_around_at_the_nat_with_the_external_source() {
    for hairpin in [false, true] {
        let mut lab = Lab::new();
        let nat = lab.net.add_nat(Place::Public, Nat { hairpin, ..Nat::full_cone() });
        let (a, b) = (lab.net.add_host(Place::Behind(nat)), lab.net.add_host(Place::Behind(nat)));
        lab.bind(a, 5000);
        lab.bind(b, 5000);
        let (_, there) = server(&mut lab);
        let outside = lab.send(b, there).unwrap().from;
        let arrived = lab.send(a, outside);
        assert_eq!(arrived.is_some(), hairpin);
        assert_eq!(lab.lost(Lost::NoHairpin), u64::from(!hairpin));
        if let Some(arrived) = arrived {
            assert_eq!((arrived.host, arrived.from.ip()), (b, lab.net.external_ips(nat)[0]));
        }
    }
}

#[test]
fn chained_nats_translate_twice_and_answers_find_the_way_back() {
    let mut lab = Lab::new();
    let home = lab.net.add_behind(Nat::cgn());
    lab.bind(home, 5000);
    let (host, there) = server(&mut lab);
    let seen = lab.send(home, there).unwrap().from;
    let boxes = lab.net.nats(home);
    assert_eq!(boxes.len(), 2);
    assert_eq!(seen.ip(), lab.net.external_ips(boxes[1])[0]);
    assert!(matches!(lab.net.external_ips(boxes[0])[0], IpAddr::V4(ip) if ip.octets()[0] == 100));
    assert_eq!(lab.send(host, seen).unwrap().host, home);
    assert_eq!(lab.send(host, SocketAddr::new(seen.ip(), seen.port() ^ 1)), None);
}

#[test]
fn hosts_of_one_carrier_meet_through_its_hairpin() {
    let mut lab = Lab::new();
    let carrier = Nat::carrier(Dependence::Independent);
    assert_eq!((carrier.inside, carrier.kind), (Inside::Carrier, Kind::Translator));
    let carrier = lab.net.add_nat(Place::Public, Nat { filtering: Dependence::Independent, ..carrier });
    let homes = [0, 1].map(|_| lab.net.add_nat(Place::Behind(carrier), Nat::full_cone()));
    let [a, b] = homes.map(|home| lab.net.add_host(Place::Behind(home)));
    lab.bind(a, 5000);
    lab.bind(b, 5000);
    let (_, there) = server(&mut lab);
    let outside = lab.send(b, there).unwrap().from;
    let arrived = lab.send(a, outside).unwrap();
    assert_eq!((arrived.host, arrived.from.ip()), (b, lab.net.external_ips(carrier)[0]));
}

#[test]
fn a_renumbered_nat_is_found_at_its_new_address_only() {
    let mut lab = Lab::new();
    let home = lab.net.add_behind(Nat::full_cone());
    lab.bind(home, 5000);
    let (host, there) = server(&mut lab);
    let old = lab.send(home, there).unwrap().from;
    lab.net.reboot_nat(lab.net.nats(home)[0], true);
    assert_eq!(lab.send(host, old), None);
    assert_eq!(lab.lost(Lost::NoRoute), 1);
    let new = lab.send(home, there).unwrap().from;
    assert_ne!(new.ip(), old.ip());
    assert_eq!(lab.send(host, new).unwrap().host, home);
}

#[test]
fn ipv6_keeps_its_addresses_behind_a_nat_and_is_filtered() {
    let mut lab = Lab::new();
    let nat = lab.net.add_nat(Place::Public, Nat::symmetric());
    let home = lab.net.add_host_with(Place::Behind(nat), Families::Dual);
    let host = lab.net.add_host_with(Place::Public, Families::V6);
    let any: SocketAddr = "[::]:5000".parse().unwrap();
    lab.net.bind(home, any).unwrap();
    lab.net.bind(host, any).unwrap();
    let (inside, there) =
        (SocketAddr::new(lab.net.ips(home)[1], 5000), SocketAddr::new(lab.net.ips(host)[0], 5000));
    let mut pass = |from, to| {
        lab.net.send(lab.now, from, any, to, b"x".to_vec());
        lab.now += Duration::from_secs(1);
        lab.net.poll_delivery(lab.now)
    };
    assert_eq!(pass(host, inside), None, "nothing comes in first");
    assert_eq!(pass(home, there).unwrap().from, inside);
    assert_eq!(pass(host, inside).unwrap().host, home);
}

#[test]
fn an_address_of_another_home_is_not_reachable_from_outside() {
    let mut lab = Lab::new();
    let home = lab.net.add_behind(Nat::full_cone());
    lab.bind(home, 5000);
    let (host, _) = server(&mut lab);
    assert_eq!(lab.send(host, SocketAddr::new(lab.net.ips(home)[0], 5000)), None);
    assert_eq!(lab.lost(Lost::NoRoute), 1);
}
