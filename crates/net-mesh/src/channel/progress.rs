//! How far the application has got with what a publisher sent, and how much it has yet to take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

/// Acknowledgements are sent about this often while the application reads.
const ACK_EVERY: Duration = Duration::from_millis(20);

/// ... or within this, once it has not read for a while: a tenth of a publisher's stall time
/// unless it is set otherwise,
const ACK_WITHIN: Duration = Duration::from_millis(500);

/// ... and as soon as it has taken this many bytes.
const ACK_AFTER: u64 = 256 << 10;

/// What a subscription holds of one publisher: segments that the application has not taken whole, over all
/// streams and runs of the publisher.
#[derive(Debug, Default)]
struct Held {
    bytes: AtomicU64,
    /// Nothing is held any more.
    emptied: Notify,
}

/// How far the application has got with one run of a publisher.
#[derive(Debug)]
pub(super) struct Progress {
    /// The first event not taken.
    taken: AtomicU64,
    /// The bytes of the segments taken whole.
    bytes: AtomicU64,
    held: Arc<Held>,
    /// Something was queued, or much was taken.
    news: Notify,
}

impl Progress {
    /// Of a run that starts with event `next`, of a publisher whose earlier run had progress `earlier`.
    pub(super) fn from(next: u64, earlier: Option<&Self>) -> Arc<Self> {
        let held = earlier.map(|e| Arc::clone(&e.held)).unwrap_or_default();
        let (taken, bytes) = (AtomicU64::new(next), AtomicU64::new(0));
        Arc::new(Self { taken, bytes, held, news: Notify::new() })
    }

    /// The first event not taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// What is held of the publisher, in bytes of cost.
    pub(super) fn held(&self) -> u64 {
        self.held.bytes.load(Ordering::Relaxed)
    }

    /// A segment of this cost will be queued.
    pub(super) fn hold(&self, cost: u64) {
        self.held.bytes.fetch_add(cost, Ordering::Relaxed);
    }

    /// A segment was queued.
    pub(super) fn queued(&self) {
        self.news.notify_one();
    }

    /// The application took an event.
    pub(super) fn took(&self, seq: u64) {
        self.taken.store(seq + 1, Ordering::Relaxed);
    }

    /// The application took the last event of a segment of this cost.
    pub(super) fn took_segment(&self, cost: u64) {
        let before = self.bytes.fetch_add(cost, Ordering::Relaxed);
        if before / ACK_AFTER != (before + cost) / ACK_AFTER {
            self.news.notify_one();
        }
        if self.held.bytes.fetch_sub(cost, Ordering::Relaxed) == cost {
            self.held.emptied.notify_one();
        }
    }

    /// Waits until nothing is held.
    pub(super) async fn emptied(&self) {
        while self.held() > 0 {
            self.held.emptied.notified().await;
        }
    }

    /// Waits until there is something to acknowledge that `said` does not cover, and a little longer unless
    /// it is much.
    pub(super) async fn beyond(&self, said: u64) -> u64 {
        let mut pause = ACK_EVERY;
        loop {
            // While something is queued the application may take it at any time, and does not tell.
            let idle = self.held() == 0 && self.taken() == said;
            if idle {
                self.news.notified().await;
            }
            let _ = timeout(pause, self.news.notified()).await;
            let taken = self.taken();
            if taken != said {
                return taken;
            }
            // An application that does not read is asked less and less often.
            pause = (2 * pause).min(ACK_WITHIN);
        }
    }
}
