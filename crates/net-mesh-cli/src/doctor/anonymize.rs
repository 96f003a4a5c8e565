//! How can a report be shown to strangers?
//!
//! Every address, name and id is replaced, the same one by the same one wherever it stands. Of an address its family and
//! its range stay: private ones remain private (RFC 1918, RFC 6598, RFC 4193, link-local), global ones become those of
//! documentation (RFC 5737, RFC 3849). Ports, counts, times and verdicts stay. Loopback and unspecified addresses are
//! the same everywhere, and stay too.
//!
//! Facts are JSON here, told apart by the names of their fields; sentences are left out by the caller, who has them made
//! again from the facts. Where a fact is a sentence itself, known names and whatever looks like an address are replaced in it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::Value;

use super::Report;
use super::conclude::is_shared;
use crate::text::short_id;

/// Fields with ids, with names, with names of hosts, and with sentences.
const IDS: [&str; 1] = ["node_id"];
const NAMES: [&str; 3] = ["name", "proven_by", "seen_with"];
const SENTENCES: [&str; 3] = ["reason", "missing", "error"];

const BENCHMARKS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

/// The same report about nobody in particular.
///
/// # Errors
/// None that can happen: what was made from a report is one.
pub(crate) fn anonymized<R: Report>(report: &R) -> anyhow::Result<R> {
    let mut value = serde_json::to_value(report)?;
    let mut masks = Masks::default();
    masks.meet_nodes(&value);
    masks.meet_names(&value);
    masks.replace("", &mut value);
    let mut report: R = serde_json::from_value(value)?;
    report.conclude();
    Ok(report)
}

/// What stands for what.
#[derive(Default)]
struct Masks {
    /// The home directory, whose path names people.
    home: Option<String>,
    nodes: usize,
    ids: BTreeMap<String, usize>,
    names: BTreeMap<String, usize>,
    hosts: BTreeMap<String, usize>,
    ips: BTreeMap<IpAddr, IpAddr>,
    /// Addresses replaced so far in each range.
    used: BTreeMap<&'static str, u32>,
}

impl Masks {
    /// Takes note of all nodes, so that a name and an id of one have one number.
    fn meet_nodes(&mut self, value: &Value) {
        let Some(id) = field(value, "node_id") else {
            return parts(value).for_each(|part| self.meet_nodes(part));
        };
        let number = self.node(id);
        if let Some(name) = field(value, "name") {
            self.names.entry(name.into()).or_insert(number);
        }
        parts(value).for_each(|part| self.meet_nodes(part));
    }

    /// Takes note of all other names, so that one in a sentence is known.
    fn meet_names(&mut self, value: &Value) {
        for name in NAMES.into_iter().filter_map(|key| field(value, key)) {
            self.name(name);
        }
        if let Some(home) = field(value, "home") {
            self.home = Some(home.into());
        }
        parts(value).for_each(|part| self.meet_names(part));
    }

    fn replace(&mut self, key: &str, value: &mut Value) {
        match value {
            Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| self.replace(key, value)),
            Value::Array(items) => items.iter_mut().for_each(|value| self.replace(key, value)),
            Value::String(text) => *text = self.text(key, text),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn text(&mut self, key: &str, text: &str) -> String {
        if IDS.contains(&key) {
            return format!("id-{}", self.node(text));
        }
        if NAMES.contains(&key) {
            return format!("node-{}", self.name(text));
        }
        match key {
            "mesh_id" => "the-mesh".into(),
            "home" => "the-home".into(),
            "host" => self.host(text),
            "version" => text.into(),
            _ if SENTENCES.contains(&key) => {
                let named = self.without_names(text);
                self.without_addresses(&named)
            }
            _ => self.without_addresses(text),
        }
    }

    fn node(&mut self, id: &str) -> usize {
        let nodes = &mut self.nodes;
        *self.ids.entry(id.into()).or_insert_with(|| next(nodes))
    }

    /// The number of a node by its name, or by the start of its id, which stands for a name that is not known.
    fn name(&mut self, name: &str) -> usize {
        if let Some(number) = self.names.get(name) {
            return *number;
        }
        let by_id = self.ids.iter().find(|(id, _)| short_id(id) == name).map(|(_, number)| *number);
        let number = by_id.unwrap_or_else(|| next(&mut self.nodes));
        self.names.insert(name.into(), number);
        number
    }

    fn host(&mut self, text: &str) -> String {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return self.socket(addr).to_string();
        }
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        let count = self.hosts.len() + 1;
        let number = *self.hosts.entry(host.into()).or_insert(count);
        format!("host-{number}:{port}")
    }

    /// A sentence without the names and ids that are known, the longest first.
    fn without_names(&self, text: &str) -> String {
        let ids = self.ids.iter().flat_map(|(id, n)| [(id.as_str(), *n), (short_id(id), *n)]);
        let names = self.names.iter().map(|(name, n)| (name.as_str(), *n));
        let hosts = self.hosts.iter().map(|(host, n)| (host.as_str(), format!("host-{n}")));
        let home = self.home.as_deref().map(|home| (home, "the-home".to_owned()));
        let nodes = ids.chain(names).map(|(word, n)| (word, format!("node-{n}")));
        let mut all: Vec<(&str, String)> = nodes.chain(hosts).chain(home).collect();
        all.sort_by_key(|(word, _)| std::cmp::Reverse(word.len()));
        let mut out = String::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let begins = !out.ends_with(char::is_alphanumeric);
            let fits = |word: &&(&str, String)| {
                let after = rest.strip_prefix(word.0).filter(|_| begins && !word.0.is_empty());
                after.is_some_and(|after| !after.starts_with(char::is_alphanumeric))
            };
            if let Some((word, mask)) = all.iter().find(fits) {
                out += mask;
                rest = &rest[word.len()..];
            } else {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        out
    }

    /// A text without anything that is an address.
    fn without_addresses(&mut self, text: &str) -> String {
        let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '[' | ']');
        let mut out = String::new();
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.find(|c| !part(c)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            // A sentence ends in a dot, and what is listed in a colon.
            let bare = word.trim_end_matches(['.', ':']);
            let masked = [word, bare].into_iter().find_map(|word| Some((word, self.address(word)?)));
            match masked {
                Some((found, mask)) => {
                    out += &mask;
                    out += &word[found.len()..];
                }
                None => out += word,
            }
            let skip = after.find(part).unwrap_or(after.len());
            out += &after[..skip];
            rest = &after[skip..];
        }
        out
    }

    fn address(&mut self, word: &str) -> Option<String> {
        if let Ok(addr) = word.parse::<SocketAddr>() {
            return Some(self.socket(addr).to_string());
        }
        word.parse().ok().map(|ip| self.ip(ip).to_string())
    }

    fn socket(&mut self, addr: SocketAddr) -> SocketAddr {
        SocketAddr::new(self.ip(addr.ip()), addr.port())
    }

    fn ip(&mut self, ip: IpAddr) -> IpAddr {
        if let Some(mask) = self.ips.get(&ip) {
            return *mask;
        }
        let (range, base) = match ip {
            IpAddr::V4(ip) => range_v4(ip),
            IpAddr::V6(ip) => range_v6(ip),
        };
        let Some(base) = base else { return ip };
        let number = self.used.entry(range).or_default();
        *number += 1;
        let mask = match base {
            // More global ones than the block for documentation has go on in the one for benchmarks (RFC 2544).
            IpAddr::V4(_) if range == "global" && *number > 254 => {
                IpAddr::V4(Ipv4Addr::from_bits(BENCHMARKS.to_bits() + (*number & 0xffff)))
            }
            IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from_bits(base.to_bits() + (*number & 0xffff))),
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from_bits(base.to_bits() + u128::from(*number))),
        };
        self.ips.insert(ip, mask);
        mask
    }
}

/// A field that is a text.
fn field<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

/// What a value is made of.
fn parts(value: &Value) -> impl Iterator<Item = &Value> {
    let (fields, items) = (value.as_object(), value.as_array());
    fields.into_iter().flat_map(|fields| fields.values()).chain(items.into_iter().flatten())
}

fn next(nodes: &mut usize) -> usize {
    *nodes += 1;
    *nodes
}

/// The range of an address, and where its replacements are counted from; `None` where it says nothing.
fn range_v4(ip: Ipv4Addr) -> (&'static str, Option<IpAddr>) {
    let at = |a, b, c| Some(IpAddr::V4(Ipv4Addr::new(a, b, c, 0)));
    match ip.octets() {
        _ if ip.is_loopback() || ip.is_unspecified() || ip.is_broadcast() => ("same", None),
        [10, ..] => ("10", at(10, 0, 0)),
        [172, 16..=31, ..] => ("172.16", at(172, 16, 0)),
        [192, 168, ..] => ("192.168", at(192, 168, 0)),
        _ if is_shared(ip) => ("shared", at(100, 64, 0)),
        _ if ip.is_link_local() => ("link", at(169, 254, 1)),
        _ => ("global", at(203, 0, 113)),
    }
}

fn range_v6(ip: Ipv6Addr) -> (&'static str, Option<IpAddr>) {
    let at = |head, next| Some(IpAddr::V6(Ipv6Addr::new(head, next, 0, 0, 0, 0, 0, 0)));
    if ip.is_loopback() || ip.is_unspecified() {
        ("same", None)
    } else if ip.is_unique_local() {
        ("unique-local", at(0xfd00, 0))
    } else if ip.is_unicast_link_local() {
        ("link-v6", at(0xfe80, 0))
    } else {
        ("global-v6", at(0x2001, 0xdb8))
    }
}

#[cfg(test)]
#[path = "anonymize_tests.rs"]
mod tests;
