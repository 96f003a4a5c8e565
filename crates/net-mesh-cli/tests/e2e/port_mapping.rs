//! Routers that give ports away, run by a daemon that nobody here wrote.

use std::time::Duration;

use serde_json::Value;

use crate::support::gateway::{Gateway, Speaks};
use crate::support::mesh::{Mesh, PORT};
use crate::support::net::{Behind, Host, Net};
use crate::support::wait_until;

/// How long a node may take to have a port and the proof of it: joining, a search, and a member that sends.
const PROVEN: Duration = Duration::from_secs(30);

/// Two public helpers and a home whose router gives ports away.
struct Scene {
    net: Net,
    home: Host,
    gateway: Gateway,
}

fn scene(behind: Behind, speaks: Speaks, forwards: bool) -> (Scene, [Host; 2]) {
    let mut net = Net::new();
    let helpers = [net.host("h1", Behind::Nothing), net.host("h2", Behind::Nothing)];
    let home = net.host("home", behind);
    let gateway = Gateway::new(&home, speaks, forwards);
    (Scene { net, home, gateway }, helpers)
}

const ASKS: &[&str] = &["--port-mapping"];

#[test]
fn a_port_is_mapped_and_proven_and_given_back() {
    let (scene, helpers) = scene(Behind::Symmetric, Speaks::All, true);
    let mesh = Mesh::around(helpers.into(), vec![scene.home.clone()]).with_options("home", ASKS);
    let mut nodes: Vec<_> = (0..3).map(|member| mesh.start(member)).collect();
    nodes.iter_mut().for_each(|node| node.wait_until_it_answers());
    let status = nodes[2]
        .wait_for_status("a proven port", PROVEN, |status| status["port_mapping"]["state"] == "proven");
    println!("{status:#}");
    let given = scene.gateway.given();
    println!("{given:?}");
    assert_eq!(given.len(), 1, "{given:?}");
    let _ = (&scene.net, PORT, Value::Null);
    nodes.into_iter().for_each(|node| node.stop());
    wait_until("the port is given back", Duration::from_secs(5), || {
        scene.gateway.given().is_empty().then_some(())
    });
}
