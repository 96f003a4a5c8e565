//! What channels and sessions ask of a node.

use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use net_mesh_proto::drops::DropReason;
use net_mesh_proto::id::{ChannelId, NodeId};
use net_mesh_proto::node::Command;
use quinn::{RecvStream, SendStream};
use tokio::sync::mpsc;

use super::{Shared, lock};
use crate::channel::Hub;
use crate::session::{Link, Served, Services};
use crate::socket::DropCounters;

/// What channels need to know of the mesh. Holds no strong reference, since the mesh holds the channels.
#[derive(Default)]
pub(super) struct Members(pub(super) Mutex<Weak<Shared>>);

impl Members {
    fn shared(&self) -> Option<Arc<Shared>> {
        lock(&self.0).upgrade()
    }
}

impl crate::channel::Membership for Members {
    fn subscribers(&self, channel: ChannelId) -> Vec<NodeId> {
        let Some(shared) = self.shared() else { return Vec::new() };
        let node = shared.node();
        node.members().filter(|m| m.record.subscribes_to(channel)).map(|m| m.record.node).collect()
    }

    fn want(&self, peer: NodeId) {
        if let Some(shared) = self.shared() {
            shared.command(Command::Want { peer });
        }
    }

    fn subscriptions_changed(&self) {
        if let Some(shared) = self.shared() {
            shared.subscriptions.notify_one();
        }
    }
}

/// Where peers' streams and datagrams go.
pub(super) struct Inbound {
    pub(super) hub: Arc<Hub>,
    pub(super) members: Arc<Members>,
    pub(super) streams: mpsc::Sender<(Arc<Link>, SendStream, RecvStream)>,
    pub(super) datagrams: mpsc::Sender<(NodeId, Bytes)>,
    pub(super) drops: Arc<DropCounters>,
}

impl Services for Inbound {
    fn connected(&self, link: &Arc<Link>) {
        self.hub.connected(link);
    }

    fn events(&self, link: Arc<Link>, send: SendStream, recv: RecvStream) -> Served {
        Box::pin(Arc::clone(&self.hub).serve(link, send, recv))
    }

    fn push(&self, link: Arc<Link>, send: SendStream, recv: RecvStream) -> Served {
        Box::pin(Arc::clone(&self.hub).pushed(link, send, recv))
    }

    fn account(&self, peer: NodeId) -> Option<Vec<u8>> {
        let shared = self.members.shared()?;
        let answer = shared.node().answer(shared.now(), peer);
        answer.map(|answer| answer.encode())
    }

    fn stream(&self, link: Arc<Link>, send: SendStream, recv: RecvStream) {
        // Dropping both halves resets the stream, which is how the peer learns of a refusal.
        if self.streams.try_send((link, send, recv)).is_err() {
            self.drops.count(DropReason::QueueFull);
        }
    }

    fn datagram(&self, peer: NodeId, payload: Bytes) {
        if self.datagrams.try_send((peer, payload)).is_err() {
            self.drops.count(DropReason::QueueFull);
        }
    }
}
