//! What the doctor says, where what it should say is known.

use std::time::Duration;

use serde_json::Value;

use crate::support::node::Home;
use crate::support::pair::Pair;
use crate::support::process::{Done, free_port};
use crate::support::wait_until;

/// How long what the doctor waits for may take to be known.
const LIMIT: Duration = Duration::from_secs(40);

fn doctor(home: &Home, options: &[&str]) -> Done {
    let done = home.run(&[&["doctor"], options].concat());
    assert_eq!(done.stderr, "", "the reason belongs into the report");
    done
}

fn json(done: &Done) -> Value {
    serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"))
}

/// The last line of a report, which must be its verdict.
fn verdict(done: &Done) -> &str {
    let last = done.stdout.lines().next_back().unwrap_or_default();
    last.strip_prefix("verdict").unwrap_or_else(|| panic!("no verdict in the end: {done:?}")).trim()
}

/// Asks until the facts are the wanted ones; fails with the last ones.
fn wait_for(home: &Home, what: &str, wanted: impl Fn(&Value) -> bool) -> (Done, Value) {
    let mut last = String::new();
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_until(what, LIMIT, || {
            let done = doctor(home, &["--json"]);
            let facts = json(&done);
            last.clone_from(&done.stdout);
            wanted(&facts).then_some((done, facts))
        })
    }));
    found.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}: {last}"))
}

#[test]
fn where_no_node_runs_it_says_so_and_what_it_knows() {
    let home = Home::here();
    let done = doctor(&home, &[]);
    assert_eq!((done.code, verdict(&done).contains("none can as it is")), (Some(1), true), "{done:?}");
    assert!(done.stdout.contains(&format!("net-mesh --home {} init", home.path().display())), "{done:?}");

    home.init("quokka");
    let done = doctor(&home, &[]);
    let path = home.path().display().to_string();
    assert_eq!((done.code, verdict(&done)), (Some(1), format!("no node is running in {path}").as_str()));
    let done = doctor(&home, &["--json"]);
    let facts = json(&done);
    assert_eq!((done.code, &facts["running"], &facts["can_work"]), (Some(1), &false.into(), &false.into()));
    assert_eq!(facts["name"], "quokka");
    for options in [&["--anonymize"][..], &["--anonymize", "--json"], &["--anonymize", "--mesh"]] {
        let done = doctor(&home, options);
        assert_eq!(done.code, Some(1));
        assert!(!done.stdout.contains(&path) && !done.stdout.contains("quokka"), "{done:?}");
    }
}

#[test]
fn a_node_alone_is_well() {
    let home = Home::here();
    home.init("quokka");
    let node = home.up(&["--listen", "127.0.0.1:0"]);
    let done = doctor(&home, &[]);
    assert_eq!(
        (done.code, verdict(&done)),
        (Some(0), "this node is ready, and alone: it knows no other member")
    );
    let done = doctor(&home, &["--mesh"]);
    assert_eq!((done.code, verdict(&done)), (Some(0), "this node is alone: there are no pairs"));
    node.stop();
}

#[test]
fn a_node_whose_start_addresses_are_silent_cannot_work_and_names_them() {
    let (first, second) = (Home::here(), Home::here());
    first.init("quokka");
    let nobody = ([127, 0, 0, 1], free_port()).into();
    second.join(&first.invite(&[nobody]), "wombat");
    let node = second.up(&["--listen", "127.0.0.1:0"]);
    let (done, facts) = wait_for(&second, "silence", |facts| {
        facts["udp"] == "blocked" && facts["start"][0]["state"] == "silent"
    });
    assert_eq!((done.code, &facts["can_work"]), (Some(1), &false.into()));
    assert!(facts["improve"].to_string().contains(&nobody.to_string()), "{facts:#}");
    let done = doctor(&second, &[]);
    assert_eq!(done.code, Some(1));
    assert!(verdict(&done).starts_with("this node cannot work: UDP is blocked"), "{done:?}");
    node.stop();
}

#[test]
fn a_pair_on_loopback_is_well_and_the_api_says_the_same() {
    let pair = Pair::new();
    let nodes = pair.up();
    let (done, facts) = wait_for(&pair.homes[1], "a direct session", |facts| facts["members"]["direct"] == 1);
    assert_eq!((done.code, &facts["can_work"]), (Some(0), &true.into()), "{facts:#}");
    assert_eq!((&facts["udp"], &facts["start"][0]["state"]), (&"works".into(), &"connected".into()));
    assert_eq!(facts["clock"]["members"], 1);
    assert!(facts["clock"]["ahead_ms"].as_i64().unwrap().abs() < 30_000, "one machine, one clock: {facts:#}");
    assert!(facts["datagram"]["lowest"].as_u64().unwrap() >= 1200, "{facts:#}");
    assert_eq!(facts["double_nat"]["state"], "no-ipv4", "loopback leads nowhere: {facts:#}");
    wait_until("both are known to be linked", LIMIT, || {
        let done = doctor(&pair.homes[1], &["--mesh"]);
        (done.code == Some(0) && verdict(&done) == "every pair can be direct").then_some(())
    });
    let done = doctor(&pair.homes[1], &[]);
    assert_eq!((done.code, verdict(&done)), (Some(0), "this node works, and reaches 1 member directly"));
    for node in nodes {
        node.stop();
    }
}

/// What needs networks of a real kernel; left out by this name where there are none.
mod doctor_in_a_lab {
    use super::*;
    use crate::support::mesh::Mesh;
    use crate::support::net::{Behind, Host, Net};
    use crate::support::node::Node;

    const HELPERS: [&str; 2] = ["quokka", "wombat"];
    const OTHERS: [&str; 2] = ["numbat", "bilby"];
    /// The place in the mesh of the one that is asked.
    const ASKED: usize = 2;

    struct Scene {
        mesh: Mesh,
        hosts: Vec<Host>,
        _net: Net,
    }

    fn scene(behind: [Behind; 2]) -> Scene {
        let mut net = Net::new();
        let helpers = HELPERS.map(|name| net.host(name, Behind::Nothing));
        let others = [0, 1].map(|n| net.host(OTHERS[n], behind[n]));
        let hosts = helpers.iter().chain(&others).cloned().collect();
        Scene { mesh: Mesh::around(helpers.into(), others.into()), hosts, _net: net }
    }

    impl Scene {
        fn asked(&self) -> &Home {
            self.mesh.home(ASKED)
        }

        fn start(&self) -> Vec<Node<'_>> {
            let mut nodes: Vec<Node<'_>> = (0..4).map(|member| self.mesh.start(member)).collect();
            nodes.iter_mut().for_each(Node::wait_until_it_answers);
            nodes
        }

        /// In neither form, of neither report, a name or an address of the lab is left.
        fn hides_everything(&self) {
            let ids = self.mesh.home(0).json(&["peers", "--json"]);
            let ids =
                ids.as_array().unwrap().iter().map(|peer| peer["node_id"].as_str().unwrap()[..10].to_owned());
            let addresses =
                self.hosts.iter().flat_map(|host| [host.ip().to_string(), host.outside.to_string()]);
            let names = self.hosts.iter().map(|host| host.name.clone());
            let secrets: Vec<String> = ids.chain(addresses).chain(names).collect();
            for report in [&["doctor", "--anonymize"][..], &["doctor", "--mesh", "--anonymize"]] {
                for form in [&[][..], &["--json"]] {
                    let done = self.asked().run(&[report, form].concat());
                    assert!(!done.stdout.is_empty(), "{done:?}");
                    for secret in &secrets {
                        assert!(!done.stdout.contains(secret), "{secret} is left:\n{}", done.stdout);
                    }
                }
            }
        }
    }

    fn classes_are_known(advice: &Value) -> bool {
        advice["members"] == 4 && advice["pairs"]["undecided"] == 0
    }

    fn advised(scene: &Scene) -> Value {
        wait_until("everyone's class is known", LIMIT, || {
            let advice = json(&doctor(scene.asked(), &["--mesh", "--json"]));
            classes_are_known(&advice).then_some(advice)
        })
    }

    #[test]
    fn all_direct() {
        let scene = scene([Behind::PortRestricted, Behind::FullCone]);
        let nodes = scene.start();
        let (done, facts) = wait_for(scene.asked(), "three direct paths and a class", |facts| {
            facts["members"]["direct"] == 3 && facts["nat"]["class"] == "port-restricted"
        });
        assert_eq!((done.code, &facts["can_work"]), (Some(0), &true.into()), "{facts:#}");
        let outside = facts["ipv4"]["outside"].to_string();
        assert!(outside.contains(&scene.hosts[ASKED].outside.to_string()), "{facts:#}");
        assert!(
            facts["ipv4"]["inside"].to_string().contains(&scene.hosts[ASKED].ip().to_string()),
            "{facts:#}"
        );
        assert!(facts["ports"]["count"].as_u64().unwrap() >= 1, "{facts:#}");
        assert_eq!(facts["double_nat"]["state"], "unknown", "nobody asked the router: {facts:#}");
        assert_eq!(facts["hairpin"]["state"], "unknown", "nobody tried: {facts:#}");
        assert_eq!(facts["relays"]["members"], 3, "{facts:#}");
        let states: Vec<&Value> = facts["start"].as_array().unwrap().iter().map(|s| &s["state"]).collect();
        assert_eq!(states, ["connected", "connected"], "{facts:#}");

        let advice = advised(&scene);
        assert_eq!((&advice["pairs"]["direct"], &advice["pairs"]["relayed"]), (&6.into(), &0.into()));
        assert_eq!(advice["verdict"], "every pair can be direct");
        let done = doctor(scene.asked(), &[]);
        assert_eq!(verdict(&done), "this node works, and reaches 3 members directly");
        scene.hides_everything();
        scene_ends(nodes);
    }

    #[test]
    fn a_symmetric_pair_is_relayed_and_one_mapped_port_would_do() {
        let scene = scene([Behind::Symmetric, Behind::Symmetric]);
        let nodes = scene.start();
        let (done, facts) = wait_for(scene.asked(), "a relayed path and a class", |facts| {
            let members = &facts["members"];
            members["direct"] == 2 && members["relayed"] == 1 && facts["nat"]["class"] == "symmetric"
        });
        assert_eq!((done.code, &facts["can_work"]), (Some(0), &true.into()), "{facts:#}");
        assert!(facts["improve"].to_string().contains("port-mapping"), "{facts:#}");
        let done = doctor(scene.asked(), &[]);
        assert_eq!(verdict(&done), "this node works, and reaches members: 2 direct, 1 relayed");

        let advice = advised(&scene);
        assert_eq!((&advice["pairs"]["direct"], &advice["pairs"]["relayed"]), (&5.into(), &1.into()));
        let best = &advice["suggestions"][0];
        assert_eq!(
            (&best["change"], &best["pairs"], &best["others"]),
            (&"open-router".into(), &1.into(), &1.into())
        );
        let done = doctor(scene.asked(), &["--mesh"]);
        assert!(verdict(&done).contains("switch on port mapping"), "{done:?}");
        scene.hides_everything();
        scene_ends(nodes);
    }

    #[test]
    fn udp_blocked() {
        let scene = scene([Behind::NoUdp, Behind::PortRestricted]);
        let nodes = scene.start();
        let (done, facts) = wait_for(scene.asked(), "a clear word", |facts| facts["udp"] == "blocked");
        assert_eq!((done.code, &facts["can_work"]), (Some(1), &false.into()), "{facts:#}");
        let done = doctor(scene.asked(), &[]);
        assert_eq!(done.code, Some(1));
        assert!(verdict(&done).starts_with("this node cannot work: UDP is blocked"), "{done:?}");
        let advice = json(&doctor(scene.asked(), &["--mesh", "--json"]));
        assert_eq!(advice["suggestions"][0]["change"], "allow-udp", "{advice:#}");
        scene.hides_everything();
        scene_ends(nodes);
    }

    #[test]
    fn udp_that_is_cut_off_while_the_node_runs() {
        let scene = scene([Behind::PortRestricted, Behind::FullCone]);
        let nodes = scene.start();
        wait_for(scene.asked(), "three direct paths", |facts| facts["members"]["direct"] == 3);
        scene.hosts[ASKED].cut_udp();
        let (done, facts) = wait_for(scene.asked(), "a clear word", |facts| facts["udp"] == "blocked");
        assert_eq!((done.code, &facts["can_work"]), (Some(1), &false.into()), "{facts:#}");
        assert_eq!(
            (&facts["members"]["failed"], &facts["members"]["relayed"]),
            (&3.into(), &0.into()),
            "{facts:#}"
        );
        scene_ends(nodes);
    }

    fn scene_ends(nodes: Vec<Node<'_>>) {
        nodes.into_iter().for_each(Node::stop);
    }

    #[cfg(feature = "port-mapping")]
    #[test]
    fn a_second_nat_shows_once_the_router_was_asked() {
        use crate::support::gateway::{Gateway, Nature};

        let scene = scene([Behind::TwoNats, Behind::Symmetric]);
        let nature = Nature { claims: Some("44.99.0.1"), ..Nature::default() };
        let gateway = Gateway::new(&scene.hosts[ASKED], nature);
        let Scene { mesh, hosts, _net } = scene;
        let scene = Scene { mesh: mesh.with_options(OTHERS[0], &["--port-mapping"]), hosts, _net };
        let nodes = scene.start();
        let (done, facts) = wait_for(scene.asked(), "that there is a second NAT", |facts| {
            facts["double_nat"]["state"] == "yes"
        });
        assert_eq!(done.code, Some(0), "it works nevertheless: {facts:#}");
        assert_eq!(facts["double_nat"]["evidence"], "router-sees-another", "{facts:#}");
        assert_eq!(facts["port_mapping_built"], true);
        let done = doctor(scene.asked(), &["--anonymize"]);
        assert!(!done.stdout.contains("44."), "{}", done.stdout);
        scene.hides_everything();
        scene_ends(nodes);
        drop(gateway);
    }
}
