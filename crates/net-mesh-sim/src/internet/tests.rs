//! Promises of the internet as a whole: routes, delays, drops, repeatability.

use std::net::Ipv4Addr;

use super::*;

const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 5000);

fn ms(ms: u64) -> Time {
    Time::from_millis(ms)
}

fn hosts<const N: usize>(net: &mut Internet) -> [HostId; N] {
    [(); N].map(|()| {
        let host = net.add_host(Place::Public);
        net.bind(host, ANY).unwrap();
        host
    })
}

fn address(net: &Internet, host: HostId) -> SocketAddr {
    SocketAddr::new(net.ips(host)[0], 5000)
}

/// How long a packet takes that is sent at `now`.
fn delay(net: &mut Internet, now: Time, from: HostId, to: HostId) -> Option<Duration> {
    let there = address(net, to);
    net.send(now, from, ANY, there, vec![0; 100]);
    net.poll_delivery(now + Duration::from_secs(10)).map(|arrived| arrived.at - now)
}

#[test]
fn delays_are_those_of_both_links_and_of_both_distances_or_the_pairs_own() {
    let mut net = Internet::new(1);
    let [a, b, c] = hosts(&mut net);
    let millis = Duration::from_millis;
    assert_eq!(delay(&mut net, ms(0), a, b), Some(millis(20)), "four times 5 ms");
    net.set_distance(a, millis(50));
    assert_eq!(delay(&mut net, ms(0), b, a), Some(millis(65)));
    net.set_core_delay(a, b, millis(1));
    assert_eq!(delay(&mut net, ms(0), a, b), Some(millis(11)));
    assert_eq!(delay(&mut net, ms(0), b, a), Some(millis(11)));
    assert_eq!(delay(&mut net, ms(0), a, c), Some(millis(65)), "others keep theirs");
    net.set_uplink(ms(0), c, Link { delay: millis(100), ..Link::default() });
    assert_eq!(delay(&mut net, ms(0), c, b), Some(millis(115)));
    assert_eq!(delay(&mut net, ms(0), b, c), Some(millis(20)), "each direction has its own rule");
}

#[test]
fn hosts_of_one_site_are_a_hop_apart_wherever_the_site_is() {
    let mut net = Internet::new(1);
    let nat = net.add_nat(Place::Public, Nat::symmetric());
    let [a, b] = [(); 2].map(|()| net.add_host(Place::Behind(nat)));
    net.bind(a, ANY).unwrap();
    net.bind(b, ANY).unwrap();
    net.set_distance(a, Duration::from_secs(1));
    assert_eq!(delay(&mut net, ms(0), a, b), Some(LAN_DELAY));
    assert_eq!(delay(&mut net, ms(0), a, a), Some(LAN_DELAY), "and a host reaches itself");
    net.set_downlink(ms(0), b, Link { cut: true, ..Link::default() });
    assert_eq!(delay(&mut net, ms(0), a, b), None, "a cut line is a cut line, inside too");
}

#[test]
fn a_line_cut_one_way_still_carries_the_other_way() {
    let mut net = Internet::new(1);
    let [a, b] = hosts(&mut net);
    net.set_uplink(ms(0), a, Link { cut: true, ..Link::default() });
    assert_eq!(delay(&mut net, ms(0), a, b), None);
    assert!(delay(&mut net, ms(0), b, a).is_some());
    net.set_uplink(ms(1), a, Link::default());
    assert!(delay(&mut net, ms(1), a, b).is_some());
    assert_eq!(net.trace().counts().lost(Lost::Cut), 1);
}

#[test]
fn every_packet_is_delivered_or_counted_under_a_reason() {
    let mut net = Internet::new(1);
    let [a, b] = hosts(&mut net);
    let there = address(&net, b);
    let closed = SocketAddr::new(there.ip(), 5001);
    net.send(ms(0), a, ANY, there, vec![0; 1472]);
    net.send(ms(0), a, ANY, there, vec![0; 1473]);
    net.send(ms(0), a, ANY, closed, vec![0; 9]);
    net.send(ms(0), a, ANY, "203.0.113.1:9".parse().unwrap(), vec![0; 9]);
    net.send(ms(0), a, ANY, "[2001:db8::1]:9".parse().unwrap(), vec![0; 9]);
    net.send(ms(0), a, "0.0.0.0:7".parse().unwrap(), there, vec![0; 9]);
    assert!(net.poll_delivery(ms(1000)).is_some());
    assert!(net.poll_delivery(ms(1000)).is_none());
    let counts = *net.trace().counts();
    let losses: Vec<(Lost, u64)> = counts.losses().collect();
    assert_eq!(losses, [(Lost::Mtu, 1), (Lost::NoRoute, 1), (Lost::NoSource, 2), (Lost::Unbound, 1)]);
    assert_eq!((counts.sent, counts.delivered), (6, 1));
}

#[test]
fn packets_come_out_in_the_order_of_their_arrival_and_not_before() {
    let mut net = Internet::new(1);
    let [a, b, c] = hosts(&mut net);
    let there = address(&net, c);
    net.set_distance(a, Duration::from_millis(20));
    net.send(ms(0), a, ANY, there, b"far".to_vec());
    net.send(ms(1), b, ANY, there, b"near".to_vec());
    assert_eq!(net.poll_delivery(ms(20)), None);
    let mut arrived = Vec::new();
    while let Some(at) = net.poll_timeout() {
        arrived.extend(net.poll_delivery(at).map(|delivery| (delivery.at, delivery.payload)));
    }
    assert_eq!(arrived, [(ms(21), b"near".to_vec()), (ms(35), b"far".to_vec())]);
}

#[test]
fn a_port_is_bound_once_and_any_port_is_a_free_one() {
    let mut net = Internet::new(1);
    let [a] = hosts(&mut net);
    assert_eq!(net.bind(a, ANY), Err(BindError::InUse));
    assert_eq!(net.bind(a, "[::]:5000".parse().unwrap()), Err(BindError::NoSuchAddress));
    assert_eq!(net.bind(a, "9.9.9.9:1".parse().unwrap()), Err(BindError::NoSuchAddress));
    let any = SocketAddr::new(ANY.ip(), 0);
    let mut ports: Vec<u16> = (0..50).map(|_| net.bind(a, any).unwrap().port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 50);
    net.close(a, ANY);
    assert_eq!(net.bind(a, ANY), Ok(ANY));
}

#[test]
fn one_seed_takes_one_course() {
    let course = |seed| {
        let mut net = Internet::new(seed);
        let [a, b] = hosts(&mut net);
        let link = Link { jitter: Duration::from_millis(9), loss: 0.1, ..Link::bursty() };
        net.set_link(ms(0), a, &link);
        let there = address(&net, b);
        for at in 0..1000 {
            net.send(ms(at), a, ANY, there, vec![0; 50]);
            while net.poll_delivery(ms(at)).is_some() {}
        }
        net.trace().hash()
    };
    assert_eq!(course(1), course(1));
    assert_ne!(course(1), course(2));
}

#[test]
fn a_cut_separates_one_pair_in_one_direction() {
    let mut net = Internet::new(1);
    let [a, b, c] = hosts(&mut net);
    net.set_cut(a, b, true);
    assert_eq!(delay(&mut net, ms(0), a, b), None);
    assert_eq!(net.trace().counts().lost(Lost::Cut), 1);
    for (from, to) in [(b, a), (a, c), (c, b)] {
        assert!(delay(&mut net, ms(100), from, to).is_some());
    }
    net.set_cut(a, b, false);
    assert!(delay(&mut net, ms(200), a, b).is_some());
}

#[test]
fn a_useless_address_leads_to_its_own_host_from_there_and_nowhere_from_elsewhere() {
    let mut net = Internet::new(1);
    let [a, b] = hosts(&mut net);
    let bridge: IpAddr = "172.17.0.1".parse().unwrap();
    [a, b].into_iter().for_each(|host| net.add_useless(host, bridge));
    let before = delay(&mut net, ms(0), a, b);
    assert!(before.is_some(), "packets still bear the address that leads somewhere");
    net.send(ms(100), a, ANY, SocketAddr::new(bridge, 5000), vec![1]);
    let arrived = net.poll_delivery(ms(200)).unwrap();
    assert_eq!((arrived.host, arrived.at), (a, ms(100) + LAN_DELAY));

    let [c] = hosts(&mut net);
    net.send(ms(300), c, ANY, SocketAddr::new(bridge, 5000), vec![1]);
    assert_eq!(net.poll_delivery(ms(400)), None);
    assert_eq!(net.trace().counts().lost(Lost::NoRoute), 1);
}
