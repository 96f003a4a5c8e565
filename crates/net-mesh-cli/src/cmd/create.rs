//! What `init` and `join` share: certificates from files, and the new home.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use crate::home::{Config, Home, Material};
use crate::{stdout, text};

/// Certificates that the operator issued.
#[derive(Debug, Args)]
pub(super) struct Pki {
    /// The mesh's root certificate, in PEM: use certificates of your own instead of a mesh secret
    #[arg(long, value_name = "FILE", requires_all = ["cert", "key"])]
    ca: Option<PathBuf>,
    /// This node's certificate, in PEM, for the key in --key
    #[arg(long, value_name = "FILE", requires_all = ["ca", "key"])]
    cert: Option<PathBuf>,
    /// This node's Ed25519 key, in PEM (PKCS #8)
    #[arg(long, value_name = "FILE", requires_all = ["ca", "cert"])]
    key: Option<PathBuf>,
}

impl Pki {
    /// Reads the files; `None` if none are given.
    ///
    /// # Errors
    /// If one cannot be read.
    pub(super) fn read(&self) -> anyhow::Result<Option<Material>> {
        let (Some(ca), Some(cert), Some(key)) = (&self.ca, &self.cert, &self.key) else { return Ok(None) };
        Ok(Some(Material::Pki { ca: read(ca)?, cert: read(cert)?, key: read(key)? }))
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Makes the home and prints the node's id.
///
/// # Errors
/// If keys and certificates do not fit, or the home cannot be made.
pub(super) fn create(
    home: &Home,
    material: &Material,
    name: Option<String>,
    bootstrap: Vec<String>,
) -> anyhow::Result<()> {
    let identity = material.identity()?;
    let config = Config { name: name.unwrap_or_else(text::default_name), bootstrap };
    home.create(material, &config)?;
    eprintln!(
        "the node `{}` lives in {}: start it with `{}`",
        text::printable(&config.name),
        home.dir().display(),
        home.command("up")
    );
    stdout::line(&identity.node_id().to_string())
}
