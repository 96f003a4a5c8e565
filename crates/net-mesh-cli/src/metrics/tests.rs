//! The dashboard in `docs/grafana` asks for what there is, and shows all of it.

use std::collections::BTreeSet;
use std::path::Path;

use net_mesh::metrics::{Metric, Values, all};
use serde_json::Value;

/// Labels that Prometheus adds.
const SCRAPED: [&str; 2] = ["instance", "job"];

fn dashboard() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/grafana/net-mesh.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The queries of all panels, with the texts for their legends.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    targets.map(|target| (text(&target["expr"]), text(&target["legendFormat"]))).collect()
}

/// The words of a query, each with what follows it.
fn words(query: &str) -> Vec<(&str, &str)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$';
    let mut words = Vec::new();
    let mut rest = query;
    while let Some(start) = rest.find(is_word) {
        let from = &rest[start..];
        let length = from.find(|c| !is_word(c)).unwrap_or(from.len());
        words.push((&from[..length], &from[length..]));
        rest = &from[length..];
    }
    words
}

fn metric(name: &str) -> &'static Metric {
    all().iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("there is no {name}"))
}

fn has_label(metric: &Metric, label: &str) -> bool {
    SCRAPED.contains(&label) || metric.labels.iter().any(|l| l.name == label)
}

/// What stands in the first pair of brackets of `text`, which must begin with them.
fn bracketed(text: &str, [open, close]: [char; 2]) -> Option<&str> {
    text.trim_start().strip_prefix(open)?.split_once(close).map(|(inner, _)| inner)
}

/// Fails unless the matchers in `{...}` name labels of the metric, and values that they can have.
fn check_matchers(query: &str, metric: &Metric, matchers: &str) {
    for matcher in matchers.split(',') {
        let (name, value) = matcher.split_once('=').unwrap_or_else(|| panic!("{query}: {matcher}"));
        let name = name.trim_end_matches('!');
        assert!(has_label(metric, name), "{query}: {} has no label {name}", metric.name);
        let Some(label) = metric.labels.iter().find(|label| label.name == name) else { continue };
        let value = value.trim_start_matches('~').trim_matches('"');
        if let Values::Of(values) = label.values {
            assert!(values().contains(&value), "{query}: {name} is never {value}");
        }
    }
}

#[test]
fn its_queries_name_metrics_and_labels_that_there_are_and_all_metrics_are_shown() {
    let mut shown = BTreeSet::new();
    for (query, legend) in queries(&dashboard()) {
        let words = words(&query);
        let metrics: Vec<&Metric> = words
            .iter()
            .filter(|(word, _)| word.starts_with("net_mesh_"))
            .map(|(word, _)| metric(word))
            .collect();
        assert!(!metrics.is_empty(), "{query}");
        for (word, after) in &words {
            if word.starts_with("net_mesh_") {
                shown.insert((*word).to_owned());
                let matchers =
                    bracketed(after, ['{', '}']).unwrap_or_else(|| panic!("{query}: of all nodes?"));
                check_matchers(&query, metric(word), matchers);
                assert!(matchers.contains("job=~\"$job\",instance=~\"$node\""), "{query}");
                let counted = query.contains(&format!("{word}{{{matchers}}}[$__rate_interval]"));
                assert_eq!(counted, word.ends_with("_total"), "{query}: rates are of counters");
            }
            if ["by", "on", "group_left"].contains(word) {
                for label in bracketed(after, ['(', ')']).unwrap().split(',').map(str::trim) {
                    assert!(metrics.iter().any(|m| has_label(m, label)), "{query}: nothing has {label}");
                }
            }
        }
        for label in legend.split("{{").skip(1).filter_map(|part| part.split_once("}}")).map(|(l, _)| l) {
            assert!(metrics.iter().any(|m| has_label(m, label)), "{query}: the legend has {label}");
        }
    }
    let missing: Vec<&str> = all().iter().map(|m| m.name).filter(|name| !shown.contains(*name)).collect();
    assert!(missing.is_empty(), "not on the dashboard: {missing:?}");
}

#[test]
fn its_panels_fit_and_its_choices_are_those_of_the_queries() {
    let dashboard = dashboard();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(w > 0 && h > 0 && x + w <= 24, "{panel}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "two panels are at {cell:?}: {}", panel["title"]);
        }
        assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()));
        assert!(panel["type"] == "row" || panel["datasource"]["uid"] == "${datasource}", "{panel}");
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<&str> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "job", "node"]);
    for variable in &variables[1..] {
        assert!(variable["definition"].as_str().unwrap().contains(metric("net_mesh_build_info").name));
    }
}

/// The questions in the documentation are asked of metrics and labels that there are.
#[test]
fn the_documentation_asks_for_what_there_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, questions) = text.split_once("## Questions").unwrap();
    let mut asked = 0;
    for query in questions.split('`').filter(|part| part.contains("net_mesh_")) {
        for (word, after) in words(query).into_iter().filter(|(word, _)| word.starts_with("net_mesh_")) {
            asked += 1;
            if let Some(matchers) = bracketed(after, ['{', '}']) {
                check_matchers(query, metric(word), matchers);
            } else {
                metric(word);
            }
        }
    }
    assert!(asked >= 6);
}
