//! `peers`: the table of members.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::admin::client::Client;
use crate::home::Home;
use crate::json::{LinkJson, MemberJson, PeerJson, StatusJson};
use crate::table::{Colour, Column, Table, terminal_has_colours, terminal_width};
use crate::{stdout, text};

/// How often `--watch` looks.
const EVERY: Duration = Duration::from_secs(1);

/// Moves the cursor to the top left corner and clears what is below (ECMA-48 CUP and ED).
const CLEAR: &str = "\x1b[H\x1b[J";

/// Show the members of the mesh; the table begins with this node
#[derive(Debug, Args)]
pub(super) struct Peers {
    /// Print JSON: one array, without this node unless with --mesh
    #[arg(long)]
    json: bool,
    /// Show every member's direct links, as this node has heard of them
    #[arg(long)]
    mesh: bool,
    /// Show it again every second, until interrupted
    #[arg(long)]
    watch: bool,
}

impl Peers {
    pub(super) fn run(self, home: &Home) -> anyhow::Result<()> {
        super::block_on(async {
            let client = Client::new(home);
            if !self.watch {
                return stdout::write(self.once(&client).await?.as_bytes());
            }
            tokio::select! {
                result = self.watch(&client) => result,
                _ = tokio::signal::ctrl_c() => Ok(()),
            }
        })
    }

    async fn watch(&self, client: &Client<'_>) -> anyhow::Result<()> {
        let redraw = !self.json && std::io::stdout().is_terminal();
        let mut ticks = tokio::time::interval(EVERY);
        let mut first = true;
        loop {
            ticks.tick().await;
            let text = self.once(client).await?;
            let before = match (redraw, self.json || first) {
                (true, _) => CLEAR,
                (false, true) => "",
                (false, false) => "\n",
            };
            stdout::write(format!("{before}{text}").as_bytes())?;
            first = false;
        }
    }

    async fn once(&self, client: &Client<'_>) -> anyhow::Result<String> {
        if self.mesh {
            let members = client.members().await?;
            return if self.json {
                self.print(&members)
            } else {
                Ok(links(&members).render(terminal_width()))
            };
        }
        let peers = client.peers().await?;
        if self.json {
            return self.print(&peers);
        }
        let status = client.status().await?;
        Ok(table(&status, &peers).coloured(terminal_has_colours()).render(terminal_width()))
    }

    fn print(&self, value: &impl Serialize) -> anyhow::Result<String> {
        let text =
            if self.watch { serde_json::to_string(value)? } else { serde_json::to_string_pretty(value)? };
        Ok(text + "\n")
    }
}

/// The round trip of a link: others say it in whole milliseconds, and more would not be true.
fn whole_ms(rtt: f64) -> String {
    if rtt < 1.0 { "<1 ms".to_owned() } else { format!("{rtt:.0} ms") }
}

/// One row for each member: its links, the fastest first.
fn links(members: &[MemberJson]) -> Table {
    let names: BTreeMap<&str, &str> =
        members.iter().map(|member| (member.node_id.as_str(), member.name.as_str())).collect();
    let mut table = Table::new(&[
        ("NAME", Column::Shrinks),
        ("ID", Column::Left),
        ("NAT", Column::Left),
        ("RELAYS", Column::Left),
        ("HEARD", Column::Right),
        ("DIRECT", Column::Right),
        ("LINKS", Column::ShrinksTo(LINKS)),
    ])
    .may_leave_out(&["NAT", "RELAYS", "HEARD"]);
    for member in members {
        let mut links: Vec<&LinkJson> = member.links.iter().collect();
        links.sort_by(|a, b| {
            let rtt = |link: &LinkJson| link.rtt_ms.unwrap_or(f64::INFINITY);
            rtt(a).total_cmp(&rtt(b)).then_with(|| a.node_id.cmp(&b.node_id))
        });
        let words = links.into_iter().map(|link| {
            let name = names.get(link.node_id.as_str()).copied();
            let name = name.unwrap_or_else(|| text::short_id(&link.node_id));
            link.rtt_ms.map_or_else(|| name.to_owned(), |rtt| format!("{name} {}", whole_ms(rtt)))
        });
        table.row([
            member.name.clone(),
            text::short_id(&member.node_id).to_owned(),
            member.nat.clone(),
            if member.relays { "yes" } else { "no" }.to_owned(),
            member.age_ms.map_or_else(|| "this node".into(), |age| format!("{} ago", text::age(age))),
            member.links.len().to_string(),
            words.collect::<Vec<_>>().join(", "),
        ]);
    }
    table
}

/// What the links keep while other columns can be left out: the two fastest.
const LINKS: usize = 32;

/// What the path keeps while other columns can be left out: `direct 203.0.113.207:65535`.
const PATH: usize = 28;

/// What is left out where the terminal is narrow, the first one first.
const SPARE: [&str; 7] = ["RECEIVED", "SENT", "ID", "LOSS", "SINCE", "NAT", "RTT"];

fn table(status: &StatusJson, peers: &[PeerJson]) -> Table {
    let mut table = Table::new(&[
        ("NAME", Column::Shrinks),
        ("ID", Column::Left),
        ("NAT", Column::Left),
        ("PATH", Column::ShrinksTo(PATH)),
        ("RTT", Column::Right),
        ("LOSS", Column::Right),
        ("HEALTH", Column::Left),
        ("SINCE", Column::Right),
        ("SENT", Column::Right),
        ("RECEIVED", Column::Right),
    ])
    .may_leave_out(&SPARE);
    let nat = |class: &str, mapped: bool| if mapped { format!("{class} (mapped)") } else { class.to_owned() };
    table.row([
        status.name.clone(),
        text::short_id(&status.node_id).to_owned(),
        nat(&status.nat.class, status.port_mapping.proven().is_some() || status.nat.open_port.is_some()),
        "this node".into(),
    ]);
    for peer in peers {
        table.row([
            peer.name.clone(),
            text::short_id(&peer.node_id).to_owned(),
            nat(&peer.nat, peer.port_mapped),
            text::path(&peer.path),
            peer.rtt_ms.map_or_else(|| "-".into(), text::ms),
            peer.loss.map_or_else(|| "-".into(), text::share),
            peer.health.clone(),
            peer.since_ms.map_or_else(|| "-".into(), text::age),
            text::bytes(peer.tx_bytes),
            text::bytes(peer.rx_bytes),
        ]);
        match peer.health.as_str() {
            "failed" => table.paint("HEALTH", Colour::Red),
            "suspect" => table.paint("HEALTH", Colour::Yellow),
            _ if peer.path.kind == "none" => {}
            _ => table.paint("HEALTH", Colour::Green),
        }
        if peer.path.kind == "relayed" {
            table.paint("PATH", Colour::Yellow);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::PathJson;

    #[test]
    fn the_mesh_is_a_row_for_each_member_with_its_fastest_links_first() {
        let link = |id: &str, rtt_ms| LinkJson { node_id: id.repeat(52), rtt_ms };
        let member = |id: &str, name: &str, age_ms, links| MemberJson {
            node_id: id.repeat(52),
            name: name.into(),
            nat: "direct".into(),
            relays: name == "fra",
            age_ms,
            links,
        };
        let members = [
            member("a", "fra", None, vec![link("c", None), link("b", Some(31.2)), link("d", Some(0.3))]),
            member("b", "home\x1b[2J", Some(4000), vec![link("a", Some(31.0))]),
        ];
        let want = "\
NAME      ID          NAT     RELAYS      HEARD  DIRECT  LINKS
fra       aaaaaaaaaa  direct  yes     this node       3  dddddddddd <1 ms, home\u{fffd}[2J 31 ms, cccccccccc
home\u{fffd}[2J  bbbbbbbbbb  direct  no        4 s ago       1  fra 31 ms
";
        assert_eq!(links(&members).render(None), want);
        let narrow = links(&members).render(Some(60));
        let columns: Vec<&str> = narrow.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(columns, ["NAME", "ID", "DIRECT", "LINKS"]);
        assert!(narrow.contains("home\u{fffd}[2J 31"), "{narrow}");
        for width in 4..100 {
            let text = links(&members).render(Some(width));
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
        }
    }

    fn sample(coloured: bool) -> Table {
        let status: StatusJson = serde_json::from_value(serde_json::json!({
            "node_id": "a".repeat(52), "name": "attic", "version": "", "mesh_id": "", "listen": [], "reflexive": [],
            "nat": { "class": "port-restricted", "mapping": "", "filtering": "", "port_rule": "", "confidence": 1.0 },
            "peers": 2, "drops": {},
        }))
        .unwrap();
        let peer = |id: &str, name: &str, path: PathJson, health: &str| PeerJson {
            node_id: id.repeat(52),
            name: name.into(),
            nat: "symmetric".into(),
            port_mapped: false,
            path,
            since_ms: Some(125_000),
            rtt_ms: Some(31.24),
            loss: Some(0.0123),
            health: health.into(),
            issues: vec![],
            tx_bytes: 1_540,
            rx_bytes: 12,
        };
        let direct = PathJson {
            kind: "direct".into(),
            addr: Some(([203, 0, 113, 207], 44_330).into()),
            via: vec![],
            via_ids: vec![],
        };
        let via = vec!["fra-1".into(), "nyc-2".into(), "a relay with quite a name".into()];
        let relayed = PathJson { kind: "relayed".into(), addr: None, via, via_ids: vec![] };
        let peers =
            [peer("b", "home", direct, "suspect"), peer("c", "a peer with a name", relayed, "failed")];
        table(&status, &peers).coloured(coloured)
    }

    #[test]
    fn the_table_begins_with_this_node_and_fits_the_terminal() {
        for (width, columns) in [
            (60, "NAME PATH RTT HEALTH"),
            (80, "NAME NAT PATH RTT HEALTH SINCE"),
            (120, "NAME ID NAT PATH RTT LOSS HEALTH SINCE SENT RECEIVED"),
        ] {
            let text = sample(false).render(Some(width));
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>().join(" "), columns, "{width}");
            assert!(lines[1].starts_with("attic") && lines[1].ends_with("this node"), "{text}");
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            assert!(text.contains("direct 203.0.113.207:44330"), "{text}");
            assert!(text.contains("relayed via fra-1 > nyc-2") && text.contains("suspect"), "{text}");
        }
        for width in 4..130 {
            let text = sample(false).render(Some(width));
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
        }
        assert!(
            sample(false).render(None).contains("a relay with quite a name"),
            "whole where nothing is in the way"
        );
    }

    #[test]
    fn what_needs_attention_is_coloured_and_nothing_where_colours_are_off() {
        let text = sample(true).render(Some(120));
        assert!(text.contains("\x1b[33msuspect\x1b[0m") && text.contains("\x1b[31mfailed\x1b[0m"), "{text}");
        assert!(text.contains("\x1b[33mrelayed via"), "{text}");
        assert!(!sample(false).render(Some(120)).contains('\x1b'));
    }
}
