//! What a subscription does with what a peer sends it, over a real connection with a peer that does as it
//! likes.

use std::sync::Arc;
use std::time::Duration;

use net_mesh_proto::id::{ChannelId, NodeId};
use quinn::{Connection, ReadError, ReadExactError, RecvStream, SendStream};
use tokio::time::timeout;

use super::follow::MAX_HELD;
use super::handshake::{Push, REFUSED, Request, Taken, answer};
use super::log::{CursorId, MAX_CURSORS};
use super::segment::{Builder, Segment};
use super::{ChannelConfig, Hub, Membership, Subscription};
use crate::session::{stream, testing};

/// No members are known.
struct Nobody;

impl Membership for Nobody {
    fn subscribers(&self, _: ChannelId) -> Vec<NodeId> {
        Vec::new()
    }

    fn want(&self, _: NodeId) {}

    fn subscriptions_changed(&self) {}
}

fn hub() -> Arc<Hub> {
    Hub::new(ChannelConfig::default(), NodeId([1; 32]), 1, Arc::new(Nobody))
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("{what} never came"))
}

/// One event of `size` bytes.
fn segment(seq: u64, size: usize) -> Segment {
    let mut builder = Builder::default();
    builder.push(0, &vec![7; size]);
    builder.take(seq).unwrap()
}

/// Pushes to `hub`, whose end of the connection is `ours`: what arrives is dispatched as a link would.
async fn push(
    hub: &Arc<Hub>,
    pair: &testing::Pair,
    boot: u64,
    first: u64,
    subscription: Option<u64>,
) -> (SendStream, RecvStream) {
    let (mut send, recv) = pair.peer.open_bi().await.unwrap();
    let push = Push { channel: "news".into(), boot, first, subscription };
    send.write_all(&push.encode()).await.unwrap();
    let (ours, theirs) = within("the push", pair.link.connection.accept_bi()).await.unwrap();
    tokio::spawn(Arc::clone(hub).pushed(Arc::clone(&pair.link), ours, theirs));
    (send, recv)
}

async fn write(send: &mut SendStream, segment: Segment) -> bool {
    send.write_all_chunks(&mut [segment.header(), segment.body]).await.is_ok()
}

async fn is_refused(recv: &mut RecvStream) -> bool {
    let read = within("an answer to the push", Taken::read(recv)).await;
    matches!(read, Err(ReadExactError::ReadError(ReadError::Reset(code))) if code == REFUSED)
}

/// The next request that the subscription makes.
async fn request(peer: &Connection) -> (Request, SendStream, RecvStream) {
    let (send, mut recv) = within("a request", peer.accept_bi()).await.unwrap();
    let mut purpose = [0];
    recv.read_exact(&mut purpose).await.unwrap();
    assert_eq!(purpose, [stream::EVENTS]);
    (Request::read(&mut recv).await.unwrap().unwrap(), send, recv)
}

async fn next(events: &mut Subscription) -> (u64, u64) {
    let event = within("an event", events.next()).await.unwrap();
    (event.seq, event.missed)
}

#[tokio::test]
async fn a_push_is_taken_where_nothing_is_known_and_continued_by_a_request() {
    let (hub, pair) = (hub(), testing::pair(1).await);
    let mut events = hub.subscribe("news").unwrap();
    assert!(!pair.link.take_activity());
    let (mut send, mut recv) = push(&hub, &pair, 5, 3, None).await;
    assert!(write(&mut send, segment(3, 10)).await);
    let taken = Taken::read(&mut recv).await.unwrap().unwrap();
    assert_eq!(next(&mut events).await, (3, 0));
    assert!(pair.link.take_activity() && !pair.link.take_activity());
    // The session that comes up over the same connection changes nothing.
    hub.session_up(Arc::clone(&pair.link));
    assert!(write(&mut send, segment(4, 10)).await);
    assert_eq!(next(&mut events).await, (4, 0));
    send.reset(REFUSED).unwrap();
    let (request, mut send, _recv) = request(&pair.peer).await;
    let resume = request.resume.unwrap();
    assert_eq!((resume.0, resume.1.taken, resume.1.next), (5, 5, 5));
    assert_eq!(taken.subscriptions, [request.subscription]);
    assert!(request.attempt > taken.attempt);
    send.write_all(&answer(5, 5)).await.unwrap();
    assert!(write(&mut send, segment(5, 10)).await);
    assert_eq!(next(&mut events).await, (5, 0));
}

#[tokio::test]
async fn a_push_that_is_not_what_comes_next_is_refused_and_disturbs_nothing() {
    let (hub, pair) = (hub(), testing::pair(1).await);
    let (_send, mut recv) = push(&hub, &pair, 5, 3, None).await;
    assert!(is_refused(&mut recv).await, "nobody subscribes");

    let mut events = hub.subscribe("news").unwrap();
    let (_send, mut recv) = push(&hub, &pair, 5, 3, Some(99)).await;
    assert!(is_refused(&mut recv).await, "no such subscription");
    hub.session_up(Arc::clone(&pair.link));
    let (asked, mut send, _recv) = request(&pair.peer).await;
    send.write_all(&answer(5, 3)).await.unwrap();
    assert!(write(&mut send, segment(3, 10)).await);
    assert_eq!(next(&mut events).await, (3, 0));
    let (_other, mut recv) = push(&hub, &pair, 5, 4, None).await;
    assert!(is_refused(&mut recv).await, "another stream feeds it");
    send.reset(REFUSED).unwrap();
    // A second's pause, in which nothing feeds it.
    for (boot, first, subscription) in
        [(5, 3, None), (5, 5, None), (4, 1, None), (6, 1, Some(asked.subscription))]
    {
        let (mut send, mut recv) = push(&hub, &pair, boot, first, subscription).await;
        let _ = write(&mut send, segment(first, 10)).await;
        assert!(is_refused(&mut recv).await, "{boot} {first} {subscription:?}");
    }
    let (mut send, mut recv) = push(&hub, &pair, 5, 4, Some(asked.subscription)).await;
    assert!(write(&mut send, segment(4, 10)).await);
    assert!(Taken::read(&mut recv).await.unwrap().is_some());
    assert_eq!(next(&mut events).await, (4, 0));
}

#[tokio::test]
async fn a_publisher_that_has_restarted_is_told_of_with_what_was_missed_of_its_new_run() {
    let (hub, pair) = (hub(), testing::pair(1).await);
    let mut events = hub.subscribe("news").unwrap();
    let (mut send, mut recv) = push(&hub, &pair, 5, 3, None).await;
    assert!(write(&mut send, segment(3, 10)).await);
    Taken::read(&mut recv).await.unwrap().unwrap();
    let event = within("an event", events.next()).await.unwrap();
    assert_eq!((event.seq, event.missed, event.restarted), (3, 0, false), "what was before is nobody's loss");
    send.finish().unwrap();
    let second = testing::pair(2).await;
    hub.session_up(Arc::clone(&second.link));
    let (_, mut send, _recv) = request(&second.peer).await;
    send.write_all(&answer(6, 4)).await.unwrap();
    for (seq, missed, restarted) in [(4, 3, true), (5, 0, false)] {
        assert!(write(&mut send, segment(seq, 10)).await);
        let event = within("an event", events.next()).await.unwrap();
        assert_eq!((event.seq, event.missed, event.restarted), (seq, missed, restarted));
    }
}

#[tokio::test]
async fn a_push_that_crosses_a_request_is_taken_once_and_another_connection_takes_over() {
    let (hub, pair) = (hub(), testing::pair(1).await);
    let mut events = hub.subscribe("news").unwrap();
    hub.session_up(Arc::clone(&pair.link));
    let (asked, mut late, _recv) = request(&pair.peer).await;
    let (mut send, mut recv) = push(&hub, &pair, 5, 1, None).await;
    assert!(write(&mut send, segment(1, 10)).await);
    let taken = within("the answer", Taken::read(&mut recv)).await.unwrap().unwrap();
    assert!(taken.attempt > asked.attempt);
    // The request is answered all the same; nobody reads that.
    let _ = late.write_all(&answer(5, 1)).await;
    let _ = write(&mut late, segment(1, 10)).await;
    assert_eq!(next(&mut events).await, (1, 0));

    let second = testing::pair(2).await;
    hub.session_up(Arc::clone(&second.link));
    let (again, mut send_again, _recv) = request(&second.peer).await;
    assert_eq!(again.resume.map(|(boot, r)| (boot, r.next)), Some((5, 2)));
    assert!(again.attempt > taken.attempt);
    // The push goes on for a moment, and is heard no more.
    let _ = write(&mut send, segment(2, 10)).await;
    send_again.write_all(&answer(5, 2)).await.unwrap();
    assert!(write(&mut send_again, segment(2, 10)).await && write(&mut send_again, segment(3, 10)).await);
    assert_eq!((next(&mut events).await, next(&mut events).await), ((2, 0), (3, 0)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(events.try_next(), None);
}

#[tokio::test]
async fn opening_streams_anew_makes_an_unread_subscription_hold_no_more() {
    let (hub, pair) = (hub(), testing::pair(1).await);
    let mut events = hub.subscribe("news").unwrap();
    let subscriber = hub.subscribers_to("news").remove(0);
    let held = || subscriber.place(&pair.link.peer).map_or(0, |p| p.progress.held());
    let mut accepted = 0;
    // Each stream claims another run, and stays far below the credit of one.
    for boot in 1..=10 {
        let (mut send, mut recv) = push(&hub, &pair, boot, 1, None).await;
        let taken = within("an answer", Taken::read(&mut recv)).await;
        if !matches!(taken, Ok(Some(_))) {
            break;
        }
        for seq in 1..=12 {
            let before = held();
            if !write(&mut send, segment(seq, 100_000)).await {
                break;
            }
            let came = within("the segment, or the end", async {
                while held() == before && send.stopped_now().await.is_none() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                held() > before
            });
            accepted += u64::from(came.await);
            assert!(held() <= MAX_HELD, "{} bytes are held", held());
        }
        let _ = send.reset(REFUSED);
        // It asks, which crosses the next push.
        let _ = timeout(Duration::from_millis(200), request(&pair.peer)).await;
    }
    assert!((MAX_HELD / 110_000..=MAX_HELD / 100_000).contains(&accepted), "{accepted} segments were kept");
    for _ in 0..accepted {
        within("what was kept", events.next()).await.unwrap();
    }
    assert_eq!((events.try_next(), held()), (None, 0));
    let (asked, ..) = request(&pair.peer).await;
    assert!(asked.resume.is_some(), "once it is read, it asks for more");
}

/// Counts warnings.
struct Warnings(std::sync::atomic::AtomicUsize);

impl tracing::Subscriber for &'static Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_subscription_that_will_not_hear_its_own_node_says_so() {
    static WARNINGS: Warnings = Warnings(std::sync::atomic::AtomicUsize::new(0));
    let warnings = || WARNINGS.0.load(std::sync::atomic::Ordering::Relaxed);
    let _guard = tracing::subscriber::set_default(&WARNINGS);
    let hub = hub();
    let channel = hub.asked_channel("news", NodeId([2; 32])).unwrap();
    let _one = hub.subscribe("news").unwrap();
    assert_eq!(warnings(), 0);
    for n in 0..MAX_CURSORS {
        let id = CursorId::Local(u64::MAX - n as u64);
        channel.log().attach(tokio::time::Instant::now(), id, 0, None);
    }
    let _another = hub.subscribe("news").unwrap();
    assert_eq!(warnings(), 1);
}

/// Whether the other end stopped the stream already.
trait StoppedNow {
    async fn stopped_now(&mut self) -> Option<()>;
}

impl StoppedNow for SendStream {
    async fn stopped_now(&mut self) -> Option<()> {
        timeout(Duration::ZERO, self.stopped()).await.ok().map(drop)
    }
}
