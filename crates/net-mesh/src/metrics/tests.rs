//! What metrics promise: their names, their table, and that nodes record what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ::metrics::{Counter, Gauge, Histogram, KeyName, Metadata, Recorder, Unit};
use net_mesh_proto::id::NodeId;
use net_mesh_proto::liveness::{Cause, Evidence, Health, Issue};
use net_mesh_proto::node::{DialFailure, Event};
use net_mesh_proto::rendezvous::{Attempt, Decline, Outcome, Plan};
use net_mesh_proto::time::Time;

use super::*;
use crate::{Identity, Mesh, MeshSecret, NodeKey};

type Series = (Kind, Key, Arc<AtomicU64>);

/// Keeps everything that is recorded.
#[derive(Debug, Default)]
pub(super) struct Kept {
    series: Mutex<BTreeMap<String, Series>>,
    helps: Mutex<BTreeMap<String, (Kind, String)>>,
}

impl Kept {
    fn of(&self, key: &Key, kind: Kind) -> Arc<AtomicU64> {
        let series = &mut self.series.lock().unwrap();
        let entry = series.entry(key.to_string()).or_insert_with(|| (kind, key.clone(), Arc::default()));
        assert_eq!(entry.0, kind, "{key}");
        Arc::clone(&entry.2)
    }

    /// The sum over all series of a metric with these labels.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let series = self.series.lock().unwrap();
        let has = |key: &Key, (name, value): &(&str, &str)| {
            key.labels().any(|label| label.key() == *name && label.value() == *value)
        };
        let of =
            series.values().filter(|(_, key, _)| key.name() == name && labels.iter().all(|l| has(key, l)));
        of.map(|(kind, _, value)| match kind {
            #[allow(clippy::cast_precision_loss, reason = "small numbers")]
            Kind::Counter => value.load(Ordering::Relaxed) as f64,
            Kind::Gauge => f64::from_bits(value.load(Ordering::Relaxed)),
        })
        .sum()
    }

    /// Fails unless everything recorded is in the table, with the labels and values that it says.
    pub(super) fn check(&self) {
        for (kind, key, _) in self.series.lock().unwrap().values() {
            let metric = all().iter().find(|metric| metric.name == key.name());
            let metric = metric.unwrap_or_else(|| panic!("{key} is not in the table"));
            assert_eq!(metric.kind, *kind, "{key}");
            let names: Vec<&str> = metric.labels.iter().map(|label| label.name).collect();
            assert_eq!(key.labels().map(KeyLabel::key).collect::<Vec<_>>(), names, "{key}");
            for (label, given) in metric.labels.iter().zip(key.labels()) {
                if let Values::Of(values) = label.values {
                    assert!(values().contains(&given.value()), "{key}: {}", label.name);
                }
            }
        }
    }

    fn names(&self) -> BTreeSet<String> {
        self.series.lock().unwrap().values().map(|(_, key, _)| key.name().to_owned()).collect()
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.helps.lock().unwrap().insert(name.as_str().to_owned(), (Kind::Counter, help.into_owned()));
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.helps.lock().unwrap().insert(name.as_str().to_owned(), (Kind::Gauge, help.into_owned()));
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        panic!("{name:?}: there are no histograms");
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.of(key, Kind::Counter))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.of(key, Kind::Gauge))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        panic!("{key}: there are no histograms");
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn names_follow_the_conventions() {
    let word = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && !text.contains("__")
            && !text.ends_with('_')
    };
    let mut seen = BTreeSet::new();
    for metric in all() {
        let Metric { name, kind, labels, help } = metric;
        assert!(name.starts_with("net_mesh_") && word(name), "{name}");
        assert!(seen.insert(*name), "{name} is there twice");
        let base = name.strip_suffix("_total");
        assert_eq!(base.is_some(), *kind == Kind::Counter, "{name}: _total says that it is a counter");
        let base = base.unwrap_or(name);
        for unit in ["bytes", "seconds", "ratio", "info"] {
            assert!(
                !base.contains(unit) || base.ends_with(&format!("_{unit}")),
                "{name}: the unit comes last"
            );
        }
        for other in ["count", "sum", "bucket"] {
            assert!(!base.ends_with(&format!("_{other}")), "{name}: that is a histogram's");
        }
        for wrong in ["millis", "_ms", "_us", "percent", "counter", "gauge", "kib", "mib", "minutes"] {
            assert!(!name.contains(wrong), "{name}: {wrong}");
        }
        assert!(help.ends_with('.') && help.starts_with(|c: char| !c.is_lowercase()), "{name}: {help}");
        for label in *labels {
            assert!(word(label.name), "{name}: {}", label.name);
            let taken = ["quantile", "le", "instance", "job", "name", "type"];
            assert!(!taken.contains(&label.name), "{name}: {} is taken", label.name);
            if let Values::Open(words) = label.values {
                let most =
                    if label.name == "mediator" { MAX_MEDIATORS.to_string() } else { "one".to_owned() };
                assert!(words.contains(&most), "{name}: how many at most?");
            }
        }
    }
}

/// A label's values as the documentation has them.
fn shown(label: &Label) -> String {
    let mut seen = BTreeSet::new();
    match label.values {
        Values::Of(values) => {
            let each = values().into_iter().filter(|value| seen.insert(*value));
            each.map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ")
        }
        Values::Open(words) => words.to_owned(),
    }
}

#[test]
fn the_documentation_has_the_table() {
    let mut expected = String::new();
    for metric in all() {
        let labels = metric.labels.iter().map(|label| format!("**{}**: {}", label.name, shown(label)));
        let labels = labels.collect::<Vec<_>>().join("<br>");
        let (name, kind, help) = (metric.name, metric.kind.word(), metric.help);
        writeln!(expected, "| `{name}` | {kind} | {labels} | {help} |").unwrap();
    }
    let text = std::fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    let rows: String =
        text.lines().filter(|l| l.starts_with("| `net_mesh_")).fold(String::new(), |s, l| s + l + "\n");
    assert!(rows == expected, "docs/metrics.md must have these rows, in this order:\n{expected}");
}

#[test]
fn every_reason_for_which_something_is_dropped_is_explained() {
    let text = std::fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    let (_, table) = text.split_once("| reason | what was discarded | |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let explained: Vec<&str> = table.split('|').flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    for reason in net_mesh_proto::drops::DropReason::ALL {
        assert!(explained.contains(&reason.name()), "{} is not", reason.name());
    }
}

/// Whatever records in another way would be in no table.
#[test]
fn nothing_is_recorded_but_through_the_table() {
    let mut files = vec![repository().join("crates")];
    let mut looked_at = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("src/metrics/tests.rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            looked_at += 1;
            for word in ["counter!(", "gauge!(", "histogram!("] {
                assert!(!text.contains(word), "{} has {word}", path.display());
            }
        }
    }
    assert!(looked_at > 100);
}

async fn node(byte: u8, from: Option<&Mesh>) -> Mesh {
    let identity =
        Identity::from_secret(&MeshSecret::from_bytes([1; 32]), &NodeKey::from_bytes([byte; 32])).unwrap();
    let mut builder = Mesh::builder(identity).name(format!("n{byte}")).listen("127.0.0.1:0".parse().unwrap());
    if let Some(from) = from {
        builder = builder.bootstrap(from.local_addrs()[0]);
    }
    builder.start().await.unwrap()
}

#[tokio::test]
async fn what_a_node_records_is_in_the_table_and_its_values_are_right() {
    let kept = Kept::default();
    let _guard = ::metrics::set_default_local_recorder(&kept);
    let a = node(1, None).await;
    let b = node(2, Some(&a)).await;
    let sent = 100_000;
    let limit = Instant::now() + Duration::from_secs(20);
    let mut events = b.subscribe("load").unwrap();
    while a.peers().iter().all(|peer| peer.rtt.is_none()) {
        assert!(Instant::now() < limit);
        a.changed().await;
    }
    a.publish("load", vec![7; sent]).await.unwrap();
    events.next().await.unwrap();
    let bytes =
        |direction| kept.sum("net_mesh_session_bytes_total", &[("path", "direct"), ("direction", direction)]);
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    while bytes("sent") < sent as f64 || bytes("received") < sent as f64 {
        assert!(Instant::now() < limit, "{kept:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Both nodes are in one process: a gauge is what one of them said last, counters are sums.
    assert_eq!(kept.sum("net_mesh_members", &[]), 2.0);
    assert_eq!(kept.sum("net_mesh_relaying_members", &[]), 2.0);
    assert_eq!(kept.sum("net_mesh_nat_class", &[]), 1.0);
    assert_eq!(kept.sum("net_mesh_sessions", &[("path", "direct")]), 1.0);
    assert_eq!(kept.sum("net_mesh_session_health", &[("health", "healthy")]), 1.0);
    assert_eq!(kept.sum("net_mesh_sessions_opened_total", &[]), 2.0);
    assert!(kept.sum("net_mesh_session_rtt_seconds", &[("path", "direct"), ("statistic", "max")]) > 0.0);
    assert!(kept.sum("net_mesh_session_rtt_seconds", &[("path", "relayed"), ("statistic", "max")]).is_nan());
    assert_eq!(kept.sum("net_mesh_session_bytes_total", &[("path", "relayed")]), 0.0);
    if cfg!(feature = "nat-traversal") {
        assert!(
            kept.sum("net_mesh_reflex_packets_total", &[("kind", "query"), ("result", "answered")]) > 0.0
        );
        assert!(
            kept.sum("net_mesh_reflex_packets_total", &[("kind", "request"), ("result", "answered")]) > 0.0
        );
    }
    #[cfg(target_os = "linux")]
    assert!(kept.names().contains("net_mesh_socket_dropped_packets_total"));
    kept.check();
    let helps = kept.helps.lock().unwrap();
    for metric in all() {
        assert_eq!(helps.get(metric.name), Some(&(metric.kind, metric.help.to_owned())));
    }
    assert_eq!(helps.len(), all().len());
}

fn attempt(mediator: Option<u8>, sent: u32, heard: u32, outcome: Outcome) -> Attempt {
    Attempt {
        id: 1,
        peer: NodeId([9; 32]),
        seeker: true,
        mediator: mediator.map(|n| NodeId([n; 32])),
        plan: Plan::FireTogether,
        began: Time::ZERO,
        ended: Some(Time::from_millis(5)),
        own: Vec::new(),
        theirs: Vec::new(),
        sent,
        heard,
        outcome: Some(outcome),
    }
}

#[tokio::test]
async fn every_event_is_recorded_under_its_labels_and_any_mesh_makes_few_series() {
    let kept = Kept::default();
    let mesh = node(1, None).await;
    let mut happened = Happened::default();
    let peer = NodeId([9; 32]);
    let route = net_mesh_proto::route::Route::Direct("127.0.0.1:1".parse().unwrap());
    let found = Outcome::Found { addr: "127.0.0.1:1".parse().unwrap(), rtt: Duration::ZERO };
    let mut events: Vec<Event> = (0..=255)
        .map(|n| Event::Rendezvous(Box::new(attempt(Some(n), 1, 1, found))))
        .chain(
            [
                (0, 0, Outcome::TimedOut),
                (2, 1, Outcome::TimedOut),
                (2, 0, Outcome::TimedOut),
                (0, 0, Outcome::Declined(Decline::NoSession)),
                (0, 0, Outcome::Declined(Decline::Busy)),
                (0, 0, Outcome::Unanswered),
                (0, 0, Outcome::Superseded),
            ]
            .map(|(sent, heard, outcome)| Event::Rendezvous(Box::new(attempt(None, sent, heard, outcome)))),
        )
        .collect();
    for health in [Health::Healthy, Health::Suspect, Health::Failed] {
        let of = |cause| Evidence { cause, silent: Duration::ZERO, unanswered: 0, loss: 0, rtt: None };
        events.extend(Cause::ALL.map(|cause| Event::Health { peer, route, health, evidence: of(cause) }));
    }
    events.extend(Issue::ALL.map(|issue| Event::Issue { peer, issue }));
    events.extend(Plan::ALL.map(|plan| Event::Introduced { seeker: peer, sought: peer, attempt: 1, plan }));
    events.extend(
        [DialFailure::Timeout, DialFailure::Rejected, DialFailure::Unusable]
            .map(|failure| Event::DialFailed { peer: Some(peer), addrs: Vec::new(), failure }),
    );
    events.push(Event::SessionDown { peer });
    events.push(Event::Path { peer, route, via: Vec::new() });
    events.push(Event::Reflexive(Vec::new()));
    events.push(Event::Classified { verdict: net_mesh_proto::nat::Verdict::UNKNOWN, missing: None });
    ::metrics::with_local_recorder(&kept, || {
        events.iter().for_each(|event| happened.event(mesh.shared(), event));
    });
    kept.check();
    let rendezvous = |labels: &[(&str, &str)]| kept.sum("net_mesh_rendezvous_total", labels);
    assert_eq!(rendezvous(&[("outcome", "found"), ("reason", "answered"), ("plan", "fire_together")]), 256.0);
    assert_eq!(rendezvous(&[("mediator", "other")]), 248.0);
    assert_eq!(rendezvous(&[("mediator", "session")]), 7.0);
    for (outcome, reason) in &super::happened::ENDS[1..] {
        assert_eq!(rendezvous(&[("outcome", outcome), ("reason", reason)]), 1.0, "{reason}");
    }
    assert_eq!(kept.sum("net_mesh_rendezvous_checks_total", &[("direction", "sent")]), 260.0);
    assert_eq!(kept.sum("net_mesh_rendezvous_checks_total", &[("direction", "received")]), 257.0);
    assert_eq!(kept.sum("net_mesh_health_transitions_total", &[]), 27.0);
    assert_eq!(kept.sum("net_mesh_path_issues_total", &[("issue", "throttled")]), 1.0);
    assert_eq!(kept.sum("net_mesh_dials_failed_total", &[("failure", "timeout")]), 1.0);
    let count = kept.series.lock().unwrap().len();
    assert!(count < 80, "{count} series: {:?}", kept.names());
}
