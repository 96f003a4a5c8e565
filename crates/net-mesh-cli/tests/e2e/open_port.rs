//! Ports that the operator opened by hand: a cloud's rule, a router's setting.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::support::mesh::{Mesh, PORT};
use crate::support::net::{Behind, Net};
use crate::support::node::Node;
use crate::support::wait_until;

/// How long classification and the proof may take.
const PROVEN: Duration = Duration::from_secs(20);

const OPEN: usize = 2;
const CALLER: usize = 3;

fn start<'a>(mesh: &'a Mesh, members: &[usize]) -> Vec<Node<'a>> {
    let mut nodes: Vec<Node<'_>> = members.iter().map(|&member| mesh.start(member)).collect();
    nodes.iter_mut().for_each(Node::wait_until_it_answers);
    nodes
}

fn mesh(net: &mut Net, behind: Behind) -> (Mesh, String) {
    let helpers = vec![net.host("h1", Behind::Nothing), net.host("h2", Behind::Nothing)];
    let open = net.host("open", behind);
    let at = SocketAddr::new(open.outside, PORT).to_string();
    let caller = net.host("caller", Behind::Symmetric);
    (Mesh::around(helpers, vec![open, caller]), at)
}

fn peer(who: &Node<'_>, name: &str) -> Value {
    who.peers().into_iter().find(|peer| peer["name"] == name).unwrap_or_default()
}

/// Members find out by themselves that the port is open, and one who could not be introduced dials it.
fn is_dialled(behind: Behind) {
    let mut net = Net::new();
    let (mesh, at) = mesh(&mut net, behind);
    let mut nodes = start(&mesh, &[0, 1, OPEN]);
    let status = nodes[OPEN]
        .wait_for_status("a port that is open", PROVEN, |status| status["nat"]["open_port"].is_object());
    assert_eq!(status["nat"]["open_port"]["addr"], at, "{status:#}");
    assert_eq!(status["nat"]["class"], "full-cone", "{status:#}");
    assert_eq!(status["nat"]["class_without_mapping"], "port-restricted", "{status:#}");
    let ticket = mesh.home(OPEN).ok(&["invite"]);
    assert!(ticket.starts_with("nm1"), "an address for tickets is known: {ticket}");
    for node in &nodes[..2] {
        wait_until("members read of it", PROVEN, || {
            (peer(node, "open")["port_mapped"] == true).then_some(())
        });
    }
    nodes.extend(start(&mesh, &[CALLER]));
    nodes[CALLER].wait_for_direct_peers(&["open"], PROVEN);
    assert_eq!(peer(&nodes[CALLER], "open")["path"]["addr"], at);
    let why = mesh.home(CALLER).json(&["why", "open", "--json"]);
    assert_eq!(why["attempts"].as_array().map(Vec::len), Some(0), "{why:#}");
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn of_a_public_host_is_found_open_by_members_and_dialled() {
    is_dialled(Behind::OpenPort);
}

#[test]
fn that_a_home_router_forwards_is_found_open_by_members_and_dialled() {
    is_dialled(Behind::ForwardedPort);
}

#[test]
fn that_nobody_opened_is_not_taken_for_open() {
    let mut net = Net::new();
    let (mesh, _) = mesh(&mut net, Behind::Firewall);
    let nodes = start(&mesh, &[0, 1, OPEN]);
    nodes[OPEN].wait_for_status("a class", PROVEN, |status| status["nat"]["class"] == "port-restricted");
    // Three members' silences would have been counted by then.
    std::thread::sleep(Duration::from_secs(12));
    let status = nodes[OPEN].status();
    assert_eq!(
        (&status["nat"]["open_port"], &status["nat"]["class"]),
        (&Value::Null, &"port-restricted".into())
    );
    nodes.into_iter().for_each(Node::stop);
}
