//! The thread that talks to the router.
//!
//! A thread of its own: a router may send a megabyte of XML, and the node's packets do not wait until that is read.
//! It ends with the node.

use std::io;

use net_mesh_proto::portmap::{Answer, Failure, Request, RequestId};
use tokio::sync::mpsc;

use super::router::{Place, Router};
use crate::driver::Signal;

/// Requests waiting: the node has one at a time under way, and deletions.
const WAITING: usize = 16;

/// Where requests are handed in.
#[derive(Debug)]
pub(super) struct Worker {
    requests: mpsc::Sender<(RequestId, Request)>,
}

impl Worker {
    /// Starts the thread, in the network namespace of this one; answers go to `signals`.
    pub(super) fn start(random: [u8; 32], signals: mpsc::WeakSender<Signal>) -> io::Result<Self> {
        let word = |i: usize| u32::from_ne_bytes([random[i], random[i + 1], random[i + 2], random[i + 3]]);
        let nonce = [word(0), word(4), word(8)];
        let (requests, received) = mpsc::channel(WAITING);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("port-mapping".into())
            .spawn(move || runtime.block_on(work(Router::new(Place::default(), nonce), received, signals)))?;
        Ok(Self { requests })
    }

    /// Hands in a request; at once an answer if that cannot be.
    pub(super) fn ask(&self, id: RequestId, request: Request) -> Option<Answer> {
        let detail = "the thread that asks the router is busy or gone".to_owned();
        self.requests
            .try_send((id, request))
            .err()
            .map(|_| Answer::Failed { failure: Failure::Local, detail })
    }
}

async fn work(
    mut router: Router,
    mut requests: mpsc::Receiver<(RequestId, Request)>,
    signals: mpsc::WeakSender<Signal>,
) {
    while let Some((id, request)) = requests.recv().await {
        let answer = router.carry_out(request).await;
        let Some(signals) = signals.upgrade() else { return };
        if signals.send(Signal::PortMapped { id, answer }).await.is_err() {
            return;
        }
    }
}
