//! Events per second from one publisher to one subscriber, 64 B and 1 KiB.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use net_mesh::MeshSecret;

use crate::mesh;
use crate::usage::{Stretch, median, peak_mib};

const ROUNDS: usize = 5;

pub fn run() -> Result<()> {
    println!("events: one publisher, one subscriber, {ROUNDS} rounds, two threads, loopback");
    for (size, count) in [(64, 4_000_000), (1024, 500_000)] {
        let rounds = (0..ROUNDS).map(|_| round(size, count)).collect::<Result<Vec<_>>>()?;
        let rate = median(rounds);
        println!(
            "  {size:5} B: {:9.0} events/s, {:6.2} Gbit/s of payload",
            rate,
            rate * size as f64 * 8.0 / 1e9
        );
    }
    println!("  peak memory of the process: {:.0} MiB", peak_mib());
    Ok(())
}

fn round(size: usize, count: u64) -> Result<f64> {
    let secret = MeshSecret::generate()?;
    let (tell, told) = mpsc::channel::<SocketAddr>();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    thread::scope(|scope| {
        let subscriber = scope.spawn(|| {
            runtime()?.block_on(async {
                let node = mesh::first(&secret).await?;
                let mut events = node.subscribe("bench")?;
                tell.send(node.local_addrs()[0])?;
                next(&mut events).await?;
                let stretch = Stretch::begin();
                for expected in 2..=count {
                    let event = next(&mut events).await?;
                    anyhow::ensure!(event.seq == expected && event.missed == 0, "out of order");
                }
                let (wall, _) = stretch.end();
                node.shutdown().await;
                anyhow::Ok(count as f64 / wall.as_secs_f64())
            })
        });
        let addr = told.recv()?;
        runtime()?.block_on(async {
            let node = mesh::second(&secret, addr).await?;
            let publisher = node.publisher("bench")?;
            let payload = Bytes::from(vec![0x5a; size]);
            for _ in 0..count {
                publisher.publish(payload.clone()).await?;
            }
            node.shutdown().await;
            anyhow::Ok(())
        })?;
        subscriber.join().expect("the subscriber panicked")
    })
}

/// The next event, which must not take for ever.
async fn next(events: &mut net_mesh::Subscription) -> Result<net_mesh::Event> {
    if let Some(event) = events.try_next() {
        return Ok(event);
    }
    let event = tokio::time::timeout(std::time::Duration::from_secs(20), events.next()).await;
    event.context("no event within 20 s")?.context("the subscription ended")
}
