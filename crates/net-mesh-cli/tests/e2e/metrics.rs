//! The metrics of two nodes that talk to each other.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::support::node::{Home, Node};
use crate::support::pair::{MEET_LIMIT, Pair, Subscriber, publish};
use crate::support::process::free_tcp_port;
use crate::support::scrape::{Scrape, http};
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(20);

/// Two nodes that know each other, and where their metrics are.
pub(crate) fn up(pair: &Pair) -> ([Node<'_>; 2], [SocketAddr; 2]) {
    let at = [0, 1].map(|_| SocketAddr::from(([127, 0, 0, 1], free_tcp_port())));
    let nodes = [0, 1].map(|n| {
        let (listen, metrics) = (pair.addrs[n].to_string(), at[n].to_string());
        pair.homes[n].up(&["--listen", &listen, "--metrics", &metrics])
    });
    nodes[0].wait_for_direct_peers(&["two"], MEET_LIMIT);
    nodes[1].wait_for_direct_peers(&["one"], MEET_LIMIT);
    (nodes, at)
}

#[test]
fn what_two_nodes_say_to_each_other_is_counted() {
    let pair = Pair::new();
    let (nodes, at) = up(&pair);
    for (node, addr) in nodes.iter().zip(at) {
        assert_eq!(node.process.log().matches(&format!("http://{addr}/metrics")).count(), 1, "one line");
    }
    wait_until("both know of each other", LIMIT, || {
        at.iter().all(|addr| Scrape::of(*addr).sum("net_mesh_members", &[]) == 2.0).then_some(())
    });
    let before = at.map(Scrape::of);
    let mut subscriber = Subscriber::ready(&pair.homes[1], &pair.homes[0], "load");
    let count = 1_000;
    let line = |n: usize| format!("{n:08}{}", "x".repeat(1_000));
    thread::scope(|scope| {
        publish(scope, &pair.homes[0], "load", (0..count).map(line));
        (0..count).for_each(|n| subscriber.expect(&line(n)));
    });
    let bytes = |scrape: &Scrape, direction| {
        scrape.sum("net_mesh_session_bytes_total", &[r#"path="direct""#, direction])
    };
    #[allow(clippy::cast_precision_loss, reason = "a million")]
    let sent = (count * 1_000) as f64;
    wait_until("a megabyte is counted at both ends", LIMIT, || {
        let after = at.map(Scrape::of);
        let out = bytes(&after[0], r#"direction="sent""#) - bytes(&before[0], r#"direction="sent""#);
        let into = bytes(&after[1], r#"direction="received""#) - bytes(&before[1], r#"direction="received""#);
        (out >= sent && into >= sent).then_some(())
    });
    for scrape in at.map(Scrape::of) {
        assert_eq!(scrape.values("net_mesh_build_info", &[env!("CARGO_PKG_VERSION")]), [1.0]);
        assert_eq!(scrape.sum("net_mesh_sessions", &[r#"path="direct""#]), 1.0);
        assert_eq!(scrape.sum("net_mesh_session_bytes_total", &[r#"path="relayed""#]), 0.0);
        assert!(scrape.sum("net_mesh_reflex_packets_total", &[r#"kind="query",result="answered""#]) > 0.0);
        let rtt = scrape.sum("net_mesh_session_rtt_seconds", &[r#"path="direct",statistic="median""#]);
        assert!(rtt > 0.0 && rtt < 1.0, "{rtt} seconds");
        for metric in net_mesh::metrics::all() {
            let told = format!("# TYPE {} {}\n", metric.name, metric.kind.word());
            let without_events = ["net_mesh_rendezvous_total", "net_mesh_port_mapping"];
            let missing = without_events.iter().any(|start| metric.name.starts_with(start));
            assert!(missing || scrape.text.contains(&told), "no {told}");
            assert!(missing || scrape.text.contains(&format!("# HELP {} {}\n", metric.name, metric.help)));
        }
    }
    drop(subscriber);
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn nothing_but_metrics_is_there_and_nothing_can_be_changed() {
    let home = Home::here();
    home.init("one");
    let at = SocketAddr::from(([127, 0, 0, 1], free_tcp_port()));
    let node = home.up(&["--listen", "127.0.0.1:0", "--metrics", &at.to_string()]);
    for path in ["/", "/metrics/", "/v1/status", "//metrics"] {
        let (head, _) = http(at, "GET", path).unwrap();
        assert!(head.starts_with("HTTP/1.1 404 "), "{path}: {head}");
    }
    for method in ["POST", "PUT", "DELETE"] {
        let (head, _) = http(at, method, "/metrics").unwrap();
        assert!(head.starts_with("HTTP/1.1 405 ") && head.contains("allow: GET, HEAD"), "{method}: {head}");
    }
    let (head, body) = http(at, "HEAD", "/metrics").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && body.is_empty(), "{head}");
    node.stop();
}

#[test]
fn a_port_that_is_taken_is_said_at_the_start() {
    let home = Home::here();
    home.init("one");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let line = home.run(&["up", "--listen", "127.0.0.1:0", "--metrics", &at]).failure("a taken port");
    assert!(line.contains(&at) && line.contains("--metrics") && line.contains("in use"), "{line}");
}

/// Twice as many connections as there may be, all of which say nothing.
#[test]
fn whoever_holds_all_connections_keeps_others_waiting_and_not_out() {
    let home = Home::here();
    home.init("one");
    let at = SocketAddr::from(([127, 0, 0, 1], free_tcp_port()));
    let node = home.up(&["--listen", "127.0.0.1:0", "--metrics", &at.to_string()]);
    let silent: Vec<TcpStream> = (0..32).map(|_| TcpStream::connect(at).unwrap()).collect();
    assert_eq!(node.status()["name"], "one", "the node has other things to do");
    assert_eq!(Scrape::of(at).sum("net_mesh_members", &[]), 1.0);
    drop(silent);
    node.stop();
}

/// A node that runs has to be shut down, so nothing may fail between its start and its end.
#[test]
fn are_served_before_the_node_starts() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (listen, at) = (taken.local_addr().unwrap().to_string(), format!("127.0.0.1:{}", free_tcp_port()));
    let home = Home::here();
    home.init("one");
    let done = home.run(&["up", "--listen", &listen, "--metrics", &at]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains(&format!("http://{at}/metrics")), "{done:?}");
}
