//! `peers`: the table of members.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::admin::client::Client;
use crate::home::Home;
use crate::json::{LinkJson, MemberJson, PeerJson, StatusJson};
use crate::table::{Column, Table, terminal_width};
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
        Ok(table(&status, &peers).render(terminal_width()))
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
        ("LINKS", Column::Shrinks),
    ]);
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

fn table(status: &StatusJson, peers: &[PeerJson]) -> Table {
    let mut table = Table::new(&[
        ("NAME", Column::Shrinks),
        ("ID", Column::Left),
        ("NAT", Column::Left),
        ("PATH", Column::Shrinks),
        ("RTT", Column::Right),
        ("HEALTH", Column::Left),
        ("SENT", Column::Right),
        ("RECEIVED", Column::Right),
    ]);
    table.row([
        status.name.clone(),
        text::short_id(&status.node_id).to_owned(),
        if status.port_mapping.proven().is_some() {
            format!("{} (mapped)", status.nat.class)
        } else {
            status.nat.class.clone()
        },
        "this node".into(),
    ]);
    for peer in peers {
        table.row([
            peer.name.clone(),
            text::short_id(&peer.node_id).to_owned(),
            if peer.port_mapped { format!("{} (mapped)", peer.nat) } else { peer.nat.clone() },
            text::path(&peer.path),
            peer.rtt_ms.map_or_else(|| "-".into(), text::ms),
            peer.health.clone(),
            text::bytes(peer.tx_bytes),
            text::bytes(peer.rx_bytes),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
