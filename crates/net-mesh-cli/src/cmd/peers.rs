//! `peers`: the table of members.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;

use crate::admin::client::Client;
use crate::home::Home;
use crate::json::{PeerJson, StatusJson};
use crate::table::{Column, Table, terminal_width};
use crate::{stdout, text};

/// How often `--watch` looks.
const EVERY: Duration = Duration::from_secs(1);

/// Moves the cursor to the top left corner and clears what is below (ECMA-48 CUP and ED).
const CLEAR: &str = "\x1b[H\x1b[J";

/// Show the members of the mesh; the table begins with this node
#[derive(Debug, Args)]
pub(super) struct Peers {
    /// Print JSON: one array, without this node
    #[arg(long)]
    json: bool,
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
        let peers = client.peers().await?;
        if self.json {
            let text = if self.watch {
                serde_json::to_string(&peers)?
            } else {
                serde_json::to_string_pretty(&peers)?
            };
            return Ok(text + "\n");
        }
        let status = client.status().await?;
        Ok(table(&status, &peers).render(terminal_width()))
    }
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
