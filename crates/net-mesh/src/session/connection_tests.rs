//! When a connection counts as used.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use tokio::sync::mpsc;

use super::{Link, Served, Services, stream, testing};

/// Passes on that something came.
struct Tell(mpsc::UnboundedSender<&'static str>);

impl Services for Tell {
    fn connected(&self, _: &Arc<Link>) {
        let _ = self.0.send("connected");
    }

    fn events(&self, _: Arc<Link>, _: SendStream, _: RecvStream) -> Served {
        Box::pin(async {})
    }

    fn push(&self, _: Arc<Link>, _: SendStream, _: RecvStream) -> Served {
        Box::pin(async {})
    }

    fn account(&self, _: net_mesh_proto::id::NodeId) -> Option<Vec<u8>> {
        None
    }

    fn stream(&self, _: Arc<Link>, _: SendStream, _: RecvStream) {
        let _ = self.0.send("stream");
    }

    fn datagram(&self, _: net_mesh_proto::id::NodeId, _: Bytes) {
        let _ = self.0.send("datagram");
    }
}

async fn next(told: &mut mpsc::UnboundedReceiver<&'static str>) -> &'static str {
    tokio::time::timeout(Duration::from_secs(20), told.recv()).await.expect("nothing came").unwrap()
}

#[tokio::test]
async fn a_link_is_used_by_what_the_application_does_and_by_nothing_else() {
    let pair = testing::pair(1).await;
    let (link, peer) = (&pair.link, &pair.peer);
    let (tell, mut told) = mpsc::unbounded_channel();
    let (signals, mut controls) = mpsc::channel(8);
    link.run(signals, Arc::new(Tell(tell)));
    assert_eq!(next(&mut told).await, "connected");

    // A control message, both ways.
    link.send_control(vec![1]);
    let mut control = peer.open_uni().await.unwrap();
    control.write_all(&[stream::CONTROL, 0, 0, 0, 1, 9]).await.unwrap();
    assert!(controls.recv().await.is_some());
    assert!(!link.take_activity(), "the mesh talks to itself");

    peer.send_datagram(Bytes::from_static(&[1, 7])).unwrap();
    assert_eq!(next(&mut told).await, "datagram");
    assert!(link.take_activity() && !link.take_activity());
    link.send_datagram(b"x").unwrap();
    assert!(link.take_activity() && !link.take_activity());

    let (mut send, mut recv) = peer.open_bi().await.unwrap();
    send.write_all(&[stream::PING, 5]).await.unwrap();
    send.finish().unwrap();
    assert_eq!(recv.read_to_end(9).await.unwrap(), [5]);
    assert!(link.take_activity() && !link.take_activity());

    // What a node does not tell, and what it has never heard of, ends without a word.
    for purpose in [stream::ACCOUNT, 0x7f] {
        let (mut send, mut recv) = peer.open_bi().await.unwrap();
        send.write_all(&[purpose]).await.unwrap();
        assert_eq!(recv.read_to_end(9).await.unwrap(), [0; 0]);
        assert!(!link.take_activity());
    }

    // A stream that the application has not accepted is the peer's doing alone.
    let (mut send, _recv) = peer.open_bi().await.unwrap();
    send.write_all(&[stream::APPLICATION]).await.unwrap();
    assert_eq!(next(&mut told).await, "stream");
    assert!(!link.take_activity());
    link.pin();
    assert!(link.is_pinned() && !link.take_activity(), "what passes on it cannot be seen");
}
