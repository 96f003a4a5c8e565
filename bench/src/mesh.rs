//! Nodes for the benchmarks: two of one mesh, on loopback.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use net_mesh::{Identity, Mesh, MeshSecret, NodeKey};

const FIRST: &str = "first";

/// A node that waits for others.
pub async fn first(secret: &MeshSecret) -> Result<Mesh> {
    start(secret, FIRST, None).await
}

/// A node that starts from the first one.
pub async fn second(secret: &MeshSecret, first: SocketAddr) -> Result<Mesh> {
    let mesh = start(secret, "second", Some(first)).await?;
    tokio::time::timeout(Duration::from_secs(10), async {
        // Its record has come when its name has, and says what it subscribes to.
        while mesh.resolve(FIRST).is_err() {
            mesh.changed().await;
        }
    })
    .await
    .context("the two nodes did not find each other")?;
    Ok(mesh)
}

async fn start(secret: &MeshSecret, name: &str, bootstrap: Option<SocketAddr>) -> Result<Mesh> {
    let identity = Identity::from_secret(secret, &NodeKey::generate()?)?;
    let mut builder = Mesh::builder(identity).name(name).listen(SocketAddr::from(([127, 0, 0, 1], 0)));
    if let Some(addr) = bootstrap {
        builder = builder.bootstrap(addr);
    }
    Ok(builder.start().await?)
}
