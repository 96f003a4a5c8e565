//! Hands requests to the thread that talks to the router, which it starts with the first.

use net_mesh_proto::portmap::{Answer, Failure, Request, RequestId};
use tokio::sync::mpsc;

#[cfg(feature = "port-mapping")]
use super::worker::Worker;
use crate::driver::Signal;

/// Where the driver's requests go.
#[derive(Debug)]
pub(crate) struct Asker {
    /// The node lives on the machine's own network; the router of another one is not the machine's.
    real: bool,
    #[cfg(feature = "port-mapping")]
    worker: Option<Worker>,
}

impl Asker {
    /// One that has not been asked yet.
    pub(crate) fn new(real: bool) -> Self {
        Self {
            real,
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
            None => {
                match crate::identity::random_32().and_then(|random| Worker::start(random, signals.clone())) {
                    Ok(worker) => worker,
                    Err(error) => return failed(error),
                }
            }
        };
        self.worker.insert(worker).ask(id, request)
    }

    #[cfg(not(feature = "port-mapping"))]
    #[allow(clippy::unused_self, reason = "the same form as with the feature")]
    fn hand_in(&mut self, _: &mpsc::WeakSender<Signal>, _: RequestId, _: Request) -> Option<Answer> {
        let detail = "the program was built without port mapping".to_owned();
        Some(Answer::Failed { failure: Failure::Local, detail })
    }
}
