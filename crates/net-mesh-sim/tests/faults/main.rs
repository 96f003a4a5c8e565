//! Meshes of twenty nodes on which faults rain while they talk: whatever breaks, each message arrives once and in
//! order, and when all is well again every pair is as direct as it can be.
//!
//! A few dozen seeds by default; `NET_MESH_FAULT_SEEDS` says how many, `NET_MESH_FAULT_FIRST` from which on. A seed that
//! fails prints its schedule.
#![allow(clippy::unwrap_used, reason = "a test file")]

#[path = "../common/mod.rs"]
mod common;
mod schedule;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{ALL_MEANS, member, secs};
use net_mesh_proto::rng::Rng;
use net_mesh_sim::world::Spec;
use net_mesh_sim::{Chain, Link, NodeIx, PathKind, World};
use schedule::{FAULTS_LAST, Schedule};

/// Seeds unless told otherwise.
const SEEDS: u64 = 32;

const PUBLIC: u32 = 4;
const NODES: u32 = 20;
const PAIRS: usize = 10;

/// Between two messages of a pair, each way.
const PACE: Duration = Duration::from_millis(250);

/// After the last fault has healed all that was said must arrive within this: a node that restarted or was cut off for long is
/// dialled again after at most half a minute.
const DELIVERED_WITHIN: Duration = secs(60);

/// And every pair must be as direct as it can be within this. A way that failed is probed every 500 ms; what takes longest
/// is a NAT that became another one, whose node has to classify it anew, and then the rest between two attempts.
const DIRECT_WITHIN: Duration = secs(120);

/// How a seed ended.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    delivered: Duration,
    direct: Duration,
}

struct Mesh {
    world: World,
    pairs: Vec<(NodeIx, NodeIx)>,
}

impl Mesh {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::from_u64(seed).fork("mesh");
        let mut world = World::seeded(seed);
        for ix in 0..NODES {
            let chain = if ix < PUBLIC { Chain::default() } else { schedule::some_nat(&mut rng).into() };
            let spec = member(&world, chain, &Link::default());
            // Of those it starts from one may be down when it restarts.
            let join = (0..ix.min(PUBLIC)).filter_map(|public| world.address(NodeIx(public))).collect();
            world.add_with(Spec { join, ..spec });
            world.run_for(Duration::from_millis(200));
        }
        world.run_for(secs(25));
        let mut pairs = Vec::new();
        while pairs.len() < PAIRS {
            let [a, b] = [(), ()].map(|()| NodeIx(u32::try_from(rng.below(u64::from(NODES))).unwrap()));
            if a < b && !pairs.contains(&(a, b)) {
                pairs.push((a, b));
            }
        }
        pairs.iter().for_each(|(a, b)| world.talk(*a, *b, PACE));
        world.run_for(secs(20));
        Self { world, pairs }
    }

    /// Pairs that are not as direct as they can be.
    fn amiss(&self) -> Vec<(NodeIx, NodeIx)> {
        let well = |(a, b): &&(NodeIx, NodeIx)| {
            let wanted = PathKind::from(self.world.outlook(*a, *b, ALL_MEANS).reach);
            let path = self.world.path(*a, *b);
            path == wanted || path == PathKind::Direct
        };
        self.pairs.iter().filter(|pair| !well(pair)).copied().collect()
    }

    fn undelivered(&self) -> Vec<String> {
        let both = self.pairs.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]);
        let late = both.filter_map(|(from, to)| {
            let flow = self.world.flow(from, to)?;
            (!flow.is_complete())
                .then(|| format!("{from:?} to {to:?}: {} of {}", flow.delivered, flow.published))
        });
        late.collect()
    }
}

fn run(seed: u64) -> Result<Outcome, String> {
    let mut mesh = Mesh::new(seed);
    let schedule = Schedule::draw(seed, &mesh.world, &mesh.pairs);
    let guard = schedule::PrintOnPanic(seed, schedule.to_string());
    let begun = mesh.world.now();
    schedule.carry_out(&mut mesh.world);
    assert!(mesh.world.now() <= begun + FAULTS_LAST);
    let healed = mesh.world.now();

    let fail = |mesh: &Mesh, what: String| {
        let (world, amiss) = (&mesh.world, mesh.amiss());
        let ways: Vec<String> = amiss
            .iter()
            .map(|(a, b)| {
                format!(
                    "{a:?} {b:?}: {:?} {:?} {:?} verdicts {:?} {:?} natures {:?} {:?}",
                    world.path(*a, *b),
                    world.route(*a, *b),
                    world.outlook(*a, *b, ALL_MEANS),
                    world.verdict(*a).0.class(),
                    world.verdict(*b).0.class(),
                    world.actual(*a).class,
                    world.actual(*b).class,
                )
            })
            .collect();
        format!(
            "seed {seed}: {what}\n{schedule}healed at {} ms\nways:\n{}",
            healed.as_millis(),
            ways.join("\n")
        )
    };
    // What was said while things were amiss arrives, though more is said all the time.
    let said: Vec<_> = {
        let both = mesh.pairs.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]);
        both.map(|(from, to)| (from, to, mesh.world.flow(from, to).unwrap().published)).collect()
    };
    let arrived =
        |world: &World| said.iter().all(|(a, b, count)| world.flow(*a, *b).unwrap().delivered >= *count);
    let mut outcome = Outcome::default();
    if !mesh.world.run_until(DELIVERED_WITHIN, arrived) {
        return Err(fail(&mesh, format!("not delivered: {:?}", mesh.undelivered())));
    }
    outcome.delivered = mesh.world.now() - healed;
    while !mesh.amiss().is_empty() {
        if mesh.world.now() - healed > DIRECT_WITHIN {
            return Err(fail(&mesh, "not direct".into()));
        }
        mesh.world.run_for(Duration::from_millis(100));
    }
    outcome.direct = mesh.world.now() - healed;
    let pairs = mesh.pairs.clone();
    pairs.iter().for_each(|(a, b)| mesh.world.hush(*a, *b));
    if !mesh.world.run_until(secs(30), World::all_delivered) {
        return Err(fail(&mesh, format!("the last messages: {:?}", mesh.undelivered())));
    }
    drop(guard);
    Ok(outcome)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[test]
fn whatever_breaks_messages_arrive_once_in_order_and_pairs_are_direct_again() {
    let (first, count) = (number("NET_MESH_FAULT_FIRST", 0), number("NET_MESH_FAULT_SEEDS", SEEDS));
    let next = AtomicU64::new(first);
    let work = || {
        let mut results = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return results;
            }
            let run = std::panic::catch_unwind(|| run(seed));
            let run = run.unwrap_or_else(|_| Err(format!("seed {seed} panicked: see above")));
            // Runs of thousands are watched while they last.
            run.as_ref().err().into_iter().for_each(|story| eprintln!("{story}"));
            results.push(run);
        }
    };
    let results: Vec<Result<Outcome, String>> = std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let (well, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    let mut well: Vec<Outcome> = well.into_iter().flatten().collect();
    let mut at = |key: fn(&Outcome) -> Duration, part: usize| {
        well.sort_by_key(key);
        well.get((well.len() * part / 100).min(well.len().saturating_sub(1))).map(|o| key(o).as_millis())
    };
    println!(
        "{count} seeds from {first}, {} failed; after the last fault healed, in ms: all delivered p50 {:?} p99 {:?} most {:?}; \
         all direct p50 {:?} p99 {:?} most {:?}",
        failed.len(),
        at(|o| o.delivered, 50),
        at(|o| o.delivered, 99),
        at(|o| o.delivered, 100),
        at(|o| o.direct, 50),
        at(|o| o.direct, 99),
        at(|o| o.direct, 100),
    );
    let failed: Vec<String> = failed.into_iter().filter_map(Result::err).collect();
    let shown = &failed[..failed.len().min(5)];
    assert!(failed.is_empty(), "{} of {count} seeds failed:\n{}", failed.len(), shown.join("\n\n"));
}
