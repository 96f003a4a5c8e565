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
use net_mesh::{Identity, Mesh, MeshSecret, NodeId, NodeKey, PeerError};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use hub::Figures;
pub use hub::{COMMAND, serve};

/// How many others there are, unless the user says.
const ROUNDS: [usize; 3] = [0, 1, 1_000];

/// How many start at a time: no more than a node admits strangers without asking twice.
const AT_ONCE: usize = 100;

/// How long one may take until it has its session: the last of a thousand are told a thousand records at once.
const MEET: Duration = Duration::from_secs(300);

/// Between two looks at whether something has come.
const LOOK: Duration = Duration::from_millis(200);

/// Between the last session and the measurement: until records are everywhere and probing has ended.
const SETTLE: Duration = Duration::from_secs(45);

/// How long is measured: everybody's record is renewed once in it.
const WINDOW: Duration = Duration::from_secs(300);

/// How long a node without others is measured, of which only its own wake-ups and processor time are of interest.
const WINDOW_ALONE: Duration = Duration::from_secs(60);

/// Headers of IPv4 and UDP, in bytes.
const HEADERS: u64 = 28;

/// Bytes a second that the least QUIC keep-alive costs both ways together: every ten seconds a PING and its
/// acknowledgement (RFC 9000 §17.3: first byte, 8 bytes of connection id, 2 of packet number, 16 of tag; frames
/// of 1 to 5 bytes), each in a datagram.
const QUIC_KEEP_ALIVE: f64 = (2 * (HEADERS + 27) + 1 + 5) as f64 / 10.0;

/// Sessions are on loopback only, so the mesh needs no secret.
pub(crate) const SECRET: [u8; 32] = [7; 32];

/// Rounds with so many others, or the usual ones.
pub fn run(rounds: &[usize]) -> Result<()> {
    println!(
        "idle: a node and its idle sessions, {WINDOW:?} after {SETTLE:?} of rest; a bare QUIC keep-alive of 10 s needs \
         {QUIC_KEEP_ALIVE:.1} B/s both ways"
    );
    more_files()?;
    let mut alone = None;
    // Without others first: what a node costs anyway is taken off the other rounds.
    let chosen = rounds.iter().copied().filter(|others| *others > 0);
    let rounds: Vec<usize> =
        if rounds.is_empty() { ROUNDS.into() } else { std::iter::once(0).chain(chosen).collect() };
    for others in rounds {
        let figures = round(others).with_context(|| format!("with {others} others"))?;
        print(others, &figures, alone.get_or_insert(figures.clone()));
    }
    println!();
    Ok(())
}

fn round(others: usize) -> Result<Figures> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let hub = Hub::start()?;
    let began = Instant::now();
    runtime.block_on(async {
        let mut leaves = Vec::new();
        while leaves.len() < others {
            let mut starting = JoinSet::new();
            for n in leaves.len()..others.min(leaves.len() + AT_ONCE) {
                starting.spawn(timeout(MEET, leaf(n, hub.at)));
            }
            while let Some(leaf) = starting.join_next().await {
                leaves.push(leaf?.context("no session")??);
            }
        }
        let start = Instant::now();
        while leaves.iter().any(|(mesh, ..)| mesh.peers().len() < others) {
            anyhow::ensure!(start.elapsed() < MEET, "not everyone has heard of everyone");
            sleep(LOOK).await;
        }
        eprintln!("  {others} sessions and everyone's records after {:?}", began.elapsed());
        // The hub's process answers on a pipe, which must not stop the others from running.
        let (tell, told) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || tell.send(hub.measure(others)));
        told.await?
    })
}

/// A node with a session to the hub and a stream on it.
async fn leaf(
    n: usize,
    hub: (SocketAddr, NodeId),
) -> Result<(Mesh, net_mesh::SendStream, net_mesh::RecvStream)> {
    let identity = Identity::from_secret(&MeshSecret::from_bytes(SECRET), &NodeKey::generate()?)?;
    let builder =
        Mesh::builder(identity).name(format!("leaf{n}")).listen(SocketAddr::from(([127, 0, 0, 1], 0)));
    let mesh = builder.bootstrap(hub.0).full_mesh(0).start().await?;
    let (mut send, recv) = loop {
        match mesh.open_stream(hub.1).await {
            Ok(stream) => break stream,
            // Not heard of yet.
            Err(PeerError::Unknown(_)) => sleep(LOOK).await,
            Err(error) => return Err(error.into()),
        }
    };
    send.write_all(b"here").await?;
    Ok((mesh, send, recv))
}

/// The process with the hub. Dropping it ends it.
struct Hub {
    process: Child,
    answers: BufReader<std::process::ChildStdout>,
    at: (SocketAddr, NodeId),
}

impl Hub {
    fn start() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let answers = BufReader::new(process.stdout.take().context("no output")?);
        let mut hub =
            Self { process, answers, at: (SocketAddr::from(([0; 4], 0)), hub::identity()?.node_id()) };
        hub.at.0 = hub.answer()?.parse()?;
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

/// Waits until `sessions` are there, and all has become quiet.
async fn rest(mesh: &Mesh, sessions: usize) -> Result<()> {
    let start = Instant::now();
    while mesh.peers().iter().filter(|peer| peer.path.kind == net_mesh::PathKind::Direct).count() < sessions {
        if start.elapsed() > MEET {
            bail!("fewer than {sessions} sessions");
        }
        sleep(LOOK).await;
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
