//! `init`: a new mesh and this node's key, or a node with certificates of the operator's own.

use anyhow::Context as _;
use clap::Args;
use net_mesh::{MeshSecret, NodeKey};

use super::Misused;
use super::create::{self, Pki};
use crate::home::{Home, MAX_BOOTSTRAP, Material};
use crate::text;

/// Make a new mesh and its first node; prints the node's id
///
/// Never overwrites a node that is there. With --ca, --cert and --key the node belongs to the mesh of
/// that root certificate, and no secret is made.
#[derive(Debug, Args)]
pub(super) struct Init {
    /// The name others see [default: the host's name]
    #[arg(long, value_parser = text::parse_name)]
    name: Option<String>,
    #[command(flatten)]
    pki: Pki,
    /// An address of a member to start from, with --ca
    #[arg(long, value_name = "HOST:PORT", requires = "ca", value_parser = text::parse_host_port)]
    peer: Vec<String>,
}

impl Init {
    pub(super) fn run(mut self, home: &Home) -> anyhow::Result<()> {
        if self.peer.len() > MAX_BOOTSTRAP {
            let why =
                format!("give at most {MAX_BOOTSTRAP} addresses with --peer; others are learned from them");
            return Err(Misused::new("init", why).into());
        }
        self.peer.dedup();
        let material = match self.pki.read()? {
            Some(material) => material,
            None => Material::Secret {
                secret: MeshSecret::generate().context("cannot make a mesh secret")?,
                key: NodeKey::generate().context("cannot make a key")?,
            },
        };
        create::create(home, &material, self.name, self.peer)
    }
}
