//! The node whose idle sessions are measured, alone in its process.
//!
//! It prints its address, reads a number of sessions, waits until there are so many, and prints what the time after
//! that took.

use std::fs;
use std::io::{BufRead as _, stdin};
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use net_mesh::{Identity, Mesh, MeshSecret, NodeKey, PathKind};

use super::counting::{Counters, Counting};
use super::{SECRET, WINDOW, WINDOW_ALONE, rest};
use crate::usage::Stretch;

/// How this program is told to be a hub.
pub const COMMAND: &str = "idle-hub";

/// What a stretch of time took.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub seconds: f64,
    /// Datagrams, and bytes of UDP payload.
    pub sent: (u64, u64),
    pub received: (u64, u64),
    /// Of all bytes, those that are not QUIC's.
    pub other_bytes: u64,
    /// How often a thread went to sleep and was woken.
    pub wakeups: u64,
    pub cpu_micros: u64,
    pub rss_kib: u64,
    pub sessions: u64,
}

impl Figures {
    fn line(&self) -> String {
        let Self { seconds, sent, received, other_bytes, wakeups, cpu_micros, rss_kib, sessions } = self;
        format!(
            "{seconds} {} {} {} {} {other_bytes} {wakeups} {cpu_micros} {rss_kib} {sessions}",
            sent.0, sent.1, received.0, received.1
        )
    }
}

impl FromStr for Figures {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let (seconds, rest) = line.split_once(' ').context("too few figures")?;
        let rest = rest.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        let [sent, sent_bytes, received, received_bytes, other_bytes, wakeups, cpu_micros, rss_kib, sessions] =
            rest[..]
        else {
            anyhow::bail!("not nine figures: {line}");
        };
        let (sent, received) = ((sent, sent_bytes), (received, received_bytes));
        let seconds = seconds.parse()?;
        Ok(Self { seconds, sent, received, other_bytes, wakeups, cpu_micros, rss_kib, sessions })
    }
}

/// Who it is: the others must know before they have heard of it.
pub fn identity() -> Result<Identity> {
    Ok(Identity::from_secret(&MeshSecret::from_bytes(SECRET), &NodeKey::from_bytes([1; 32]))?)
}

pub fn serve() -> Result<()> {
    super::more_files()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let network = Counting::default();
        let counters = Arc::clone(&network.counters);
        let builder = Mesh::builder(identity()?).name("hub").listen(SocketAddr::from(([127, 0, 0, 1], 0)));
        let mesh = Arc::new(builder.network(Arc::new(network)).full_mesh(0).start().await?);
        println!("{}", mesh.local_addrs().first().context("it listens")?);
        let accepting = Arc::clone(&mesh);
        // Streams are kept open as an application would keep them.
        let streams = tokio::spawn(async move {
            let mut streams = Vec::new();
            while let Ok(stream) = accepting.accept_stream().await {
                streams.push(stream);
            }
        });
        let (tell, told) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || tell.send(stdin().lock().lines().next()));
        let sessions: usize = told.await?.context("nothing was asked")??.parse()?;
        rest(&mesh, sessions).await?;
        println!(
            "{}",
            measure(&mesh, &counters, if sessions == 0 { WINDOW_ALONE } else { WINDOW }).await?.line()
        );
        streams.abort();
        anyhow::Ok(())
    })
}

async fn measure(mesh: &Mesh, counters: &Counters, window: Duration) -> Result<Figures> {
    let (before, woken) = (counters.read(), wakeups()?);
    let stretch = Stretch::begin();
    tokio::time::sleep(window).await;
    let (wall, cpu) = stretch.end();
    let (after, woken) = (counters.read(), wakeups()? - woken);
    let sessions = mesh.peers().iter().filter(|peer| peer.path.kind == PathKind::Direct).count();
    let rss_kib = status_value(&fs::read_to_string("/proc/self/status")?, "VmRSS:")?;
    Ok(Figures {
        seconds: wall.as_secs_f64(),
        sent: (after.sent - before.sent, after.sent_bytes - before.sent_bytes),
        received: (after.received - before.received, after.received_bytes - before.received_bytes),
        other_bytes: after.other_bytes - before.other_bytes,
        wakeups: woken,
        cpu_micros: cpu.as_micros() as u64,
        rss_kib,
        sessions: sessions as u64,
    })
}

/// How often this process's threads have waited for something.
fn wakeups() -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir("/proc/self/task")? {
        sum += status_value(&fs::read_to_string(task?.path().join("status"))?, "voluntary_ctxt_switches:")?;
    }
    Ok(sum)
}

fn status_value(status: &str, key: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let value = line.and_then(|line| line.split_whitespace().next());
    Ok(value.with_context(|| format!("no {key}"))?.parse()?)
}
