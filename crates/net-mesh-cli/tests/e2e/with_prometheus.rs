//! Metrics, and the dashboard that shows them, with a Prometheus that nobody here wrote.

use std::fmt::Write as _;
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::metrics::up;
use crate::support::node::{Home, Node};
use crate::support::pair::Pair;
use crate::support::process::{Place, Running, free_tcp_port, program};
use crate::support::scrape::{Scrape, http};
use crate::support::wait_until;

/// From the start of Prometheus to what it has scraped twice.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn promtool_finds_nothing_wrong() {
    let pair = Pair::new();
    let (nodes, at) = up(&pair);
    for addr in at {
        let file = pair.homes[0].beside("scraped");
        std::fs::write(&file, Scrape::of(addr).text).unwrap();
        let mut command = Command::new(program("promtool", "prometheus"));
        command.args(["check", "metrics"]).stdin(File::open(&file).unwrap());
        let done = command.output().unwrap();
        let said = String::from_utf8_lossy(&[&done.stdout[..], &done.stderr[..]].concat()).into_owned();
        assert!(done.status.success() && said.is_empty(), "{said}");
    }
    nodes.into_iter().for_each(Node::stop);
}

/// A Prometheus of its own, on loopback, with all it writes in the home's directory.
struct Prometheus {
    process: Running,
    at: SocketAddr,
}

impl Prometheus {
    fn start(home: &Home, targets: [SocketAddr; 2]) -> Self {
        let at = SocketAddr::from(([127, 0, 0, 1], free_tcp_port()));
        let (config, log) = (home.beside("prometheus.yml"), home.beside("prometheus.log"));
        let mut text = String::from("global: {scrape_interval: 500ms, scrape_timeout: 500ms}\n");
        writeln!(
            text,
            "scrape_configs: [{{job_name: net-mesh, static_configs: [{{targets: {targets:?}}}]}}]"
        )
        .unwrap();
        // Addresses with colons are strings only in quotes.
        let text = targets.iter().fold(text, |t, a| t.replace(&a.to_string(), &format!("\"{a}\"")));
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(program("prometheus", "prometheus"));
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", home.beside("prometheus").display()));
        command.args([format!("--web.listen-address={at}"), "--log.level=warn".to_owned()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        Self { process: Running::start(&Place::Here, command, log), at }
    }

    /// What a query comes to; `None` while nobody answers.
    fn query(&self, query: &str) -> Option<Value> {
        let query = utf8_percent_encode(query, NON_ALPHANUMERIC);
        let (_, body) = http(self.at, "GET", &format!("/api/v1/query?query={query}")).ok()?;
        serde_json::from_str(&body).ok()
    }

    /// The only value of a query.
    fn number(&self, query: &str) -> Option<f64> {
        let answer = self.query(query)?;
        let [series] = &answer["data"]["result"].as_array()?[..] else { return None };
        series["value"][1].as_str()?.parse().ok()
    }

    fn stop(mut self) {
        self.process.signal("TERM");
        assert!(self.process.wait(Duration::from_secs(20)).is_some(), "{}", self.process.log());
    }
}

/// The queries of the dashboard, as a person sends them who has chosen all nodes.
fn dashboard_queries() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/grafana/net-mesh.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let chosen = |text: &str| {
        text.replace("$__rate_interval", "1m").replace("$job", "net-mesh").replace("$node", ".*")
    };
    targets.map(|target| chosen(target["expr"].as_str().unwrap())).collect()
}

#[test]
fn a_real_prometheus_scrapes_two_nodes_and_answers_the_dashboard() {
    let pair = Pair::new();
    let (nodes, at) = up(&pair);
    let prometheus = Prometheus::start(&pair.homes[0], at);
    wait_until("both nodes are scraped", LIMIT, || {
        (prometheus.number("sum(up{job=\"net-mesh\"})") == Some(2.0)
            && prometheus.number("count(count_over_time(net_mesh_build_info[1m]) > 1)") == Some(2.0))
        .then_some(())
    });
    assert_eq!(prometheus.number("sum(net_mesh_sessions{path=\"direct\"})"), Some(2.0));
    assert_eq!(prometheus.number("sum(net_mesh_members)"), Some(4.0));
    assert!(prometheus.number("sum(net_mesh_session_bytes_total)").unwrap() > 1_000.0);
    let queries = dashboard_queries();
    assert!(queries.len() > 30);
    let mut empty = Vec::new();
    for query in queries {
        let answer = prometheus.query(&query).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        if answer["data"]["result"].as_array().unwrap().is_empty() {
            empty.push(query);
        }
    }
    // What needs a rendezvous, a router or a failure has nothing to show here; everything else has.
    let may_be = ["net_mesh_rendezvous_total", "net_mesh_port_mapping", "> 0"];
    empty.retain(|query| !may_be.iter().any(|part| query.contains(part)));
    assert!(empty.is_empty(), "{empty:#?}");
    prometheus.stop();
    nodes.into_iter().for_each(Node::stop);
}
