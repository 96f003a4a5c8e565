//! What the end-to-end tests share.

pub(crate) mod browser;
pub(crate) mod capture;
pub(crate) mod faults;
#[cfg(feature = "port-mapping")]
pub(crate) mod gateway;
pub(crate) mod line;
pub(crate) mod made_up;
pub(crate) mod mesh;
pub(crate) mod net;
pub(crate) mod node;
pub(crate) mod pair;
pub(crate) mod process;
pub(crate) mod reach;
pub(crate) mod scrape;
pub(crate) mod stream;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Asks `question` until it has an answer; panics with `what` at the deadline.
pub(crate) fn wait_until<T>(what: &str, limit: Duration, mut question: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = question() {
            return answer;
        }
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Held by tests that need the machine for themselves, because they measure or build networks.
///
/// nextest runs them one at a time by its configuration; this does the same under `cargo test`.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
