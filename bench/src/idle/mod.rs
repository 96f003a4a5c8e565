//! What idle sessions cost: one node, the hub, alone in a process, and others in this one, each with a session to the
//! hub over which nothing is said. Rounds differ in how many others there are.
//!
//! Every session is kept by a stream on it, as one that an application uses now and then; others would be closed after
//! two minutes. The others keep no sessions among themselves. All are members of one mesh, though: the hub also hands
//! everyone's record to everyone, so what a session costs grows with the mesh. The round with one other node
//! shows what the session alone does.

mod counting;
mod hub;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use net_mesh::{Identity, Mesh, MeshSecret, NodeKey};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

pub use hub::{COMMAND, serve};
use hub::{Figures, NAME};

/// How many others there are.
const ROUNDS: [usize; 4] = [0, 1, 100, 1_000];

/// How many start at a time: each brings a handshake and a record for everybody.
const AT_ONCE: usize = 20;

/// How long one may take until it has its session: the last of a thousand are told a thousand records at once.
const MEET: Duration = Duration::from_secs(300);

/// Between the last session and the measurement: until records are everywhere and probing has ended.
const SETTLE: Duration = Duration::from_secs(45);

/// How long is measured: six of QUIC's keep-alive intervals, two of the digests of records.
const WINDOW: Duration = Duration::from_secs(60);

/// Headers of IPv4 and UDP, in bytes.
const HEADERS: u64 = 28;

/// Bytes a second that the least QUIC keep-alive costs both ways together: every ten seconds a PING and its
/// acknowledgement (RFC 9000 §17.3: first byte, 8 bytes of connection id, 2 of packet number, 16 of tag; frames
/// of 1 to 5 bytes), each in a datagram.
const QUIC_KEEP_ALIVE: f64 = (2 * (HEADERS + 27) + 1 + 5) as f64 / 10.0;

/// Sessions are on loopback only, so the mesh needs no secret.
pub(crate) const SECRET: [u8; 32] = [7; 32];

pub fn run() -> Result<()> {
    println!(
        "idle: a node and its idle sessions, {WINDOW:?} after {SETTLE:?} of rest; a bare QUIC keep-alive of 10 s needs \
         {QUIC_KEEP_ALIVE:.1} B/s both ways"
    );
    more_files()?;
    let mut alone = None;
    for others in ROUNDS {
        let figures = round(others).with_context(|| format!("with {others} others"))?;
        print(others, &figures, alone.get_or_insert(figures.clone()));
    }
    println!();
    Ok(())
}

fn round(others: usize) -> Result<Figures> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let hub = Hub::start()?;
    runtime.block_on(async {
        let mut leaves = Vec::new();
        while leaves.len() < others {
            let mut starting = JoinSet::new();
            for n in leaves.len()..others.min(leaves.len() + AT_ONCE) {
                starting.spawn(timeout(MEET, leaf(n, hub.addr)));
            }
            while let Some(leaf) = starting.join_next().await {
                leaves.push(leaf?.context("no session")??);
            }
        }
        // The hub's process answers on a pipe, which must not stop the others from running.
        let (tell, told) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || tell.send(hub.measure(others)));
        told.await?
    })
}

/// A node with a session to the hub and a stream on it.
async fn leaf(n: usize, hub: SocketAddr) -> Result<(Mesh, net_mesh::SendStream, net_mesh::RecvStream)> {
    let identity = Identity::from_secret(&MeshSecret::from_bytes(SECRET), &NodeKey::generate()?)?;
    let builder =
        Mesh::builder(identity).name(format!("leaf{n}")).listen(SocketAddr::from(([127, 0, 0, 1], 0)));
    let mesh = builder.bootstrap(hub).full_mesh(0).start().await?;
    let hub = loop {
        match mesh.resolve(NAME) {
            Ok(hub) => break hub,
            Err(_) => mesh.changed().await,
        }
    };
    let (mut send, recv) = mesh.open_stream(hub).await?;
    send.write_all(b"here").await?;
    Ok((mesh, send, recv))
}

/// The process with the hub. Dropping it ends it.
struct Hub {
    process: Child,
    answers: BufReader<std::process::ChildStdout>,
    addr: SocketAddr,
}

impl Hub {
    fn start() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let answers = BufReader::new(process.stdout.take().context("no output")?);
        let mut hub = Self { process, answers, addr: SocketAddr::from(([0; 4], 0)) };
        hub.addr = hub.answer()?.parse()?;
        Ok(hub)
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the hub has ended");
        }
        Ok(line.trim_end().to_owned())
    }

    fn measure(mut self, sessions: usize) -> Result<Figures> {
        let stdin = self.process.stdin.as_mut().context("no input")?;
        writeln!(stdin, "{sessions}")?;
        self.answer()?.parse()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What it took until `sessions` were there; then the figures of a stretch in which nothing was said.
async fn rest(mesh: &Mesh, sessions: usize) -> Result<()> {
    let start = Instant::now();
    while mesh.peers().iter().filter(|peer| peer.path.kind == net_mesh::PathKind::Direct).count() < sessions {
        if start.elapsed() > MEET {
            bail!("fewer than {sessions} sessions");
        }
        sleep(Duration::from_millis(200)).await;
    }
    sleep(SETTLE).await;
    Ok(())
}

fn print(others: usize, figures: &Figures, alone: &Figures) {
    let seconds = figures.seconds;
    let per_session = |value: f64| if others == 0 { 0.0 } else { value / others as f64 };
    let wire = |(datagrams, bytes): (u64, u64)| (bytes + datagrams * HEADERS) as f64 / seconds;
    let rate = |now: u64, then: u64| now as f64 / seconds - then as f64 / alone.seconds;
    let total = wire(figures.sent) + wire(figures.received);
    println!(
        "  {others:>5} sessions: per session {:7.1} B/s ({:.1} out, {:.1} in; {:.3} datagrams/s; {:.1} B/s of it not QUIC), \
         {:.4} wake-ups/s, {:.3} ms/s of processor time, {:.1} KiB",
        per_session(total),
        per_session(wire(figures.sent)),
        per_session(wire(figures.received)),
        per_session((figures.sent.0 + figures.received.0) as f64 / seconds),
        per_session(figures.other_bytes as f64 / seconds),
        per_session(rate(figures.wakeups, alone.wakeups)),
        per_session(rate(figures.cpu_micros, alone.cpu_micros)) / 1e3,
        per_session(figures.rss_kib.saturating_sub(alone.rss_kib) as f64),
    );
    println!(
        "        the node: {:.1} wake-ups/s, {:.2} % of a core, {:.1} MiB, {} sessions at the end",
        figures.wakeups as f64 / seconds,
        figures.cpu_micros as f64 / seconds / 1e4,
        figures.rss_kib as f64 / 1024.0,
        figures.sessions,
    );
}

/// Every node has some sockets.
fn more_files() -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a pointer to a whole rlimit.
    let done = unsafe {
        let known = libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        known == 0 && libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
    };
    if done { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}
