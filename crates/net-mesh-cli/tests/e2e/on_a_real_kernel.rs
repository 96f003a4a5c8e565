//! Real NATs of the Linux kernel: the lab is what it says, and the program says what the lab is.

use std::net::UdpSocket;
use std::time::Duration;

use crate::support::net::{Behind, Host, Net};
use crate::support::node::Home;
use crate::support::reach::{arrives, is_cut_off};

/// How long a verdict may take from the start of the node: sessions with both helpers, then the questions.
const VERDICT_LIMIT: Duration = Duration::from_secs(30);

const PORT: u16 = 7_400;

/// What a NAT is seen to do, in the words of `status --json`.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mapping: &'static str,
    filtering: &'static str,
}

const fn seen(mapping: &'static str, filtering: &'static str) -> Seen {
    Seen { mapping, filtering }
}

/// Asks the NAT in front of `host` the questions of RFC 5780 with bare sockets.
fn look(host: &Host, helper: &Host, stranger: &Host) -> Seen {
    let local = |socket: &UdpSocket| socket.local_addr().unwrap();
    let inside = host.socket();
    let (asked, other_port, unknown) = (helper.socket(), helper.socket(), stranger.socket());

    // Another socket of the same host may talk to whom it likes: that is nobody else's business. And it
    // proves that the ways to and from the stranger work at all.
    let neighbour = host.socket();
    let mapped = arrives(&neighbour, local(&unknown), &unknown);
    arrives(&unknown, mapped, &neighbour);

    let mapped = arrives(&inside, local(&asked), &asked);
    assert_eq!(mapped.ip(), host.outside, "the outside of the NAT");
    arrives(&asked, mapped, &inside);

    let from_stranger = !is_cut_off(&unknown, mapped, &inside);
    let from_other_port = !is_cut_off(&other_port, mapped, &inside);
    arrives(&asked, mapped, &inside);

    let for_other_port = arrives(&inside, local(&other_port), &other_port);
    let for_stranger = arrives(&inside, local(&unknown), &unknown);
    let mapping = match (for_other_port == mapped, for_stranger == mapped) {
        (true, true) if mapped == local(&inside) => "none",
        (true, true) => "endpoint-independent",
        (true, false) => "address-dependent",
        (false, _) => "address-and-port-dependent",
    };
    let filtering = match (from_stranger, from_other_port) {
        (true, _) => "endpoint-independent",
        (false, true) => "address-dependent",
        (false, false) => "address-and-port-dependent",
    };
    seen(mapping, filtering)
}

fn lab_shows(behind: Behind, expected: &Seen) {
    let mut net = Net::new();
    let helper = net.host("helper", Behind::Nothing);
    let stranger = net.host("stranger", Behind::Nothing);
    let host = net.host("host", behind);
    assert_eq!(look(&host, &helper, &stranger), *expected);
}

/// Three real nodes, joined by a ticket; the third one's verdict must be the right one.
fn program_finds(behind: Behind, class: &str, expected: &Seen) {
    let mut net = Net::new();
    let [first, second] = ["first", "second"].map(|name| net.host(name, Behind::Nothing));
    let host = net.host("host", behind);
    let home = |host: &Host| Home::new(host.place());
    let (first_home, second_home, host_home) = (home(&first), home(&second), home(&host));

    first_home.init("first");
    let ticket = first_home.invite(&[first.at(PORT)]);
    second_home.join(&ticket, "second");
    host_home.join(&ticket, "host");

    let listen = format!("0.0.0.0:{PORT}");
    let listen = ["--listen", listen.as_str()];
    let first_node = first_home.up(&listen);
    let second_node = second_home.up(&listen);
    let host_node = host_home.up(&listen);
    host_node.wait_for_direct_peers(&["first", "second"], VERDICT_LIMIT);
    let status =
        host_node.wait_for_status("a verdict", VERDICT_LIMIT, |status| status["nat"]["class"] != "unknown");

    let nat = &status["nat"];
    assert_eq!(nat["class"], class, "{status:#}");
    assert_eq!(nat["mapping"], expected.mapping, "{status:#}");
    assert_eq!(nat["filtering"], expected.filtering, "{status:#}");
    assert!(nat["confidence"].as_f64().is_some_and(|c| c > 0.5 && c <= 1.0), "{status:#}");
    assert!(nat["age_ms"].is_u64(), "{status:#}");
    let outside = host.outside.to_string();
    let reflexive = status["reflexive"].as_array().cloned().unwrap_or_default();
    let here = |addr: &serde_json::Value| addr.as_str().is_some_and(|text| text.starts_with(&outside));
    assert!(reflexive.iter().any(here), "no reflexive address on {outside}: {status:#}");

    host_node.stop();
    second_node.stop();
    first_node.stop();
}

/// Two tests for each kind of NAT: the lab first, so that a failure of the second is the program's.
macro_rules! kinds {
    ($($module:ident: $behind:expr => $class:literal, $mapping:literal, $filtering:literal;)+) => {$(
        mod $module {
            use super::*;

            const SEEN: Seen = seen($mapping, $filtering);

            #[test]
            fn the_lab_is_what_it_says() {
                lab_shows($behind, &SEEN);
            }

            #[test]
            fn the_program_finds_out() {
                program_finds($behind, $class, &SEEN);
            }
        }
    )+};
}

kinds! {
    no_nat: Behind::Nothing => "direct", "none", "endpoint-independent";
    full_cone: Behind::FullCone => "full-cone", "endpoint-independent", "endpoint-independent";
    restricted_cone: Behind::RestrictedCone => "restricted-cone", "endpoint-independent", "address-dependent";
    port_restricted: Behind::PortRestricted
        => "port-restricted", "endpoint-independent", "address-and-port-dependent";
    symmetric: Behind::Symmetric => "symmetric", "address-and-port-dependent", "address-and-port-dependent";
    two_chained_nats: Behind::TwoNats
        => "port-restricted", "endpoint-independent", "address-and-port-dependent";
    a_stateful_firewall: Behind::Firewall => "port-restricted", "none", "address-and-port-dependent";
}
