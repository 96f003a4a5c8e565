//! Routers that give ports away, run by a daemon that nobody here wrote.

use std::time::Duration;

use crate::support::capture::Capture;
use crate::support::mesh::{Mesh, PORT};
use crate::support::net::{Behind, Net};

/// The ports of SSDP, of NAT-PMP's announcements, and of PCP and NAT-PMP.
const PORTS: [u16; 3] = [1900, 5350, 5351];

/// How long a capture lasts in which nothing may be seen: longer than a search in all protocols takes.
const QUIET: Duration = Duration::from_secs(8);

/// The packets on the home's network that go to the ports of port mapping.
fn captured(options: &'static [&'static str]) -> Vec<u16> {
    let mut net = Net::new();
    let helper = net.host("helper", Behind::Nothing);
    let home = net.host("home", Behind::PortRestricted);
    let capture = Capture::at(home.home());
    let mesh = Mesh::around(vec![helper], vec![home]).with_options("home", options);
    let mut nodes: Vec<_> = [0, 1].map(|member| mesh.start(member)).into();
    nodes.iter_mut().for_each(|node| node.wait_until_it_answers());
    nodes[1].wait_for_direct_peers(&["helper"], Duration::from_secs(20));
    std::thread::sleep(QUIET);
    nodes.into_iter().for_each(|node| node.stop());
    let seen = capture.end();
    assert!(seen.contains(&PORT), "the capture sees nothing: {seen:?}");
    seen.into_iter().filter(|port| PORTS.contains(port)).collect()
}

#[test]
fn without_the_operators_word_not_one_packet_goes_to_the_router() {
    assert_eq!(captured(&[]), Vec::<u16>::new());
}

#[cfg(not(feature = "port-mapping"))]
#[test]
fn a_program_without_the_feature_says_how_to_get_it() {
    let home = crate::support::node::Home::here();
    home.init("one");
    let said = home.run(&["up", "--port-mapping"]).failure("up --port-mapping");
    assert!(said.contains("--features port-mapping"), "{said}");
}

#[cfg(feature = "port-mapping")]
mod with_a_router {
    use serde_json::Value;

    use super::{Behind, Duration, Mesh, Net, captured};
    use crate::support::gateway::{Gateway, Nature, Speaks};
    use crate::support::mesh::{Way, talk};
    use crate::support::net::Host;
    use crate::support::node::Node;
    use crate::support::wait_until;

    /// How long a node may take to have a port and the proof of it: joining, a search, and a member that sends.
    const PROVEN: Duration = Duration::from_secs(30);

    /// How long a node may take to know that a port is of no use.
    const KNOWN: Duration = Duration::from_secs(60);

    const ASKS: &[&str] = &["--port-mapping"];
    /// The shortest lease, so that it is renewed every ten seconds; and what is logged of that.
    const SHORT: &[&str] = &["--port-mapping", "--port-mapping-lease", "20", "--log", "info,net_mesh=debug"];
    const LEASE: Duration = Duration::from_secs(20);

    /// Two public helpers, a home whose router gives ports away, and somebody behind a NAT who wants to reach it.
    struct Scene {
        _net: Net,
        gateway: Gateway,
        mesh: Mesh,
    }

    const HOME: usize = 2;
    const CALLER: usize = 3;

    impl Scene {
        fn new(home: Behind, nature: Nature, options: &'static [&'static str]) -> Self {
            let mut net = Net::new();
            let helpers = vec![net.host("h1", Behind::Nothing), net.host("h2", Behind::Nothing)];
            let home: Host = net.host("home", home);
            let caller = net.host("caller", Behind::Symmetric);
            let gateway = Gateway::new(&home, nature);
            let mesh = Mesh::around(helpers, vec![home, caller]).with_options("home", options);
            Self { _net: net, gateway, mesh }
        }

        /// Starts members in this order, and waits until they answer.
        fn start(&self, members: &[usize]) -> Vec<Node<'_>> {
            let mut nodes: Vec<Node<'_>> = members.iter().map(|&member| self.mesh.start(member)).collect();
            nodes.iter_mut().for_each(Node::wait_until_it_answers);
            nodes
        }

        fn wait_until_none_is_given(&self, limit: Duration) {
            wait_until("no port is given away", limit, || self.gateway.given().is_empty().then_some(()));
        }
    }

    fn state(status: &Value) -> &str {
        status["port_mapping"]["state"].as_str().unwrap_or_default()
    }

    fn proven(home: &Node<'_>) -> Value {
        home.wait_for_status("a port that is proven", PROVEN, |status| state(status) == "proven")
    }

    fn external(status: &Value) -> String {
        status["port_mapping"]["external"].as_str().unwrap().to_owned()
    }

    /// What `who` shows of the member `name`.
    fn peer(who: &Node<'_>, name: &str) -> Value {
        who.peers().into_iter().find(|peer| peer["name"] == name).unwrap_or_default()
    }

    /// The router maps, a member proves it, somebody dials the mapped address without an introduction, and the end
    /// gives the port back.
    fn maps(speaks: Speaks, word: &str) {
        let scene = Scene::new(Behind::Symmetric, Nature { speaks, ..Nature::default() }, ASKS);
        let mut nodes = scene.start(&[0, 1, HOME]);
        let status = proven(&nodes[HOME]);
        assert_eq!(status["port_mapping"]["protocol"], word, "{status:#}");
        assert_eq!(status["nat"]["class"], "full-cone", "{status:#}");
        let external = external(&status);
        let (_, port) = external.split_once(':').unwrap();
        let given = scene.gateway.given();
        assert!(given.len() == 1 && given[0].contains(port), "{external}: {given:?}");
        // Only now: who comes later dials what is published, and nothing else is known of it.
        for node in &nodes[..2] {
            wait_until("members read of the port", PROVEN, || {
                (peer(node, "home")["port_mapped"] == true).then_some(())
            });
        }
        nodes.extend(scene.start(&[CALLER]));
        nodes[CALLER].wait_for_direct_peers(&["home"], PROVEN);
        let home = peer(&nodes[CALLER], "home");
        assert_eq!(
            (&home["path"]["addr"], &home["port_mapped"]),
            (&Value::from(external), &Value::from(true))
        );
        assert_eq!(home["nat"], "full-cone");
        let why = scene.mesh.home(CALLER).json(&["why", "home", "--json"]);
        assert_eq!(why["attempts"].as_array().map(Vec::len), Some(0), "{why:#}");
        nodes.into_iter().for_each(Node::stop);
        scene.wait_until_none_is_given(Duration::from_secs(5));
    }

    #[test]
    fn that_speaks_pcp_alone() {
        maps(Speaks::Pcp, "PCP");
    }

    #[test]
    fn that_speaks_nat_pmp_alone() {
        maps(Speaks::NatPmp, "NAT-PMP");
    }

    #[test]
    fn that_speaks_upnp_alone() {
        maps(Speaks::Upnp, "UPnP-IGD");
    }

    #[test]
    fn that_speaks_everything() {
        maps(Speaks::All, "PCP");
    }

    #[test]
    fn two_symmetric_sides_go_straight_where_one_has_a_port() {
        let scene = Scene::new(Behind::Symmetric, Nature::default(), ASKS);
        talk(&scene.mesh, &[(HOME, CALLER, Way::Direct)], Duration::from_secs(30));
    }

    #[test]
    fn a_lease_is_renewed_and_what_a_restarted_daemon_forgot_comes_back() {
        let mut scene = Scene::new(Behind::PortRestricted, Nature::default(), SHORT);
        let mesh = &scene.mesh;
        let mut nodes: Vec<_> = [0, 1, HOME].map(|member| mesh.start(member)).into();
        nodes.iter_mut().for_each(Node::wait_until_it_answers);
        let first = external(&proven(&nodes[HOME]));
        wait_until("the lease is renewed", LEASE, || {
            nodes[HOME].process.log().contains("port mapping renewed").then_some(())
        });
        scene.gateway.stop();
        assert!(scene.gateway.given().is_empty());
        scene.gateway.start();
        wait_until("the mapping is back", LEASE, || (scene.gateway.given().len() == 1).then_some(()));
        assert_eq!(external(&proven(&nodes[HOME])), first, "the port stays the same");
        nodes.into_iter().for_each(Node::stop);
    }

    #[test]
    fn a_node_that_is_killed_leaves_a_lease_that_ends() {
        let scene = Scene::new(Behind::PortRestricted, Nature::default(), SHORT);
        let mut nodes = scene.start(&[0, 1, HOME]);
        proven(&nodes[HOME]);
        nodes[HOME].process.signal("KILL");
        assert_eq!(scene.gateway.given().len(), 1);
        // The daemon looks for what has ended every few seconds.
        scene.wait_until_none_is_given(LEASE * 2);
        nodes.truncate(HOME);
        nodes.into_iter().for_each(Node::stop);
    }

    /// A node that is killed and started again has the mapping that it had, not a second one.
    fn has_its_mapping_again(speaks: Speaks, word: &str) {
        let scene = Scene::new(Behind::PortRestricted, Nature { speaks, ..Nature::default() }, ASKS);
        let mut nodes = scene.start(&[0, 1, HOME]);
        let first = external(&proven(&nodes[HOME]));
        nodes[HOME].process.signal("KILL");
        nodes.truncate(HOME);
        assert_eq!(scene.gateway.given().len(), 1);
        nodes.extend(scene.start(&[HOME]));
        let status = proven(&nodes[HOME]);
        assert_eq!((external(&status), &status["port_mapping"]["protocol"]), (first, &Value::from(word)));
        assert_eq!(scene.gateway.given().len(), 1, "it is the same mapping");
        nodes.into_iter().for_each(Node::stop);
        scene.wait_until_none_is_given(Duration::from_secs(5));
    }

    #[test]
    fn a_node_that_was_killed_has_its_mapping_again_when_it_is_started_again() {
        has_its_mapping_again(Speaks::Pcp, "PCP");
        has_its_mapping_again(Speaks::Upnp, "UPnP-IGD");
    }

    /// The line of the log about the port that stays open.
    fn stays_open(log: &str) -> &str {
        let said = |line: &&str| line.contains("a port stays open on the router");
        let lines: Vec<&str> = log.lines().filter(said).collect();
        let [line] = lines[..] else { panic!("one line is wanted, not {lines:?}: {log}") };
        line
    }

    #[test]
    fn that_is_deaf_at_the_end_holds_it_up_for_a_moment_and_the_log_names_the_port() {
        for (speaks, word) in [(Speaks::Pcp, "PCP"), (Speaks::Upnp, "UPnP-IGD")] {
            let nature = Nature { speaks, ..Nature::default() };
            let mut scene = Scene::new(Behind::PortRestricted, nature, ASKS);
            let mesh = &scene.mesh;
            let mut nodes: Vec<_> = [0, 1, HOME].map(|member| mesh.start(member)).into();
            nodes.iter_mut().for_each(Node::wait_until_it_answers);
            let external = external(&proven(&nodes[HOME]));
            scene.gateway.freeze();
            let home = &mut nodes[HOME].process;
            let asked = std::time::Instant::now();
            home.signal("INT");
            assert!(home.wait(net_mesh::SHUTDOWN_LIMIT + Duration::from_secs(1)).is_some(), "{word}");
            // It is given two seconds.
            assert!(asked.elapsed() >= Duration::from_millis(1500), "{word}: it was not asked");
            let log = home.log();
            let line = stays_open(&log);
            for part in [word, &external, "WARN", "until its lease ends"] {
                assert!(line.contains(part), "{part}: {line}");
            }
            assert!(!log.contains("stopped without waiting"), "{log}");
            nodes.truncate(HOME);
            nodes.into_iter().for_each(Node::stop);
        }
    }

    #[test]
    fn a_second_signal_ends_the_node_at_once_and_the_log_names_the_port() {
        let nature = Nature { speaks: Speaks::Pcp, ..Nature::default() };
        let mut scene = Scene::new(Behind::PortRestricted, nature, ASKS);
        let mesh = &scene.mesh;
        let mut nodes: Vec<_> = [0, 1, HOME].map(|member| mesh.start(member)).into();
        nodes.iter_mut().for_each(Node::wait_until_it_answers);
        let external = external(&proven(&nodes[HOME]));
        scene.gateway.freeze();
        let home = &mut nodes[HOME].process;
        home.signal("TERM");
        wait_until("the node is stopping", Duration::from_secs(1), || {
            home.log().contains("stopping").then_some(())
        });
        let asked = std::time::Instant::now();
        home.signal("TERM");
        assert!(home.wait(Duration::from_secs(2)).is_some(), "it does not end");
        let (took, log) = (asked.elapsed(), home.log());
        assert!(log.contains("stopped at once"), "{took:?}: {log}");
        let line = stays_open(&log);
        assert!(line.contains("PCP") && line.contains(&external), "{external}: {line}");
        nodes.truncate(HOME);
        nodes.into_iter().for_each(Node::stop);
    }

    #[test]
    fn has_nothing_left_whenever_a_node_stops_that_was_asking() {
        let nature = Nature { speaks: Speaks::Upnp, ..Nature::default() };
        let scene = Scene::new(Behind::PortRestricted, nature, ASKS);
        for moment in [0, 100, 500, 3000].map(Duration::from_millis) {
            let nodes = scene.start(&[HOME]);
            std::thread::sleep(moment);
            nodes.into_iter().for_each(Node::stop);
            scene.wait_until_none_is_given(Duration::from_secs(5));
        }
    }

    /// What the router gives is reported, given back, and told nobody.
    fn is_useless(behind: Behind, nature: Nature, reason: &str) {
        let scene = Scene::new(behind, nature, ASKS);
        let nodes = scene.start(&[0, 1, HOME]);
        let status =
            nodes[HOME].wait_for_status("that it is of no use", KNOWN, |status| state(status) == "useless");
        let said = status["port_mapping"]["reason"].as_str().unwrap();
        assert!(said.contains(reason), "{said}");
        assert!(nodes[HOME].process.log().contains("port mapping useless"));
        scene.wait_until_none_is_given(Duration::from_secs(5));
        let home = peer(&nodes[0], "home");
        assert_eq!(home["port_mapped"], false, "{home:#}");
        let why = scene.mesh.home(0).json(&["why", "home", "--json"]);
        let told = why["candidates"]["theirs"].to_string();
        let external = external(&status);
        assert!(!told.contains(&external), "{external} is told: {told}");
        nodes.into_iter().for_each(Node::stop);
    }

    #[test]
    fn behind_another_nat_is_double_nat_and_told_nobody() {
        let nature = Nature { claims: Some("44.99.0.1"), ..Nature::default() };
        is_useless(Behind::TwoNats, nature, "another NAT");
    }

    #[test]
    fn that_maps_and_does_not_forward_is_found_out() {
        for behind in [Behind::Symmetric, Behind::PortRestricted] {
            is_useless(behind, Nature { forwards: false, ..Nature::default() }, "does not arrive");
        }
    }

    #[test]
    fn is_looked_for_in_all_protocols_where_there_is_none_and_the_node_works_without() {
        let seen = captured(ASKS);
        assert!(seen.contains(&5351) && seen.contains(&1900), "the capture would not see it: {seen:?}");
        // A search: three packets in each of PCP and NAT-PMP, and three of UPnP's to the gateway and to everybody.
        assert!(seen.len() <= 2 * 12, "more than two searches: {seen:?}");
    }
}
