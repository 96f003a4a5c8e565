use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::*;
use crate::Lost;

const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 5000);

fn secs(secs: u64) -> Time {
    Time::from_millis(secs * 1000)
}

fn bound(net: &mut Internet, host: HostId) -> HostId {
    net.bind(host, ANY).unwrap();
    host
}

fn address(net: &Internet, host: HostId) -> SocketAddr {
    SocketAddr::new(net.ips(host)[0], 5000)
}

/// Sends `size` bytes; as whom they arrived, if they did within a second.
fn send(net: &mut Internet, now: Time, from: HostId, to: SocketAddr, size: usize) -> Option<SocketAddr> {
    net.send(now, from, ANY, to, vec![0; size]);
    net.poll_delivery(now + Duration::from_secs(1)).map(|arrived| arrived.from)
}

/// A home behind `nat`, and a server.
fn home(nat: Nat) -> (Internet, NatId, HostId, HostId) {
    let mut net = Internet::new(1);
    let gate = net.add_nat(Place::Public, nat);
    let [home, server] = [Place::Behind(gate), Place::Public].map(|place| {
        let host = net.add_host(place);
        bound(&mut net, host)
    });
    (net, gate, home, server)
}

#[test]
fn a_limit_stops_large_datagrams_of_one_pair_in_one_direction() {
    let mut net = Internet::new(1);
    let [a, b] = [(); 2].map(|()| net.add_host(Place::Public)).map(|host| bound(&mut net, host));
    let [to_a, to_b] = [a, b].map(|host| address(&net, host));
    net.set_limit(a, b, Some(600));
    assert!(send(&mut net, secs(0), a, to_b, 600).is_some());
    assert_eq!(send(&mut net, secs(1), a, to_b, 601), None);
    assert!(send(&mut net, secs(2), b, to_a, 1200).is_some());
    assert_eq!(net.trace().counts().lost(Lost::Cut), 1);
    net.set_limit(a, b, None);
    assert!(send(&mut net, secs(3), a, to_b, 601).is_some());
}

#[test]
fn an_unplugged_host_refuses_to_send_and_hears_nothing_and_has_its_address_again_later() {
    let (mut net, gate, home, server) = home(Nat::full_cone());
    let (there, before) = (address(&net, server), net.ips(home).to_vec());
    let seen = send(&mut net, secs(0), home, there, 9).unwrap();
    net.set_plugged(home, Place::Behind(gate), false);
    assert!(net.ips(home).is_empty());
    assert!(!net.send(secs(1), home, ANY, there, vec![0]));
    assert_eq!(send(&mut net, secs(1), server, seen, 9), None);
    assert_eq!(net.trace().counts().lost(Lost::Unplugged), 1);
    net.set_plugged(home, Place::Behind(gate), true);
    assert_eq!(net.ips(home), before);
    assert_eq!(send(&mut net, secs(2), home, there, 9), Some(seen));
}

#[test]
fn what_was_under_way_when_the_plug_was_pulled_is_lost() {
    let (mut net, gate, home, server) = home(Nat::full_cone());
    let there = address(&net, server);
    net.send(secs(0), home, ANY, there, vec![0]);
    net.set_plugged(home, Place::Behind(gate), false);
    assert_eq!(net.poll_delivery(secs(1)), None);
    assert_eq!(net.trace().counts().lost(Lost::Unplugged), 1);
}

#[test]
fn a_host_that_moves_sends_from_its_new_address_and_is_not_reached_at_the_old_one() {
    let (mut net, old, home, server) = home(Nat::full_cone());
    let there = address(&net, server);
    let seen = send(&mut net, secs(0), home, there, 9).unwrap();
    let new = Place::Behind(net.add_nat(Place::Public, Nat::full_cone()));
    net.attach(home, new, Families::Dual);
    net.set_default(home, new);
    net.detach(home, Place::Behind(old));
    assert_eq!((net.place(home), net.ips(home).len()), (new, 2), "IPv6 came with the new network");
    let moved = send(&mut net, secs(1), home, there, 9).unwrap();
    assert_ne!(moved.ip(), seen.ip());
    assert_eq!(send(&mut net, secs(2), server, seen, 9), None);
    assert!(send(&mut net, secs(3), server, moved, 9).is_some());
    net.detach(home, new);
    assert_eq!(net.place(home), new, "the last network stays");
}

#[test]
fn a_default_route_that_moves_changes_where_packets_leave_and_nothing_else() {
    let (mut net, first, home, server) = home(Nat::full_cone());
    let there = address(&net, server);
    let second = net.add_nat(Place::Public, Nat::full_cone());
    net.attach(home, Place::Behind(second), Families::V4);
    let seen = send(&mut net, secs(0), home, there, 9).unwrap();
    assert_eq!(seen.ip(), net.external_ips(first)[0]);
    let mut before = net.ips(home).to_vec();
    net.set_default(home, Place::Behind(second));
    assert_eq!(send(&mut net, secs(1), home, there, 9).unwrap().ip(), net.external_ips(second)[0]);
    let mut after = net.ips(home).to_vec();
    before.sort_unstable();
    after.sort_unstable();
    assert_eq!(before, after);
    assert!(send(&mut net, secs(2), server, seen, 9).is_some(), "the first network still leads here");

    net.set_plugged(home, Place::Behind(second), false);
    assert_eq!(net.place(home), Place::Behind(first), "packets leave where they can");
    assert_eq!(send(&mut net, secs(3), home, there, 9), Some(seen));
}

#[test]
fn a_nat_that_rebinds_gives_other_ports_also_where_it_preserves_them() {
    for nat in [Nat::port_restricted(), Nat::symmetric()] {
        let (mut net, gate, home, server) = home(nat);
        let there = address(&net, server);
        let seen = send(&mut net, secs(0), home, there, 9).unwrap();
        net.rebind_nat(secs(1), gate);
        assert_eq!(send(&mut net, secs(1), server, seen, 9), None, "the old mapping is gone");
        let moved = send(&mut net, secs(2), home, there, 9).unwrap();
        assert!(moved.ip() == seen.ip() && moved.port() != seen.port());
        assert!(send(&mut net, secs(3), server, moved, 9).is_some());
    }
}

#[test]
fn a_nat_that_was_flushed_maps_as_before_and_one_that_was_renumbered_does_not() {
    let (mut net, gate, home, server) = home(Nat::port_restricted());
    let there = address(&net, server);
    let seen = send(&mut net, secs(0), home, there, 9).unwrap();
    net.reboot_nat(gate, false);
    assert_eq!(send(&mut net, secs(1), server, seen, 9), None);
    assert_eq!(send(&mut net, secs(2), home, there, 9), Some(seen));
    net.reboot_nat(gate, true);
    assert_ne!(send(&mut net, secs(3), home, there, 9).unwrap().ip(), seen.ip());
}

#[test]
fn a_nat_changes_its_kind_at_run_time_and_keeps_its_addresses() {
    let (mut net, gate, home, server) = home(Nat::symmetric());
    let other = net.add_host(Place::Public);
    bound(&mut net, other);
    let (there, elsewhere) = (address(&net, server), address(&net, other));
    let ways =
        |net: &mut Internet, at| [there, elsewhere].map(|to| send(net, secs(at), home, to, 9).unwrap());
    let [one, two] = ways(&mut net, 0);
    assert_ne!(one, two);
    net.change_nat(gate, Nat::full_cone());
    let [one, two] = ways(&mut net, 10);
    assert_eq!((one, one.ip()), (two, net.external_ips(gate)[0]));
    assert_eq!(net.nat(gate).filtering, Nat::full_cone().filtering);
    net.change_nat(gate, Nat::symmetric());
    let [one, two] = ways(&mut net, 20);
    assert_ne!(one, two);
}

#[test]
fn a_stall_by_hand_holds_what_is_sent_until_it_is_over() {
    let (mut net, _, home, server) = home(Nat::full_cone());
    let there = address(&net, server);
    net.stall(home, secs(3));
    net.send(secs(1), home, ANY, there, vec![0]);
    assert_eq!(
        net.poll_delivery(secs(9)).map(|arrived| arrived.at),
        Some(secs(3) + Duration::from_millis(20))
    );
}

#[test]
fn a_host_that_moves_takes_no_address_from_hosts_of_other_homes() {
    let mut net = Internet::new(1);
    let homes: Vec<Place> =
        (0..5).map(|_| Place::Behind(net.add_nat(Place::Public, Nat::full_cone()))).collect();
    let [one, other, server] = [homes[0], homes[4], Place::Public].map(|place| {
        let host = net.add_host(place);
        bound(&mut net, host)
    });
    assert_eq!(net.ips(one), net.ips(other), "homes use few ranges");
    let there = address(&net, server);
    let seen = send(&mut net, secs(0), other, there, 9).unwrap();
    net.attach(one, homes[1], Families::V4);
    net.detach(one, homes[0]);
    assert!(send(&mut net, secs(1), server, seen, 9).is_some());
}
