//! `join`: a node of the mesh that a ticket was made in.

use std::io::Read as _;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use net_mesh::{NodeKey, Ticket};

use super::create::{self, Pki};
use crate::home::{Home, MAX_BOOTSTRAP, Material};
use crate::text;

/// The longest ticket that is read from standard input, in bytes.
const MAX_TICKET: u64 = 16 * 1024;

/// Make a node of the mesh of a ticket; prints the node's id
///
/// Never overwrites a node that is there. A ticket of a mesh with its own certificates needs --ca, --cert
/// and --key.
#[derive(Debug, Args)]
pub(super) struct Join {
    /// The ticket, as `net-mesh invite` printed it; `-` reads it from standard input
    ticket: String,
    /// The name others see [default: the host's name]
    #[arg(long, value_parser = text::parse_name)]
    name: Option<String>,
    #[command(flatten)]
    pki: Pki,
}

impl Join {
    pub(super) fn run(self, home: &Home) -> anyhow::Result<()> {
        let text = if self.ticket == "-" { read_ticket()? } else { self.ticket };
        let ticket: Ticket =
            text.trim().parse().map_err(|error| anyhow!("cannot use the ticket: {error}"))?;
        let material = match (ticket.secret, self.pki.read()?) {
            (Some(secret), None) => {
                Material::Secret { secret, key: NodeKey::generate().context("cannot make a key")? }
            }
            (None, Some(pki)) => pki,
            (Some(_), Some(_)) => bail!(
                "this ticket is for a mesh with a secret: leave out --ca, --cert and --key, or get a ticket of the mesh of that root"
            ),
            (None, None) => bail!(
                "this mesh has its own certificates: give --ca, --cert and --key as its operator issued them"
            ),
        };
        if material.identity()?.mesh_id() != ticket.mesh {
            bail!(
                "the certificates belong to another mesh than the ticket: ask for the ones of mesh {}",
                ticket.mesh
            );
        }
        let mut bootstrap = ticket.addrs;
        bootstrap.truncate(MAX_BOOTSTRAP);
        create::create(home, &material, self.name, bootstrap)
    }
}

fn read_ticket() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().take(MAX_TICKET).read_to_string(&mut text).context("cannot read the ticket")?;
    if text.trim().is_empty() {
        bail!("standard input was empty: give the ticket there, as `net-mesh invite` printed it");
    }
    Ok(text)
}
