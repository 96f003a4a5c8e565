//! The nodes' lives in the lab: they start, meet, find out about their NATs, publish, and listen.
//!
//! Everything observed comes from what a user of the library sees. All durations are virtual.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use net_mesh::{Event, Mesh, NatClass, NodeId, PathKind, Subscription};
use net_mesh_sim::oracle::Reach;
use net_mesh_sim::{Internet, SimNet};
use tokio::time::{Instant, sleep, timeout};

use super::progress::Progress;
use super::world::{HostNetwork, SEED_PORT, SEEDS, World};

/// What each node publishes: enough that losing or doubling one would show.
pub(super) const EVENTS: u64 = 25;

/// From one event of a publisher to the next.
const PACE: Duration = Duration::from_millis(40);

const CHANNEL: &str = "lab";

/// When the lab's nodes are started, as milliseconds since the Unix epoch. Any fixed instant.
const START_UNIX_MS: u64 = 1_700_000_000_000;

/// How long meeting and classifying may take. Both take seconds; what takes a minute has failed.
const MEETING: Duration = Duration::from_secs(60);

/// From when all know all to the first event, for the last subscription to get around.
const SETTLING: Duration = Duration::from_secs(3);

/// How long every pair gets, those that are expected to fail too: longer than an attempt to connect.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long pairs get that should succeed and have not yet.
const LIMIT: Duration = Duration::from_secs(60);

/// How often to look whether a phase is over.
const LOOK: Duration = Duration::from_millis(50);

/// What happened from one node to another.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    /// The path the sender has in the end.
    pub(super) path: PathKind,
    /// Events that arrived whole, once and in order.
    pub(super) delivered: u64,
    /// From the first publication to the first arrival.
    pub(super) first_event: Option<Duration>,
    /// From the first publication to the moment the sender had a direct session.
    pub(super) direct: Option<Duration>,
}

/// What happened.
pub(super) struct Observed {
    /// What each node found its NAT to be.
    pub(super) found: Vec<NatClass>,
    /// For each pair, from row to column.
    pub(super) pairs: Vec<Vec<Pair>>,
    /// How long it all took.
    pub(super) took: Duration,
}

/// What has been seen so far; one cell per pair, from row to column.
struct Book {
    ids: Vec<NodeId>,
    cells: Mutex<Vec<Vec<Cell>>>,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    delivered: u64,
    broken: bool,
    first: Option<Instant>,
    direct: Option<Instant>,
}

impl Book {
    fn cells(&self) -> MutexGuard<'_, Vec<Vec<Cell>>> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self, id: &NodeId) -> Option<usize> {
        self.ids.iter().position(|known| known == id)
    }

    fn arrived(&self, to: usize, event: &Event) {
        let Some(from) = self.index(&event.from) else { return };
        let cell = &mut self.cells()[from][to];
        let next = cell.delivered + 1;
        let expected = event.seq == next && event.missed == 0 && event.payload == payload(from, next);
        // After one wrong event nothing is right any more: the report then shows what arrived before it.
        cell.broken |= !expected;
        if !cell.broken {
            cell.delivered = next;
            cell.first.get_or_insert_with(Instant::now);
        }
    }

    fn saw_paths(&self, from: usize, mesh: &Mesh) {
        let direct = mesh.peers().into_iter().filter(|peer| peer.path.kind == PathKind::Direct);
        let direct: Vec<usize> = direct.filter_map(|peer| self.index(&peer.node_id)).collect();
        let row = &mut self.cells()[from];
        for to in direct {
            row[to].direct.get_or_insert_with(Instant::now);
        }
    }
}

fn payload(from: usize, seq: u64) -> String {
    format!("event {seq} of node {from}: what is said here arrives there, whole and in order")
}

/// Lets the nodes of `world` live on `internet`.
///
/// # Errors
/// If a node cannot be started. That others do not hear it is a result, not an error.
pub(super) async fn run(
    world: &World,
    internet: Internet,
    progress: &mut Progress,
) -> anyhow::Result<Observed> {
    let begin = Instant::now();
    let net = SimNet::new(internet);
    progress.show("starting the nodes", "");
    let meshes = start(world, &net).await?;
    let book = Arc::new(Book {
        ids: meshes.iter().map(Mesh::node_id).collect(),
        cells: Mutex::new(vec![vec![Cell::default(); meshes.len()]; meshes.len()]),
    });
    for (node, mesh) in meshes.iter().enumerate() {
        let events = mesh.subscribe(CHANNEL).context("a node cannot subscribe")?;
        tokio::spawn(listen(node, events, Arc::clone(&book)));
        tokio::spawn(watch(node, mesh.clone(), Arc::clone(&book)));
    }
    meet(&meshes, progress).await;
    let published = Instant::now();
    for (node, mesh) in meshes.iter().enumerate() {
        tokio::spawn(publish(node, mesh.clone()));
    }
    exchange(world, &book, progress).await;
    Ok(Observed {
        found: meshes.iter().map(|mesh| mesh.status().nat.class).collect(),
        pairs: meshes.iter().enumerate().map(|(from, mesh)| pairs(from, mesh, &book, published)).collect(),
        took: begin.elapsed(),
    })
}

async fn start(world: &World, net: &SimNet) -> anyhow::Result<Vec<Mesh>> {
    let mut meshes = Vec::new();
    for (i, node) in world.nodes.iter().enumerate() {
        let port = if i < SEEDS { SEED_PORT } else { 0 };
        let mut builder = Mesh::builder(world.identity(node)?)
            .name(node.name)
            .listen(([0, 0, 0, 0], port).into())
            .network(Arc::new(HostNetwork(net.host(node.host))))
            .reproducible(world.seed_of(node), START_UNIX_MS);
        for addr in &world.seeds {
            builder = builder.bootstrap(*addr);
        }
        meshes.push(builder.start().await.with_context(|| format!("{} cannot start", node.name))?);
    }
    Ok(meshes)
}

async fn listen(to: usize, mut events: Subscription, book: Arc<Book>) {
    while let Some(event) = events.next().await {
        book.arrived(to, &event);
    }
}

async fn watch(from: usize, mesh: Mesh, book: Arc<Book>) {
    loop {
        book.saw_paths(from, &mesh);
        mesh.changed().await;
    }
}

async fn publish(from: usize, mesh: Mesh) {
    for seq in 1..=EVENTS {
        if let Err(error) = mesh.publish(CHANNEL, payload(from, seq)).await {
            // Shows in the report as events that did not arrive.
            tracing::warn!(from, seq, %error, "cannot publish");
            return;
        }
        sleep(PACE).await;
    }
}

/// Waits until all know all and what their NATs are.
async fn meet(meshes: &[Mesh], progress: &mut Progress) {
    let others = meshes.len() - 1;
    let all_met = async {
        loop {
            let met = meshes.iter().filter(|mesh| mesh.peers().len() == others).count();
            let known = meshes.iter().filter(|mesh| mesh.status().nat.class != NatClass::Unknown).count();
            let all = meshes.len();
            let how_far = format!(": {met} of {all} know all others, {known} of {all} know their NAT");
            progress.show("the nodes meet and look at their NATs", &how_far);
            if met == all && known == all {
                return;
            }
            sleep(LOOK).await;
        }
    };
    // Whoever has not got that far is shown as it is.
    let _ = timeout(MEETING, all_met).await;
    sleep(SETTLING).await;
}

/// Waits until everything has arrived that can, and for long enough to see that the rest does not.
async fn exchange(world: &World, book: &Book, progress: &mut Progress) {
    let begin = Instant::now();
    loop {
        let (mut due, mut missing) = (0, 0);
        for (row, cells) in world.outlook.iter().zip(book.cells().iter()) {
            for (outlook, cell) in row.iter().zip(cells) {
                let Some(outlook) = outlook.filter(|outlook| outlook.reach != Reach::None) else { continue };
                due += 1;
                let direct = outlook.reach != Reach::Direct || cell.direct.is_some();
                missing += u32::from(cell.delivered < EVENTS || !direct);
            }
        }
        let how_far = format!(": {} of {due} pairs that can", due - missing);
        progress.show("every pair tries to exchange events", &how_far);
        if begin.elapsed() >= if missing == 0 { PATIENCE } else { LIMIT } {
            return;
        }
        sleep(LOOK).await;
    }
}

fn pairs(from: usize, mesh: &Mesh, book: &Book, published: Instant) -> Vec<Pair> {
    let mut paths = vec![PathKind::None; book.ids.len()];
    for peer in mesh.peers() {
        if let Some(to) = book.index(&peer.node_id) {
            paths[to] = peer.path.kind;
        }
    }
    let since = |at: Instant| at.saturating_duration_since(published);
    let cells = book.cells()[from].clone();
    let pair = |(cell, path): (Cell, PathKind)| Pair {
        path,
        delivered: cell.delivered,
        first_event: cell.first.map(since),
        direct: cell.direct.filter(|_| path == PathKind::Direct).map(since),
    };
    cells.into_iter().zip(paths).map(pair).collect()
}
