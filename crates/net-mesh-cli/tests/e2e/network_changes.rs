//! A host whose network changes under a running node: the node notices each change within a second, and its
//! sockets serve on.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::mesh::PORT;
use crate::support::net::{Host, Net, ip};
use crate::support::node::{Home, Node};
use crate::support::process::{Place, program, run};

/// How long a node may take to notice.
const NOTICED: Duration = Duration::from_secs(1);

/// Between two changes: what is not urgent is told once a second, which is another promise than this one.
const CALM: Duration = Duration::from_millis(1_200);

/// How long two nodes may take to find each other.
const MEET: Duration = Duration::from_secs(20);

const LISTEN: [&str; 2] = ["--listen", "0.0.0.0:7400"];

/// A host with two interfaces, `eth0` and `eth1`, each in a network with one other host, and without any default
/// route.
struct Between {
    host: Host,
    left: Host,
    _right: Host,
    home: Home,
    _net: Net,
}

impl Between {
    fn new() -> Self {
        let mut net = Net::new();
        let [left, host, right] = net.chain(&["left", "here", "right"]).try_into().ok().unwrap();
        let home = Home::new(host.place());
        home.init("here");
        Self { host, left, _right: right, home, _net: net }
    }

    fn place(&self) -> Place {
        self.host.place()
    }

    fn ip(&self, arguments: &str) {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        ip(&self.place(), &arguments);
    }

    /// Another address of the network of an address of this host.
    fn beside(&self, interface: usize, host: u8) -> String {
        let SocketAddr::V4(own) = self.host.all_at(0)[interface] else { panic!("the lab has IPv4") };
        let [a, b, c, _] = own.ip().octets();
        format!("{a}.{b}.{c}.{host}")
    }
}

/// What a node's log says of changes.
fn told(node: &Node<'_>) -> Vec<String> {
    let log = node.process.log();
    log.lines().filter(|line| line.contains("the network changed")).map(str::to_owned).collect()
}

/// Makes a change, and expects the node to tell of it with all these words, soon.
fn notices(node: &Node<'_>, words: &[&str], change: impl FnOnce()) {
    thread::sleep(CALM);
    let before = told(node).len();
    // Before the change: the command that makes it takes its time, and is part of ours.
    let start = Instant::now();
    change();
    loop {
        let seen = told(node).split_off(before);
        if words.iter().all(|word| seen.iter().any(|line| line.contains(word))) {
            println!("{words:?} after {:?}", start.elapsed());
            return;
        }
        assert!(start.elapsed() < NOTICED, "{words:?} not within {NOTICED:?}: {seen:#?}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn addresses_are_noticed_and_a_peer_gets_through_to_a_new_one() {
    let lab = Between::new();
    let node = lab.home.up(&LISTEN);
    let (old, new) = (lab.host.ip(), lab.beside(0, 77));
    notices(&node, &["IPv4 address", "readdressed=true"], || {
        lab.ip(&format!("addr del {old}/24 dev eth0"));
        lab.ip(&format!("addr add {new}/24 dev eth0"));
    });
    notices(&node, &["IPv4 address", "readdressed=false"], || {
        // In one go, as when another network gives the same address.
        let batch = lab.home.beside("batch");
        fs::write(&batch, format!("addr del {new}/24 dev eth0\naddr add {new}/24 dev eth0\n")).unwrap();
        lab.ip(&format!("-batch {}", batch.display()));
    });
    let left = Home::new(lab.left.place());
    left.join(&lab.home.invite(&[format!("{new}:{PORT}").parse().unwrap()]), "left");
    let other = left.up(&LISTEN);
    other.wait_for_direct_peers(&["here"], MEET);
    other.stop();
    node.stop();
}

#[test]
fn a_default_route_that_moves_alone_is_noticed() {
    let lab = Between::new();
    let node = lab.home.up(&LISTEN);
    let words = ["IPv4 default route", "readdressed=false"];
    let gateways = [lab.beside(0, 1), lab.beside(0, 2), lab.beside(1, 2)];
    notices(&node, &words, || lab.ip(&format!("route add default via {}", gateways[0])));
    for gateway in [&gateways[1], &gateways[2], &gateways[0]] {
        notices(&node, &words, || lab.ip(&format!("route replace default via {gateway}")));
    }
    notices(&node, &words, || lab.ip("route del default"));
    node.stop();
}

#[test]
fn a_link_that_goes_and_comes_is_noticed_and_the_session_outlives_it() {
    let lab = Between::new();
    let node = lab.home.up(&LISTEN);
    let left = Home::new(lab.left.place());
    left.join(&lab.home.invite(&[lab.host.at(PORT)]), "left");
    let other = left.up(&LISTEN);
    node.wait_for_direct_peers(&["left"], MEET);
    notices(&node, &["link"], || lab.ip("link set eth0 down"));
    notices(&node, &["link"], || lab.ip("link set eth0 up"));
    left.ok(&["ping", "here"]);
    let sessions = |node: &Node<'_>| node.process.log().matches("session up").count();
    assert_eq!([sessions(&node), sessions(&other)], [1, 1]);
    other.stop();
    node.stop();
}

#[test]
fn a_second_family_is_noticed_when_it_comes() {
    let lab = Between::new();
    let write = |value: &str| format!("echo {value} > /proc/sys/net/ipv6/conf/all/disable_ipv6");
    let set = |value: &str| {
        let mut command = std::process::Command::new(program("sh", "dash"));
        command.args(["-c", &write(value)]);
        run(&lab.place(), command).ok("sysctl");
    };
    set("1");
    let node = lab.home.up(&[]);
    set("0");
    notices(&node, &["IPv6 address", "readdressed=true"], || {
        lab.ip("addr add 2001:db8::7/64 dev eth0 nodad")
    });
    notices(&node, &["IPv6 default route"], || lab.ip("-6 route add default via 2001:db8::1"));
    node.stop();
}

#[test]
fn a_node_that_was_stopped_knows_that_it_slept() {
    let lab = Between::new();
    let mut node = lab.home.up(&LISTEN);
    node.process.signal("STOP");
    thread::sleep(Duration::from_secs(4));
    let start = Instant::now();
    node.process.signal("CONT");
    while !told(&node).iter().any(|line| line.contains("slept")) {
        assert!(start.elapsed() < NOTICED, "{:#?}", told(&node));
        thread::sleep(Duration::from_millis(5));
    }
    node.stop();
}

#[test]
fn containers_that_come_and_go_are_not_noticed() {
    let lab = Between::new();
    let node = lab.home.up(&LISTEN);
    let before = told(&node);
    for n in 0..10 {
        lab.ip(&format!("link add c{n} type veth peer name d{n}"));
        lab.ip(&format!("link set c{n} up"));
        lab.ip(&format!("link set d{n} up"));
        lab.ip(&format!("route add 10.200.0.{n}/32 dev c{n}"));
        lab.ip(&format!("link del c{n}"));
    }
    thread::sleep(CALM);
    assert_eq!(told(&node), before);
    // It did hear all that: the next change is noticed.
    notices(&node, &["IPv4 address"], || lab.ip(&format!("addr add {}/24 dev eth1", lab.beside(1, 66))));
    node.stop();
}
