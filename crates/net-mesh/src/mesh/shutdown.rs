//! How does a node end, and how long may that take?
//!
//! Subscribers take what was published, peers and the router are told, sessions close: one after the other, each within a
//! time of its own. [`SHUTDOWN_LIMIT`] is their sum.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Mesh, Shared, lock};
use crate::driver::Signal;
use crate::portmap;
use crate::session::CLOSE_WAIT;

/// How long shutting down waits for subscribers to take what was published.
const DRAIN_WAIT: Duration = Duration::from_secs(2);

/// How long it waits for the driver to take leave of the peers and to ask the router; that one has a queue to read first.
const LEAVE_WAIT: Duration = Duration::from_secs(2);

/// How long it waits for the router to delete what it has mapped: the longest such request. What is under way with the
/// router does not come before it; the margin is for the threads and queues between.
const RELEASE_WAIT: Duration = portmap::RELEASE_LIMIT.saturating_add(Duration::from_millis(500));

/// How long it waits for the goodbye to leave before sessions are closed: a round trip, and no longer than this.
const GOODBYE_WAIT: Duration = Duration::from_millis(300);

/// How long [`Mesh::shutdown`] takes at most, all its parts together. It takes a fraction of it where subscribers keep
/// up, and the router, if it was asked for a port, answers.
pub const SHUTDOWN_LIMIT: Duration = DRAIN_WAIT
    .saturating_add(LEAVE_WAIT)
    .saturating_add(RELEASE_WAIT)
    .saturating_add(GOODBYE_WAIT)
    .saturating_add(CLOSE_WAIT);

/// Says what stays open on the router when the end of a node is over, or is not waited for any longer.
struct Farewell<'a>(&'a Shared);

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        self.0.say_what_stays();
    }
}

impl Mesh {
    /// Stops the node: gives subscribers up to two seconds to take what was published, tells the mesh
    /// that it leaves, gives the router its port back, and closes every session. Other clones of this handle are of no use
    /// afterwards.
    ///
    /// Takes [`SHUTDOWN_LIMIT`] at most. A port that stays open on the router is logged as a warning, also if this is not
    /// waited for to its end.
    pub async fn shutdown(self) {
        let shared = self.shared();
        let _farewell = Farewell(shared);
        let _ = timeout(DRAIN_WAIT, shared.hub.drain()).await;
        // A driver that is gone answers at once, by dropping its end.
        let leave = async {
            let (done, left) = oneshot::channel();
            shared.signals.send(Signal::Leave(done)).await.ok()?;
            left.await.ok()
        };
        if !matches!(timeout(LEAVE_WAIT, leave).await, Ok(None)) {
            let _ = timeout(RELEASE_WAIT, self.port_released()).await;
            // The goodbye is in the streams' buffers; a round trip lets it leave before they close.
            let slowest = lock(&shared.links).values().map(|l| l.connection.rtt()).max();
            tokio::time::sleep(slowest.unwrap_or_default().min(GOODBYE_WAIT)).await;
        }
        shared.hub.close();
        shared.down.send_replace(true);
        self.inner.sessions.shutdown().await;
        shared.stop.notify_one();
    }

    /// Waits until the router has answered whether it deleted what it had mapped.
    async fn port_released(&self) {
        let shared = self.shared();
        let mut changes = shared.changes.subscribe();
        while shared.node().is_releasing_port() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}
