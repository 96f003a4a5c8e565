//! A chat over a mesh: `chat NAME` starts one and prints a ticket, `chat NAME TICKET` joins it.
//!
//! Lines typed are published; lines of others are printed.

use std::error::Error;

use net_mesh::{Identity, Mesh, MeshSecret, NodeKey, Ticket};
use tokio::io::{AsyncBufReadExt, BufReader};

const CHANNEL: &str = "chat";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().ok_or("usage: chat NAME [TICKET]")?;
    let ticket = args.next().map(|text| text.parse::<Ticket>()).transpose()?;

    let secret = match &ticket {
        Some(ticket) => ticket.secret.clone().ok_or("this ticket is for a mesh with its own PKI")?,
        None => MeshSecret::generate()?,
    };
    let mut builder =
        Mesh::builder(Identity::from_secret(&secret, &NodeKey::generate()?)?).name(name.as_str());
    for addr in ticket.iter().flat_map(|ticket| &ticket.addrs) {
        for addr in tokio::net::lookup_host(addr).await? {
            builder = builder.bootstrap(addr);
        }
    }
    let mesh = builder.start().await?;
    if ticket.is_none() {
        // Good on this machine; elsewhere, put an address in that the others can reach.
        let port = mesh.local_addrs()[0].port();
        println!("join with: chat NAME {}", Ticket::with_secret(secret, vec![format!("127.0.0.1:{port}")]));
    }

    let mut events = mesh.subscribe(CHANNEL)?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            Some(event) = events.next() => {
                if event.from != mesh.node_id() {
                    let from = mesh.member_name(&event.from).unwrap_or_else(|| event.from.short());
                    println!("{from}: {}", String::from_utf8_lossy(&event.payload));
                }
            }
            line = lines.next_line() => match line? {
                Some(line) => { mesh.publish(CHANNEL, line).await?; }
                None => break,
            },
        }
    }
    mesh.shutdown().await;
    Ok(())
}
