//! How long two nodes that have never spoken take: from a `publish` to its arrival, and to a direct way.
//!
//! Each case is a small internet of its own: three public nodes that everybody keeps sessions with, and a
//! pair that has none with each other. Every line is 10 ms long each way to the next, so that a round trip
//! takes 40 ms straight and 80 ms by way of a public node. Times are virtual.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use net_mesh::{Identity, Mesh, MeshSecret, NatClass, NodeKey, PathKind};
use net_mesh_proto::rng::Rng;
use net_mesh_sim::oracle::{self, Means, Reach};
use net_mesh_sim::{Chain, HostId, Internet, Nat, SimNet};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use super::world::{HostNetwork, SEED_PORT, bytes};
use crate::table::{Column, Table};

/// A round trip between any two hosts: four stretches of 5 ms each way.
const STRAIGHT: Duration = Duration::from_millis(40);

/// A round trip by way of a public node.
const RELAYED: Duration = Duration::from_millis(80);

/// Public nodes: as many as a node keeps sessions with.
const PUBLIC: usize = 3;

const CHANNEL: &str = "cold";

/// When the nodes start, in milliseconds since the Unix epoch. Any fixed instant.
const START_UNIX_MS: u64 = 1_700_000_000_000;

/// How long meeting may take, and how long an event or a direct way is waited for.
const LIMIT: Duration = Duration::from_secs(30);

/// From when all know all to the event, so that nothing is under way any more.
const CALM: Duration = Duration::from_secs(10);

/// How often to look; also how exact the times of direct ways are.
const LOOK: Duration = Duration::from_millis(1);

/// What happened to one pair. Times are in milliseconds since the publication.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cold {
    /// The publisher's NAT.
    pub(super) from: String,
    /// The subscriber's NAT.
    pub(super) to: String,
    /// The path in the end.
    pub(super) path: String,
    /// The best the topology allows.
    pub(super) expected: String,
    /// From the publication to its arrival.
    pub(super) first_event_ms: Option<u64>,
    /// The same in round trips by way of a public node.
    pub(super) first_event_relay_rtts: Option<f64>,
    /// From the publication until both sides send straight.
    pub(super) direct_ms: Option<u64>,
    /// From the arrival until both sides send straight, in straight round trips; 0 where they did already.
    pub(super) direct_after_rtts: Option<f64>,
}

/// The pairs that are looked at.
fn cases() -> Vec<[(&'static str, Chain); 2]> {
    let full = || ("full-cone", Nat::full_cone().into());
    let restricted = || ("restricted-cone", Nat::restricted_cone().into());
    let port = || ("port-restricted", Nat::port_restricted().into());
    let symmetric = || ("symmetric", Nat::symmetric().into());
    vec![
        [port(), port()],
        [restricted(), port()],
        [symmetric(), restricted()],
        [restricted(), symmetric()],
        [port(), full()],
        [symmetric(), port()],
        [symmetric(), symmetric()],
    ]
}

/// All cases, in the order of the table.
///
/// # Errors
/// If a node cannot be started or the nodes do not meet.
pub(super) async fn run(seed: u64) -> anyhow::Result<Vec<Cold>> {
    let mut results = Vec::new();
    for (n, case) in cases().into_iter().enumerate() {
        let rng = Rng::from_u64(seed).fork(&format!("cold {n}"));
        results.push(one(&rng, seed.wrapping_mul(100).wrapping_add(n as u64), case).await?);
    }
    Ok(results)
}

async fn one(rng: &Rng, seed: u64, [a, b]: [(&'static str, Chain); 2]) -> anyhow::Result<Cold> {
    let mut internet = Internet::new(seed);
    let public: Vec<HostId> = (0..PUBLIC).map(|_| internet.add_behind(Nat::direct())).collect();
    let hosts = [internet.add_behind(a.1), internet.add_behind(b.1)];
    let outlook = oracle::pair(&internet, hosts[0], hosts[1], Means { rendezvous: true, relay: true });
    let start = internet.ips(public[0])[0];
    let net = SimNet::new(internet);
    let secret = MeshSecret::from_bytes(bytes(rng.fork("mesh secret")));
    let mut meshes = Vec::new();
    for (i, host) in public.into_iter().chain(hosts).enumerate() {
        let key = NodeKey::from_bytes(bytes(rng.fork(&format!("key {i}"))));
        let port = if i < PUBLIC { SEED_PORT } else { 0 };
        let builder = Mesh::builder(Identity::from_secret(&secret, &key)?)
            .name(format!("n{i}"))
            .listen(([0, 0, 0, 0], port).into())
            .bootstrap((start, SEED_PORT).into())
            .network(Arc::new(HostNetwork(net.host(host))))
            // As in a large mesh: sessions to public nodes only, until there is something to say.
            .full_mesh(0)
            .reproducible(bytes(rng.fork(&format!("choices {i}"))), START_UNIX_MS);
        meshes.push(builder.start().await.context("a node cannot start")?);
    }
    let [from, to] = [&meshes[PUBLIC], &meshes[PUBLIC + 1]];
    let mut events = to.subscribe(CHANNEL).context("a node cannot subscribe")?;
    calm(&meshes).await?;
    ensure!(path(from, to) == PathKind::None, "the pair must begin without a session");
    let published = Instant::now();
    from.publish(CHANNEL, "the first word").await.context("a node cannot publish")?;
    let arrival = async { timeout(LIMIT, events.next()).await.ok().flatten().map(|_| published.elapsed()) };
    let direct = async {
        let both = async {
            while [path(from, to), path(to, from)] != [PathKind::Direct; 2] {
                sleep(LOOK).await;
            }
        };
        timeout(LIMIT, both).await.ok().map(|()| published.elapsed())
    };
    let (first, direct) = tokio::join!(arrival, direct);
    let after = first.zip(direct).map(|(first, direct)| direct.saturating_sub(first));
    Ok(Cold {
        from: a.0.into(),
        to: b.0.into(),
        path: path(from, to).to_string(),
        expected: match outlook.reach {
            Reach::Direct => "direct",
            Reach::Relayed => "relayed",
            Reach::None => "none",
        }
        .into(),
        first_event_ms: first.map(millis),
        first_event_relay_rtts: first.map(|first| ratio(first, RELAYED)),
        direct_ms: direct.map(millis),
        direct_after_rtts: after.map(|after| ratio(after, STRAIGHT)),
    })
}

/// Waits until all know all and their NATs, and for a while longer.
async fn calm(meshes: &[Mesh]) -> anyhow::Result<()> {
    let known = |mesh: &Mesh| {
        let peers = mesh.peers();
        peers.len() == meshes.len() - 1
            && mesh.status().nat.class != NatClass::Unknown
            && peers.iter().all(|peer| peer.nat != NatClass::Unknown)
    };
    let met = async {
        while !meshes.iter().all(known) {
            sleep(LOOK * 50).await;
        }
    };
    timeout(LIMIT, met).await.context("the nodes did not meet")?;
    sleep(CALM).await;
    Ok(())
}

fn path(from: &Mesh, to: &Mesh) -> PathKind {
    let peers = from.peers();
    peers.iter().find(|peer| peer.node_id == to.node_id()).map_or(PathKind::None, |peer| peer.path.kind)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// To two digits.
fn ratio(time: Duration, round_trip: Duration) -> f64 {
    (time.as_secs_f64() / round_trip.as_secs_f64() * 100.0).round() / 100.0
}

/// What is not as it should be, each in a few words.
pub(super) fn wrong(results: &[Cold]) -> Vec<String> {
    let bad = results.iter().filter(|cold| cold.path != cold.expected || cold.first_event_ms.is_none());
    bad.map(|cold| {
        format!("cold, {} to {} is {} instead of {}", cold.from, cold.to, cold.path, cold.expected)
    })
    .collect()
}

/// The table for people.
pub(super) fn human(results: &[Cold]) -> String {
    let mut table = Table::new(&[
        ("FROM", Column::Left),
        ("TO", Column::Left),
        ("PATH", Column::Left),
        ("FIRST EVENT", Column::Right),
        ("RELAY RTTS", Column::Right),
        ("DIRECT", Column::Right),
        ("RTTS LATER", Column::Right),
    ]);
    let ms = |ms: Option<u64>| ms.map_or_else(|| "-".into(), |ms| format!("{ms} ms"));
    let rtts = |rtts: Option<f64>| rtts.map_or_else(|| "-".into(), |rtts| format!("{rtts:.2}"));
    for cold in results {
        table.row([
            cold.from.clone(),
            cold.to.clone(),
            cold.path.clone(),
            ms(cold.first_event_ms),
            rtts(cold.first_event_relay_rtts),
            ms(cold.direct_ms),
            rtts(cold.direct_after_rtts),
        ]);
    }
    format!(
        "\nFrom the first event of two nodes that had no session ({} ms a round trip straight, {} ms by way of a\n\
         public node) to its arrival, and until both send straight to each other:\n\n{}",
        STRAIGHT.as_millis(),
        RELAYED.as_millis(),
        table.render(None)
    )
}
