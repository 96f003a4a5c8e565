//! Nodes for the benchmarks: two of one mesh, on loopback.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use net_mesh::{Identity, Mesh, MeshSecret, NodeKey};

/// A node that waits for others.
pub async fn first(secret: &MeshSecret) -> Result<Mesh> {
    start(secret, None).await
}

/// A node that starts from the first one.
pub async fn second(secret: &MeshSecret, first: SocketAddr) -> Result<Mesh> {
    let mesh = start(secret, Some(first)).await?;
    tokio::time::timeout(Duration::from_secs(10), async {
        while mesh.peers().iter().all(|p| p.path.addr.is_none()) {
            mesh.changed().await;
        }
    })
    .await
    .context("the two nodes did not find each other")?;
    Ok(mesh)
}

async fn start(secret: &MeshSecret, bootstrap: Option<SocketAddr>) -> Result<Mesh> {
    let identity = Identity::from_secret(secret, &NodeKey::generate()?)?;
    let mut builder = Mesh::builder(identity).listen(SocketAddr::from(([127, 0, 0, 1], 0)));
    if let Some(addr) = bootstrap {
        builder = builder.bootstrap(addr);
    }
    Ok(builder.start().await?)
}
