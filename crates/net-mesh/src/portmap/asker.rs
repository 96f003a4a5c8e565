//! Hands requests to the thread that talks to the router, which it starts with the first.

use std::time::Duration;

use net_mesh_proto::portmap::{Answer, Failure, Request, RequestId};
use tokio::sync::mpsc;

#[cfg(feature = "port-mapping")]
use super::{router::Place, worker::Worker};
use crate::driver::Signal;

/// How long a deletion may take: somebody waits for the program to end. Routers answer in milliseconds; with PCP and NAT-PMP
/// it is time for three packets, with UPnP for a request to a device that is known and for a search where it is not.
pub(crate) const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// Where the driver's requests go.
pub(crate) struct Asker {
    /// The node lives on the machine's own network; the router of another one is not the machine's.
    real: bool,
    /// What nonces are made of.
    #[cfg_attr(not(feature = "port-mapping"), allow(dead_code, reason = "nobody asks without it"))]
    secret: [u8; 32],
    #[cfg(feature = "port-mapping")]
    worker: Option<Worker>,
}

impl Asker {
    /// One that has not been asked yet. `secret` is known to this node alone, and the same at every start.
    pub(crate) const fn new(real: bool, secret: [u8; 32]) -> Self {
        Self {
            real,
            secret,
            #[cfg(feature = "port-mapping")]
            worker: None,
        }
    }

    /// Hands in a request; the answer comes as a signal, or at once where nobody can be asked.
    pub(crate) fn ask(
        &mut self,
        signals: &mpsc::WeakSender<Signal>,
        id: RequestId,
        request: Request,
    ) -> Option<Answer> {
        if !self.real {
            let detail = "this network is not the machine's".to_owned();
            return Some(Answer::Failed { failure: Failure::NoRouter, detail });
        }
        self.hand_in(signals, id, request)
    }

    #[cfg(feature = "port-mapping")]
    fn hand_in(
        &mut self,
        signals: &mpsc::WeakSender<Signal>,
        id: RequestId,
        request: Request,
    ) -> Option<Answer> {
        let failed = |error: std::io::Error| {
            Some(Answer::Failed { failure: Failure::Local, detail: error.to_string() })
        };
        let worker = match self.worker.take() {
            Some(worker) => worker,
            None => match Worker::start(Place::default(), self.secret, signals.clone()) {
                Ok(worker) => worker,
                Err(error) => return failed(error),
            },
        };
        self.worker.insert(worker).ask(id, request)
    }

    /// The node is leaving: what is being asked for is given up, after all deletions handed in before.
    pub(crate) fn leave(&self) {
        #[cfg(feature = "port-mapping")]
        if let Some(worker) = &self.worker {
            worker.leave();
        }
    }

    #[cfg(not(feature = "port-mapping"))]
    #[allow(clippy::unused_self, reason = "the same form as with the feature")]
    fn hand_in(&mut self, _: &mpsc::WeakSender<Signal>, _: RequestId, _: Request) -> Option<Answer> {
        let detail = "the program was built without port mapping".to_owned();
        Some(Answer::Failed { failure: Failure::Local, detail })
    }
}
