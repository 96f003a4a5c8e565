//! One stream, 512 MiB, through a session of net-mesh's and through bare quinn, alternating.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;

use anyhow::{Context as _, Result};
use net_mesh::MeshSecret;
use quinn::{RecvStream, SendStream};

use crate::usage::{Stretch, median};
use crate::{bare, mesh};

const BYTES: usize = 512 << 20;
const CHUNK: usize = 64 << 10;
const ROUNDS: usize = 7;

/// Gbit/s, and milliseconds of processor time per GiB.
type Figures = (f64, f64);

pub fn run() -> Result<()> {
    println!("session: {} MiB over one stream, {ROUNDS} rounds each, two threads, loopback", BYTES >> 20);
    let (mut bare, mut mesh) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let b = through_bare()?;
        let m = through_mesh()?;
        println!(
            "  round {round}: bare quinn {:6.2} Gbit/s {:6.0} ms/GiB   net-mesh {:6.2} Gbit/s {:6.0} ms/GiB",
            b.0, b.1, m.0, m.1
        );
        bare.push(b);
        mesh.push(m);
    }
    let ratio = |pick: fn(&Figures) -> f64| {
        median(mesh.iter().map(pick).collect()) / median(bare.iter().map(pick).collect())
    };
    println!(
        "  medians: net-mesh has {:.1} % of bare quinn's throughput and {:.1} % of its processor time\n",
        100.0 * ratio(|f| f.0),
        100.0 * ratio(|f| f.1)
    );
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn send(mut stream: SendStream) -> Result<()> {
    let chunk = vec![0x5a; CHUNK];
    for _ in 0..BYTES / CHUNK {
        stream.write_all(&chunk).await?;
    }
    stream.finish()?;
    stream.stopped().await?;
    Ok(())
}

async fn receive(mut stream: RecvStream) -> Result<Figures> {
    let stretch = Stretch::begin();
    let mut received = 0;
    while let Some(chunk) = stream.read_chunk(usize::MAX, true).await? {
        received += chunk.bytes.len();
    }
    anyhow::ensure!(received == BYTES, "{received} bytes arrived");
    let (wall, cpu) = stretch.end();
    let gbit = BYTES as f64 * 8.0 / 1e9 / wall.as_secs_f64();
    Ok((gbit, cpu.as_secs_f64() * 1000.0 * (1u64 << 30) as f64 / BYTES as f64))
}

fn through_bare() -> Result<Figures> {
    let pair = bare::Pair::new()?;
    let (tell, told) = mpsc::channel::<SocketAddr>();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            runtime()?.block_on(async {
                let endpoint = pair.server()?;
                tell.send(endpoint.local_addr()?)?;
                let connection = endpoint.accept().await.context("closed")?.await?;
                let figures = receive(connection.accept_uni().await?).await?;
                connection.closed().await;
                anyhow::Ok(figures)
            })
        });
        let addr = told.recv()?;
        runtime()?.block_on(async {
            let (endpoint, config) = pair.client()?;
            let connection = endpoint.connect_with(config, addr, "bench")?.await?;
            send(connection.open_uni().await?).await?;
            connection.close(0u32.into(), b"");
            endpoint.wait_idle().await;
            anyhow::Ok(())
        })?;
        receiver.join().expect("the receiver panicked")
    })
}

fn through_mesh() -> Result<Figures> {
    let secret = MeshSecret::generate()?;
    let (tell, told) = mpsc::channel::<SocketAddr>();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            runtime()?.block_on(async {
                let node = mesh::first(&secret).await?;
                tell.send(node.local_addrs()[0])?;
                let (_, _, stream) = node.accept_stream().await?;
                let figures = receive(stream).await?;
                node.shutdown().await;
                anyhow::Ok(figures)
            })
        });
        let addr = told.recv()?;
        runtime()?.block_on(async {
            let node = mesh::second(&secret, addr).await?;
            let peer = node.peers()[0].node_id;
            let (stream, _) = node.open_stream(peer).await?;
            send(stream).await?;
            node.shutdown().await;
            anyhow::Ok(())
        })?;
        receiver.join().expect("the receiver panicked")
    })
}
