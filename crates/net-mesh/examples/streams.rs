//! Streams and datagrams between two nodes of one process: an echo service and its client.

use std::error::Error;
use std::net::SocketAddr;

use net_mesh::{Identity, Mesh, MeshSecret, NodeKey};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let secret = MeshSecret::generate()?;
    let server = start(&secret, "server", None).await?;
    let client = start(&secret, "client", Some(server.local_addrs()[0])).await?;

    let echo = server.clone();
    tokio::spawn(async move {
        while let Ok((_, mut send, mut recv)) = echo.accept_stream().await {
            let Ok(request) = recv.read_to_end(1 << 20).await else { continue };
            // The peer may have gone; then there is nobody to answer.
            let _ = send.write_all(&request).await;
            let _ = send.finish();
        }
    });

    while client.resolve("server").is_err() {
        client.changed().await;
    }
    let peer = client.resolve("server")?;
    let (mut send, mut recv) = client.open_stream(peer).await?;
    send.write_all(b"hello").await?;
    send.finish()?;
    println!("the server says {:?}", String::from_utf8(recv.read_to_end(1 << 20).await?)?);

    client.send_datagram(peer, b"one that may be lost").await?;
    let (from, datagram) = server.recv_datagram().await?;
    println!("{} sent {:?}", from.short(), String::from_utf8_lossy(&datagram));

    let pong = client.ping(peer).await?;
    println!("a round trip takes {:?}, {}", pong.rtt, pong.path.kind);
    client.shutdown().await;
    server.shutdown().await;
    Ok(())
}

async fn start(secret: &MeshSecret, name: &str, from: Option<SocketAddr>) -> Result<Mesh, Box<dyn Error>> {
    let identity = Identity::from_secret(secret, &NodeKey::generate()?)?;
    let mut builder = Mesh::builder(identity).name(name).listen("127.0.0.1:0".parse()?);
    if let Some(from) = from {
        builder = builder.bootstrap(from);
    }
    Ok(builder.start().await?)
}
