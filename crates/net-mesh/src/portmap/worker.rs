//! The thread that talks to the router.
//!
//! A thread of its own: a router may send a megabyte of XML, and the node's packets do not wait until that is read.
//! It ends with the node.
//!
//! Deletions come first, since somebody may wait for the program to end. One that arrives cuts a request to map short.
//! Such a request may have been granted all the same, so it does not just end:
//! - if it is the deletion of the same mapping, that is what undoes it;
//! - if it is another one's, the request is made again afterwards, which is no harm where it was granted;
//! - if the node is leaving, what it asked for is deleted.

use std::collections::VecDeque;
use std::io;

use net_mesh_proto::portmap::{Answer, Failure, Request, RequestId};
use tokio::sync::mpsc;

use super::router::{Place, Router};
use crate::driver::Signal;

/// Errands on their way to the thread, and again so many with it. The node has one request to map under way, perhaps one
/// that it does not want any more, and a deletion for each mapping it gave up: one in ten seconds.
const WAITING: usize = 32;

/// Places that only deletions take. A request to map that finds none is made again, and a deletion is not.
const FOR_RELEASES: usize = 16;

/// The place for the word that the node is leaving.
const FOR_LEAVE: usize = 1;

#[derive(Debug)]
enum Errand {
    Ask(RequestId, Request),
    Leave,
}

/// Where requests are handed in.
#[derive(Debug)]
pub(super) struct Worker {
    errands: mpsc::Sender<Errand>,
}

impl Worker {
    /// Starts the thread, in the network namespace of this one; answers go to `signals`. `secret` is for [`Router::new`].
    pub(super) fn start(
        place: Place,
        secret: [u8; 32],
        signals: mpsc::WeakSender<Signal>,
    ) -> io::Result<Self> {
        let (sender, errands) = mpsc::channel(WAITING);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work =
            Work { router: Router::new(place, secret), errands, waiting: VecDeque::new(), leaving: false };
        std::thread::Builder::new()
            .name("port-mapping".into())
            .spawn(move || runtime.block_on(work.run(signals)))?;
        Ok(Self { errands: sender })
    }

    /// Hands in a request; at once an answer if that cannot be.
    pub(super) fn ask(&self, id: RequestId, request: Request) -> Option<Answer> {
        let kept = match request {
            Request::Map { .. } => FOR_RELEASES + FOR_LEAVE,
            Request::Release { .. } => FOR_LEAVE,
        };
        let room = self.errands.capacity() > kept;
        let handed_in = room && self.errands.try_send(Errand::Ask(id, request)).is_ok();
        (!handed_in).then(|| failed("the thread that asks the router is busy or gone"))
    }

    /// The node is leaving: nothing is mapped any more, and what may have been just now is deleted.
    pub(super) fn leave(&self) {
        // There is room, unless it has been said before or the thread is gone.
        let _ = self.errands.try_send(Errand::Leave);
    }
}

fn failed(detail: &str) -> Answer {
    Answer::Failed { failure: Failure::Local, detail: detail.to_owned() }
}

/// A request that waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    id: RequestId,
    request: Request,
    /// It was cut short, and may have been granted.
    begun: bool,
}

impl Waiting {
    const fn is_release(&self) -> bool {
        matches!(self.request, Request::Release { .. })
    }
}

/// Whether `request` asks to map just what `release` deletes.
fn maps_the_same(request: &Request, release: &Request) -> bool {
    match (request, release) {
        (
            Request::Map { protocol, internal, external, .. },
            Request::Release { protocol: p, internal: i, external: e, .. },
        ) => (protocol, internal, external) == (p, i, e),
        _ => false,
    }
}

/// What the thread has.
struct Work {
    router: Router,
    errands: mpsc::Receiver<Errand>,
    waiting: VecDeque<Waiting>,
    leaving: bool,
}

impl Work {
    async fn run(mut self, signals: mpsc::WeakSender<Signal>) {
        while let Some((Waiting { id, request, begun }, withdrawn)) = self.next().await {
            let answer = match request {
                Request::Release { .. } => Some(self.router.carry_out(request).await),
                Request::Map { .. } if self.leaving => {
                    if begun {
                        self.router.undo(&request).await;
                    }
                    Some(failed("given up, since the node is leaving"))
                }
                Request::Map { .. } => self.map(id, request).await,
            };
            let withdrawn = withdrawn.into_iter().map(|id| (id, failed("given up, since it is deleted")));
            for (id, answer) in answer.map(|answer| (id, answer)).into_iter().chain(withdrawn) {
                // A node that is gone does not hear it, and what waits is done all the same.
                if let Some(signals) = signals.upgrade() {
                    let _ = signals.send(Signal::PortMapped { id, answer }).await;
                }
            }
        }
    }

    /// The next request, deletions first, and those that a deletion makes pointless. `None` once the node is gone.
    async fn next(&mut self) -> Option<(Waiting, Vec<RequestId>)> {
        loop {
            while self.waiting.len() < WAITING
                && let Ok(errand) = self.errands.try_recv()
            {
                match errand {
                    Errand::Ask(id, request) => self.waiting.push_back(Waiting { id, request, begun: false }),
                    Errand::Leave => self.leaving = true,
                }
            }
            let first = self.waiting.iter().position(Waiting::is_release).unwrap_or(0);
            if let Some(next) = self.waiting.remove(first) {
                return Some((next, self.withdraw(first, &next.request)));
            }
            match self.errands.recv().await? {
                Errand::Ask(id, request) => self.waiting.push_back(Waiting { id, request, begun: false }),
                Errand::Leave => self.leaving = true,
            }
        }
    }

    /// Takes away what was asked before, as one of the first `before`, and is now deleted by `release`.
    fn withdraw(&mut self, before: usize, release: &Request) -> Vec<RequestId> {
        let mut withdrawn = Vec::new();
        for place in (0..before).rev() {
            if self.waiting.get(place).is_some_and(|waiting| maps_the_same(&waiting.request, release)) {
                withdrawn.extend(self.waiting.remove(place).map(|waiting| waiting.id));
            }
        }
        withdrawn
    }

    /// Asks for a mapping; `None` if that is cut short, and waits again.
    async fn map(&mut self, id: RequestId, request: Request) -> Option<Answer> {
        let Self { router, errands, waiting, leaving } = self;
        let mut asking = std::pin::pin!(router.carry_out(request));
        loop {
            tokio::select! {
                biased;
                answer = &mut asking => return Some(answer),
                errand = errands.recv(), if waiting.len() < WAITING => match errand {
                    Some(Errand::Ask(id, request)) => {
                        let asked = Waiting { id, request, begun: false };
                        waiting.push_back(asked);
                        if asked.is_release() {
                            break;
                        }
                    }
                    Some(Errand::Leave) | None => {
                        *leaving = true;
                        break;
                    }
                },
            }
        }
        tracing::debug!(?request, "cut short");
        waiting.push_front(Waiting { id, request, begun: true });
        None
    }
}
