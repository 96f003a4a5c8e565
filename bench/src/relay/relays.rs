//! What is compared: a node of net-mesh, a bare loop around system calls, coturn.

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use net_mesh::{Identity, Mesh, MeshSecret, NodeKey};
use net_mesh_proto::id::NodeId;
use net_mesh_proto::relay::{Change, Limits};
use net_mesh_proto::time::Time;

use super::RELAY_CORE;
use super::cpu::{Clock, stay_on};
use super::mmsg::{Messages, receive_runs, socket};

/// Bytes of a relay frame before its payload.
pub const HEADER: usize = 9;

/// A way through a relay.
#[derive(Clone, Copy)]
pub struct Way {
    pub label: u64,
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    pub out: u64,
}

/// A relay that runs until it is dropped.
pub struct Relay {
    pub addr: SocketAddrV4,
    pub clock: Clock,
    stop: Stop,
}

enum Stop {
    Node(Option<tokio::sync::oneshot::Sender<()>>, Option<JoinHandle<()>>),
    Loop(Arc<AtomicBool>, Option<JoinHandle<()>>),
    Process(Child),
}

impl Drop for Relay {
    fn drop(&mut self) {
        match &mut self.stop {
            Stop::Node(tell, thread) => {
                drop(tell.take());
                thread.take().map(JoinHandle::join);
            }
            Stop::Loop(stop, thread) => {
                stop.store(true, Ordering::Relaxed);
                let wake = UdpSocket::bind("127.0.0.1:0").and_then(|s| s.send_to(&[0], self.addr));
                if wake.is_ok() {
                    thread.take().map(JoinHandle::join);
                }
            }
            Stop::Process(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

pub fn v4(addr: SocketAddr) -> Result<SocketAddrV4> {
    match addr {
        SocketAddr::V4(addr) => Ok(addr),
        SocketAddr::V6(_) => anyhow::bail!("{addr} is not IPv4"),
    }
}

/// A whole node, on a thread of its own, as a program would run it.
pub fn node(ways: &[Way]) -> Result<Relay> {
    let (tell, told) = mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let ways = ways.to_vec();
    let thread = thread::Builder::new().name("net-mesh".to_owned()).spawn(move || {
        stay_on(RELAY_CORE);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
            runtime.block_on(async {
                let mesh = start_node(&ways).await?;
                tell.send((v4(mesh.local_addrs()[0])?, Clock::of_this_thread()))?;
                let _ = stopped.await;
                mesh.shutdown().await;
                anyhow::Ok(())
            })
        });
        if let Err(error) = done {
            eprintln!("the relaying node failed: {error:#}");
        }
    })?;
    let (addr, clock) = told.recv().context("the node did not start")?;
    Ok(Relay { addr, clock, stop: Stop::Node(Some(stop), Some(thread)) })
}

async fn start_node(ways: &[Way]) -> Result<Mesh> {
    let identity = Identity::from_secret(&MeshSecret::generate()?, &NodeKey::generate()?)?;
    // What a node is prepared to carry is not what is measured.
    let limits = Limits { bytes_per_second: Limits::UNLIMITED, ..Limits::default() };
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let mesh = Mesh::builder(identity).name("relay").listen(listen).relay(Some(limits)).start().await?;
    for (i, way) in ways.iter().enumerate() {
        let Way { label, from, to, out } = *way;
        let user = NodeId([u8::try_from(i)?; 32]);
        let expires = Time::from_nanos(u64::MAX);
        mesh.apply_label(Change::Forward { label, from: from.into(), to: to.into(), out, user, expires });
    }
    Ok(mesh)
}

/// A loop that receives, looks the label up, rewrites it and sends; with `runs`, runs of equal datagrams stay
/// together both ways.
pub fn bare(ways: &[Way], runs: bool) -> Result<Relay> {
    let socket = socket()?;
    let addr = v4(socket.local_addr()?)?;
    if runs {
        receive_runs(&socket)?;
    }
    let table: HashMap<u64, (SocketAddrV4, u64)> = ways.iter().map(|w| (w.label, (w.to, w.out))).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let (tell, told) = mpsc::channel();
    let thread = thread::Builder::new().name("bare".to_owned()).spawn(move || {
        stay_on(RELAY_CORE);
        let _ = tell.send(Clock::of_this_thread());
        let mut messages = Messages::new(32, if runs { 1 << 16 } else { 2048 });
        while !stopped.load(Ordering::Relaxed) {
            if let Err(error) = turn(&socket, &table, &mut messages) {
                eprintln!("the bare loop failed: {error}");
                return;
            }
        }
    })?;
    Ok(Relay { addr, clock: told.recv()?, stop: Stop::Loop(stop, Some(thread)) })
}

fn turn(
    socket: &UdpSocket,
    table: &HashMap<u64, (SocketAddrV4, u64)>,
    messages: &mut Messages,
) -> std::io::Result<()> {
    let count = messages.receive(socket.as_raw_fd(), false, false)?;
    for i in 0..count {
        let (length, segment) = messages.length(i);
        let label = messages.bytes(i).get(1..HEADER).and_then(|l| l.try_into().ok()).map(u64::from_be_bytes);
        // Only the datagram that ends the loop has no label.
        let Some((to, out)) = label.and_then(|l| table.get(&l)) else { return Ok(()) };
        for frame in messages.bytes(i).chunks_mut(segment) {
            frame[1..HEADER].copy_from_slice(&out.to_be_bytes());
        }
        debug_assert!(length > HEADER);
        messages.address(i, *to, segment);
    }
    let mut sent = 0;
    while sent < count {
        // All or an error: the socket waits for room.
        sent += messages.send(socket.as_raw_fd(), count)?;
    }
    Ok(())
}

/// coturn's server, relaying without authentication. `None` where it is not installed.
pub fn coturn() -> Result<Option<Relay>> {
    let program = ["/usr/bin/turnserver", "/usr/local/bin/turnserver"];
    let Some(program) = program.iter().find(|p| std::path::Path::new(p).exists()) else { return Ok(None) };
    let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut command = Command::new(program);
    command.args([
        "-n",
        "--no-auth",
        "--no-cli",
        "--no-tls",
        "--no-dtls",
        "--no-tcp",
        "--relay-threads",
        "1",
    ]);
    command.args(["--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1", "--allow-loopback-peers"]);
    command.args(["--listening-port", &port.to_string(), "--log-file", "stdout", "--simple-log"]);
    command.args(["--pidfile", "/dev/null", "--userdb", "/dev/null", "--realm", "bench"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: between fork and exec only system calls are made, and nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            stay_on(RELAY_CORE);
            Ok(())
        });
    }
    let child = command.spawn().context("coturn did not start")?;
    let addr = SocketAddrV4::new([127, 0, 0, 1].into(), port);
    let relay = Relay { addr, clock: Clock::of_process(child.id()), stop: Stop::Process(child) };
    let probe = UdpSocket::bind("127.0.0.1:0")?;
    probe.set_read_timeout(Some(Duration::from_millis(50)))?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        // A bare Binding request (RFC 8489 §5).
        let _ = probe.send_to(b"\x00\x01\x00\x00\x21\x12\xa4\x42twelve bytes", addr);
        if probe.recv(&mut [0; 512]).is_ok() {
            return Ok(Some(relay));
        }
    }
    anyhow::bail!("coturn does not answer")
}
