//! `status`: the node itself, and what is known about its NAT.

use std::fmt::Display;

use clap::Args;

use crate::admin::client::Client;
use crate::home::Home;
use crate::json::{NatJson, StatusJson};
use crate::{stdout, text};

/// Show the node: addresses, NAT, members
#[derive(Debug, Args)]
pub(super) struct StatusCommand {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl StatusCommand {
    pub(super) fn run(self, home: &Home) -> anyhow::Result<()> {
        let status = super::block_on(Client::new(home).status())?;
        if self.json {
            return stdout::line(&serde_json::to_string_pretty(&status)?);
        }
        stdout::write(human(&status).as_bytes())
    }
}

fn human(status: &StatusJson) -> String {
    let mut lines = vec![
        ("node", format!("{} ({})", text::printable(&status.name), status.node_id)),
        ("mesh", status.mesh_id.clone()),
        ("version", status.version.clone()),
        ("listening on", list(&status.listen)),
        ("seen by others at", list(&status.reflexive)),
        ("port mapping", status.port_mapping.words()),
        ("NAT", nat(&status.nat)),
        ("  mapping", status.nat.mapping.clone()),
        ("  filtering", status.nat.filtering.clone()),
        ("  ports", status.nat.port_rule.clone()),
    ];
    if let Some(missing) = &status.nat.missing {
        lines.push(("  missing", text::printable(missing)));
    }
    lines.push(("UDP", status.problem.as_deref().map_or_else(|| status.udp.clone(), text::printable)));
    lines.push((
        "relays",
        status.relay.as_ref().map_or_else(
            || "no".into(),
            |relay| {
                format!(
                    "{} circuits, {} datagrams, {}",
                    relay.circuits,
                    relay.packets,
                    text::bytes(relay.bytes)
                )
            },
        ),
    ));
    lines.push(("other members", status.peers.to_string()));
    if !status.drops.is_empty() {
        let drops: Vec<String> = status
            .drops
            .iter()
            .map(|(reason, count)| format!("{} {count}", text::printable(reason)))
            .collect();
        lines.push(("dropped", drops.join(", ")));
    }
    lines.iter().map(|(label, value)| format!("{label:<18} {value}\n")).collect()
}

fn nat(nat: &NatJson) -> String {
    let class = nat.class_words();
    // Nothing that one could be sure of, or that was found.
    let Some(age) = nat.age_ms.filter(|_| nat.class != "unknown") else { return class };
    format!("{class}, confidence {:.2}, found {} ago", nat.confidence, text::age(age))
}

fn list(items: &[impl Display]) -> String {
    if items.is_empty() {
        return "nothing yet".into();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::PortMappingJson;
    use crate::json::RelayJson;

    #[test]
    fn an_unknown_nat_says_what_is_missing() {
        let status = StatusJson {
            node_id: "id".into(),
            name: "bad\x1bname".into(),
            version: "1".into(),
            mesh_id: "mesh".into(),
            listen: vec![([127, 0, 0, 1], 4433).into()],
            reflexive: vec![],
            nat: NatJson {
                class: "unknown".into(),
                class_without_mapping: None,
                open_port: None,
                mapping: "endpoint-independent".into(),
                filtering: "unknown".into(),
                port_rule: "preserving".into(),
                confidence: 0.5,
                age_ms: Some(61_000),
                missing: Some("a second helper".into()),
            },
            port_mapping: PortMappingJson { state: "off".into(), ..PortMappingJson::default() },
            peers: 1,
            udp: "works".into(),
            problem: None,
            relay: Some(RelayJson { circuits: 2, packets: 7, bytes: 900, limited: 0 }),
            drops: [("empty".to_owned(), 2)].into(),
        };
        let want = "\
node               bad\u{fffd}name (id)
mesh               mesh
version            1
listening on       127.0.0.1:4433
seen by others at  nothing yet
port mapping       off
NAT                unknown
  mapping          endpoint-independent
  filtering        unknown
  ports            preserving
  missing          a second helper
UDP                works
relays             2 circuits, 7 datagrams, 900 B
other members      1
dropped            empty 2
";
        assert_eq!(human(&status), want);
    }
}
