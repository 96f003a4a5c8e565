//! Places that are not one NAT in front of one host.

use std::time::Duration;

use crate::support::mesh::{Mesh, Way, talk};
use crate::support::net::{Behind, Family, Host, Net};
use crate::support::node::Node;
use crate::support::reach::{arrives, is_cut_off};
use patchbay::Firewall;

/// How long a pair may take to have the way it must have, from when the two know of each other.
const LIMIT: Duration = Duration::from_secs(30);

/// How long a node may take to say that UDP does not work: "within seconds".
const CLEAR_WORD: Duration = Duration::from_secs(15);

/// The labs are what they say; a failure of the tests after this one is then the program's.
mod the_lab {
    use std::net::{SocketAddr, UdpSocket};

    use super::*;

    fn local(socket: &UdpSocket) -> SocketAddr {
        socket.local_addr().unwrap()
    }

    #[test]
    fn has_a_home_whose_nat_turns_nothing_around() {
        let mut net = Net::new();
        let stranger = net.host("stranger", Behind::Nothing).socket();
        let [left, right] = net.neighbours(["left", "right"]).map(|host| host.socket());
        let mapped = [&left, &right].map(|inside| arrives(inside, local(&stranger), &stranger));
        assert_eq!(mapped[0].ip(), mapped[1].ip());
        assert_eq!(arrives(&left, local(&right), &right), local(&left));
        assert!(is_cut_off(&left, mapped[1], &right) && is_cut_off(&right, mapped[0], &left));
    }

    #[test]
    fn has_a_host_to_and_from_which_no_udp_passes() {
        let mut net = Net::new();
        let stranger = net.host("stranger", Behind::Nothing).socket();
        let other = net.host("other", Behind::Nothing).socket();
        let host = net.host("host", Behind::NoUdp).socket();
        arrives(&other, local(&stranger), &stranger);
        assert!(is_cut_off(&host, local(&stranger), &stranger) && is_cut_off(&stranger, local(&host), &host));
    }

    #[test]
    fn has_ipv6_where_only_answers_come_in() {
        let mut net = Net::new();
        let stranger = net.host_with("stranger", Family::Both, Firewall::None);
        let stranger = stranger.socket_v6();
        let host = net.host_with("host", Family::OnlyV6, Firewall::BlockInbound).socket();
        assert!(local(&host).is_ipv6() && is_cut_off(&stranger, local(&host), &host));
        assert_eq!(arrives(&host, local(&stranger), &stranger), local(&host));
        arrives(&stranger, local(&host), &host);
    }

    #[test]
    fn has_homes_behind_carriers_with_equal_addresses_inside() {
        let mut net = Net::new();
        let hosts = ["left", "right"].map(|name| net.host(name, Behind::TwoNats));
        assert_eq!(hosts[0].ip(), hosts[1].ip());
        assert_ne!(hosts[0].outside, hosts[1].outside);
    }

    #[test]
    fn has_a_row_in_which_only_neighbours_can_talk() {
        let mut net = Net::new();
        let row = net.chain(&["a", "b", "c", "d"]);
        let sockets: Vec<UdpSocket> = row.iter().map(Host::socket_everywhere).collect();
        for (from, _) in row.iter().enumerate() {
            for (to, host) in row.iter().enumerate() {
                let port = local(&sockets[to]).port();
                let neighbours = from.abs_diff(to) == 1;
                let ways = host.all_at(port).into_iter();
                let open = ways.filter(|addr| from != to && !is_cut_off(&sockets[from], *addr, &sockets[to]));
                assert_eq!(open.count() > 0, neighbours, "from {from} to {to}");
            }
        }
    }
}

fn helpers(net: &mut Net) -> Vec<Host> {
    ["fra", "lon"].map(|name| net.host(name, Behind::Nothing)).into()
}

fn pair(left: Behind, right: Behind, way: Way) {
    let mut net = Net::new();
    let helpers = helpers(&mut net);
    let hosts = [net.host("left", left), net.host("right", right)];
    talk(&Mesh::around(helpers, hosts.into()), &[(2, 3, way)], LIMIT);
}

#[test]
fn two_hosts_of_one_home_whose_nat_turns_nothing_around() {
    let mut net = Net::new();
    let helpers = helpers(&mut net);
    let hosts = net.neighbours(["left", "right"]);
    talk(&Mesh::around(helpers, hosts.into()), &[(2, 3, Way::Direct)], LIMIT);
}

/// Their private addresses are the same, too.
#[test]
fn two_chained_nats_on_both_sides() {
    pair(Behind::TwoNats, Behind::TwoNats, Way::Direct);
}

#[test]
fn a_port_restricted_nat_and_a_home_behind_a_carrier() {
    pair(Behind::PortRestricted, Behind::TwoNats, Way::Direct);
}

/// Two public nodes with both families, and a pair of other hosts.
fn with_both_families(left: impl Fn(&mut Net) -> Host, right: impl Fn(&mut Net) -> Host, way: Way) {
    let mut net = Net::new();
    let helpers = ["fra", "lon"].map(|name| net.host_with(name, Family::Both, Firewall::None));
    let hosts = [left(&mut net), right(&mut net)];
    talk(&Mesh::around(helpers.into(), hosts.into()), &[(2, 3, way)], LIMIT);
}

/// RFC 6092: no translation, but only answers come in.
#[test]
fn ipv6_with_stateful_firewalls_on_both_sides() {
    let host = |name| move |net: &mut Net| net.host_with(name, Family::OnlyV6, Firewall::BlockInbound);
    with_both_families(host("left"), host("right"), Way::Direct);
}

#[test]
fn a_host_with_ipv4_only_and_one_with_both() {
    with_both_families(
        |net| net.host("left", Behind::PortRestricted),
        |net| net.host_with("right", Family::Both, Firewall::BlockInbound),
        Way::Direct,
    );
}

/// No packet of the one can ever be one of the other: those with both families stand between.
#[test]
fn a_host_with_ipv4_only_and_one_with_ipv6_only() {
    with_both_families(
        |net| net.host("left", Behind::Nothing),
        |net| net.host_with("right", Family::OnlyV6, Firewall::None),
        Way::Relayed { because: "" },
    );
}

#[test]
fn a_host_with_32_useless_addresses() {
    let mut net = Net::new();
    let helpers = helpers(&mut net);
    let hosts = ["left", "right"].map(|name| net.host(name, Behind::PortRestricted));
    hosts[0].add_useless_addresses(32);
    talk(&Mesh::around(helpers, hosts.into()), &[(2, 3, Way::Direct)], LIMIT);
}

#[test]
fn a_row_in_which_only_neighbours_can_talk() {
    let mut net = Net::new();
    let mesh = Mesh::in_a_row(net.chain(&["a", "b", "c", "d"]));
    talk(&mesh, &[(0, 3, Way::Via(&["b", "c"])), (0, 2, Way::Via(&["b"]))], LIMIT);
}

#[test]
fn a_public_node_that_refuses_to_relay_is_left_out() {
    let mut net = Net::new();
    let helpers = helpers(&mut net);
    let hosts = ["left", "right"].map(|name| net.host(name, Behind::Symmetric));
    let mesh = Mesh::around(helpers, hosts.into()).with_options("fra", &["--no-relay"]);
    talk(&mesh, &[(2, 3, Way::Via(&["lon"]))], LIMIT);
}

#[test]
fn a_host_where_udp_is_blocked_says_so_within_seconds() {
    let mut net = Net::new();
    let helpers = helpers(&mut net);
    let hosts = [net.host("left", Behind::NoUdp), net.host("right", Behind::PortRestricted)];
    let mesh = Mesh::around(helpers, hosts.into());
    let mut nodes: Vec<Node<'_>> = (0..4).map(|member| mesh.start(member)).collect();
    nodes.iter_mut().for_each(Node::wait_until_it_answers);

    let status = nodes[2].wait_for_status("a clear word", CLEAR_WORD, |status| status["udp"] == "blocked");
    assert!(status["problem"].as_str().is_some_and(|problem| problem.contains("UDP")), "{status:#}");
    let log = nodes[2].process.log();
    assert!(
        log.lines().any(|line| line.contains("WARN") && line.contains("UDP")),
        "nothing in the log:\n{log}"
    );
    nodes[3].wait_for_direct_peers(&["fra", "lon"], LIMIT);
    let status = nodes[3].wait_for_status("UDP works", LIMIT, |status| status["udp"] == "works");
    assert!(status["problem"].is_null(), "{status:#}");
    nodes.into_iter().for_each(Node::stop);
}
