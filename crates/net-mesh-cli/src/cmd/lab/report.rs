//! The lab's result: as JSON, for people, and as a list of what should be different.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use net_mesh_sim::oracle::Reach;
use serde::Serialize;

use super::cold::{self, Cold};
use super::run::{EVENTS, Observed};
use super::world::World;
use crate::table::{Column, Table};

/// What `lab --json` prints.
#[derive(Debug, Serialize)]
pub(super) struct LabJson {
    seed: u64,
    nodes: Vec<NodeJson>,
    pairs: Vec<PairJson>,
    /// Pairs that never spoke before, each in an internet of its own.
    cold: Vec<Cold>,
}

#[derive(Debug, Serialize)]
struct NodeJson {
    name: String,
    /// The class of its NAT, from the topology.
    actual: String,
    /// The class it found.
    found: String,
}

#[derive(Debug, Serialize)]
struct PairJson {
    from: String,
    to: String,
    /// `direct`, `relayed` or `none`.
    path: String,
    /// The best the topology allows with what nodes can do.
    expected: String,
    published: u64,
    delivered: u64,
    /// From the first publication to the first arrival.
    first_event_ms: Option<u64>,
    /// From the first publication to a direct session; 0 if there was one already.
    direct_ms: Option<u64>,
}

/// The result, and what it needs to be explained.
pub(super) struct Report {
    pub(super) json: LabJson,
    /// Why a pair has the path it has, in the order of `json.pairs`.
    reasons: Vec<&'static str>,
    took: Duration,
}

impl PairJson {
    fn is_complete(&self) -> bool {
        self.delivered == self.published
    }

    fn is_right(&self) -> bool {
        self.path == self.expected && (self.path == "none" || self.is_complete())
    }
}

impl Report {
    pub(super) fn new(world: &World, observed: &Observed, cold: Vec<Cold>) -> Self {
        let nodes = world.nodes.iter().zip(&observed.found);
        let nodes = nodes.map(|(node, found)| NodeJson {
            name: node.name.into(),
            actual: node.actual.to_string(),
            found: found.to_string(),
        });
        let (mut pairs, mut reasons) = (Vec::new(), Vec::new());
        for (from, (row, seen)) in world.outlook.iter().zip(&observed.pairs).enumerate() {
            for (to, (outlook, pair)) in row.iter().zip(seen).enumerate() {
                let Some(outlook) = outlook else { continue };
                pairs.push(PairJson {
                    from: world.nodes[from].name.into(),
                    to: world.nodes[to].name.into(),
                    path: pair.path.to_string(),
                    expected: word(outlook.reach).into(),
                    published: EVENTS,
                    delivered: pair.delivered,
                    first_event_ms: pair.first_event.map(millis),
                    direct_ms: pair.direct.map(millis),
                });
                reasons.push(outlook.reason);
            }
        }
        let json = LabJson { seed: world.seed, nodes: nodes.collect(), pairs, cold };
        Self { json, reasons, took: observed.took }
    }

    /// What is not as it should be, each in a few words; nothing if all is well.
    pub(super) fn wrong(&self) -> Vec<String> {
        let nodes = self.json.nodes.iter().filter(|node| node.found != node.actual);
        let mut wrong: Vec<String> = nodes
            .map(|node| format!("{} found {} instead of {}", node.name, node.found, node.actual))
            .collect();
        let pairs = self.json.pairs.iter().filter(|pair| !pair.is_right());
        wrong.extend(pairs.map(|pair| {
            let PairJson { from, to, path, expected, delivered, published, .. } = pair;
            format!("{from} to {to} is {path} with {delivered}/{published} events instead of {expected}")
        }));
        wrong.extend(cold::wrong(&self.json.cold));
        wrong
    }

    pub(super) fn human(&self) -> String {
        let mut text = format!(
            "A simulated internet (seed {}) with {} whole nodes, each publishing {EVENTS} events to all others.\n\
             It took {:.1} s of virtual time.\n",
            self.json.seed,
            self.json.nodes.len(),
            self.took.as_secs_f64()
        );
        text.push_str("\nWhat each node found its NAT to be, and what it really is:\n\n");
        text.push_str(&self.nodes());
        text.push_str("\nThe path of every pair, from the node of the row to the node of the column:\n\n");
        text.push_str(&self.matrix());
        text.push_str(&self.legend());
        text.push_str(&self.relayed());
        text.push_str(&cold::human(&self.json.cold));
        let wrong = self.wrong();
        if wrong.is_empty() {
            text.push_str("\nEverything is as this internet allows it to be.\n");
        } else {
            let _ = writeln!(text, "\nThis should be different:\n  {}", wrong.join("\n  "));
        }
        text
    }

    fn nodes(&self) -> String {
        let mut table = Table::new(&[
            ("", Column::Right),
            ("NODE", Column::Left),
            ("REALLY", Column::Left),
            ("FOUND", Column::Left),
            ("", Column::Left),
        ]);
        for (i, node) in self.json.nodes.iter().enumerate() {
            let verdict = if node.found == node.actual { "right" } else { "WRONG" };
            let number = (i + 1).to_string();
            table.row([number, node.name.clone(), node.actual.clone(), node.found.clone(), verdict.into()]);
        }
        table.render(None)
    }

    fn matrix(&self) -> String {
        let count = self.json.nodes.len();
        let numbers: Vec<String> = (1..=count).map(|i| i.to_string()).collect();
        let mut columns = vec![("", Column::Right), ("FROM \\ TO", Column::Left)];
        columns.extend(numbers.iter().map(|number| (number.as_str(), Column::Left)));
        let mut table = Table::new(&columns);
        let mut pairs = self.json.pairs.iter();
        for (i, node) in self.json.nodes.iter().enumerate() {
            let mut row = vec![numbers[i].clone(), node.name.clone()];
            for j in 0..count {
                row.push(if i == j { "-".into() } else { pairs.next().map_or_else(String::new, cell) });
            }
            table.row(row);
        }
        table.render(None)
    }

    fn legend(&self) -> String {
        let mut text = String::new();
        let with_path: Vec<&PairJson> = self.json.pairs.iter().filter(|pair| pair.path != "none").collect();
        let complete = with_path.iter().filter(|pair| pair.is_complete()).count();
        let _ = writeln!(
            text,
            "\ndirect   packets go straight from one to the other\n\
             relayed  packets go through another node, which cannot read them\n\
             none     there is no way between them\n\
             n/m      only n of m events arrived (without it: all that could)\n\n\
             {} of {} pairs have a path; on {complete} of them every event arrived, once and in order.",
            with_path.len(),
            self.json.pairs.len(),
        );
        let mut first: Vec<u64> = self.json.pairs.iter().filter_map(|pair| pair.first_event_ms).collect();
        first.sort_unstable();
        if let (Some(fastest), Some(slowest)) = (first.first(), first.last()) {
            let median = first[first.len() / 2];
            let _ = writeln!(
                text,
                "The first event took {fastest} to {slowest} ms to arrive, half of them at most {median} ms."
            );
        }
        text
    }

    /// The pairs that are relayed and why, each pair once.
    fn relayed(&self) -> String {
        let mut by_reason: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (pair, reason) in self.json.pairs.iter().zip(&self.reasons) {
            let position = |name: &str| self.json.nodes.iter().position(|node| node.name == name);
            if pair.path == "relayed"
                && pair.expected == "relayed"
                && position(&pair.from) < position(&pair.to)
            {
                by_reason.entry(reason).or_default().push(format!("{} - {}", pair.from, pair.to));
            }
        }
        if by_reason.is_empty() {
            return String::new();
        }
        let mut text = "\nRelayed, because no direct way exists:\n".to_owned();
        for (reason, pairs) in by_reason {
            let _ = writeln!(text, "  {reason}:");
            for pair in pairs {
                let _ = writeln!(text, "    {pair}");
            }
        }
        text
    }
}

fn cell(pair: &PairJson) -> String {
    let PairJson { path, delivered, published, .. } = pair;
    if pair.is_complete() || (path == "none" && *delivered == 0) {
        return path.clone();
    }
    format!("{path} {delivered}/{published}")
}

const fn word(reach: Reach) -> &'static str {
    match reach {
        Reach::Direct => "direct",
        Reach::Relayed => "relayed",
        Reach::None => "none",
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use net_mesh::{NatClass, PathKind};

    use super::super::run::Pair;
    use super::*;

    const GOOD: Pair = Pair {
        path: PathKind::Direct,
        delivered: EVENTS,
        first_event: Some(Duration::from_micros(41_900)),
        direct: Some(Duration::ZERO),
    };
    const RELAYED: Pair = Pair { path: PathKind::Relayed, direct: None, ..GOOD };
    const NO_WAY: Pair = Pair { path: PathKind::None, delivered: 0, first_event: None, direct: None };

    /// What the oracle foretells, come true.
    fn foretold() -> (World, Observed) {
        let (world, _) = World::new(5);
        let found = world.nodes.iter().map(|node| node.actual).collect();
        let pair = |outlook: &Option<net_mesh_sim::oracle::Outlook>| match outlook.map(|o| o.reach) {
            Some(Reach::Direct) => GOOD,
            Some(Reach::Relayed) => RELAYED,
            _ => NO_WAY,
        };
        let pairs = world.outlook.iter().map(|row| row.iter().map(pair).collect()).collect();
        (world, Observed { found, pairs, took: Duration::from_millis(26_140) })
    }

    #[test]
    fn all_is_well_when_it_came_as_foretold() {
        let (world, observed) = foretold();
        let report = Report::new(&world, &observed, vec![]);
        assert_eq!(report.wrong(), Vec::<String>::new());
        let text = report.human();
        assert!(text.contains("42 of 42 pairs have a path; on 42 of them every event arrived"), "{text}");
        assert!(text.contains("    port-restricted - symmetric\n"), "{text}");
        assert!(!text.contains("    symmetric - port-restricted\n"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 110), "{text}");
    }

    #[test]
    fn json_is_as_documented() {
        let (world, observed) = foretold();
        let json = serde_json::to_value(Report::new(&world, &observed, vec![]).json).unwrap();
        assert_eq!(json["seed"], 5);
        assert_eq!(
            json["nodes"][4],
            serde_json::json!({"name": "restricted-cone", "actual": "restricted-cone", "found": "restricted-cone"})
        );
        assert_eq!(
            json["pairs"][0],
            serde_json::json!({"from": "seed-1", "to": "seed-2", "path": "direct", "expected": "direct",
                "published": EVENTS, "delivered": EVENTS, "first_event_ms": 41, "direct_ms": 0})
        );
        assert_eq!(
            json["pairs"][41],
            serde_json::json!({"from": "symmetric", "to": "port-restricted", "path": "relayed", "expected": "relayed",
                "published": EVENTS, "delivered": EVENTS, "first_event_ms": 41, "direct_ms": null})
        );
    }

    #[test]
    fn everything_that_differs_is_named() {
        let (world, mut observed) = foretold();
        observed.found[3] = NatClass::Symmetric;
        observed.pairs[0][1].delivered = EVENTS - 1;
        observed.pairs[2][4] = NO_WAY;
        observed.pairs[5][6] = GOOD;
        let report = Report::new(&world, &observed, vec![]);
        assert_eq!(
            report.wrong(),
            [
                "full-cone found symmetric instead of full-cone",
                "seed-1 to seed-2 is direct with 24/25 events instead of direct",
                "direct to restricted-cone is none with 0/25 events instead of direct",
                "port-restricted to symmetric is direct with 25/25 events instead of relayed",
            ]
        );
        assert!(report.human().contains("direct 24/25"), "{}", report.human());
        assert!(report.human().contains("WRONG"), "{}", report.human());
    }
}
