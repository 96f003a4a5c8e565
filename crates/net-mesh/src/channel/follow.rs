//! The subscriber's end of a stream, whoever opened it.
//!
//! For each subscription and publisher there is one *follower*: a task that reads one stream at a time, and
//! that owns the subscription's turn with that publisher while it does. Everything that could deliver an
//! event twice or out of order would have to be two followers at once.
//!
//! 1. A session comes up: a follower is started that asks the publisher on it, in place of any earlier one.
//!    If the earlier one already follows that connection, it goes on.
//! 2. A push arrives: it is taken if nobody follows the publisher, or someone does on this same connection
//!    whom no stream feeds (it has asked, and the two crossed; or it waits to ask again), and if the push continues the subscription: it
//!    starts at exactly its place in the publisher's run, or it is for any subscription, and this one
//!    has no place there. Otherwise it is refused, and rule 1 serves.
//! 3. A stream ends: the follower asks again, on the same connection, as long as that lives.
//!
//! The publisher may hear of these decisions in another order, since they travel on different streams; each
//! carries the subscription's attempt number, and the highest counts.
//!
//! What is held of one publisher, over all its streams, connections and runs, is bounded by
//! [`MAX_HELD`]. A publisher that counts properly does not exceed it, except when it has restarted or has
//! forgotten the subscription; then, and when it cheats, its stream is broken off until the application
//! has taken everything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use net_mesh_proto::id::NodeId;
use net_mesh_proto::node::ConnId;
use quinn::{RecvStream, SendStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::handshake::{ANSWER, GOODBYE, Push, REFUSED, Request, Taken, parse_answer};
use super::hub::{Hub, lock};
use super::log::{CREDIT, Resume};
use super::progress::Progress;
use super::segment::{HEADER, Header, MAX_COST};
use super::serve::REQUEST_WAIT;
use super::subscribe::Subscriber;
use crate::session::{Link, stream};

/// What a subscription holds of one publisher at most, in bytes of cost: the credit, and the segment that
/// exceeds it.
pub(super) const MAX_HELD: u64 = CREDIT + MAX_COST as u64;

/// First pause before a publisher that ended a stream is asked again; doubles up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(1);

const RETRY_MAX: Duration = Duration::from_secs(60);

/// How long the end of a subscription waits for its goodbye to be sent.
const GOODBYE_WAIT: Duration = Duration::from_secs(2);

/// Held by the task that follows a publisher.
type Turn = Arc<tokio::sync::Mutex<()>>;

/// The task that follows a publisher.
#[derive(Debug)]
pub(super) struct Follower {
    turn: Turn,
    task: JoinHandle<()>,
    /// Over which connection.
    conn: ConnId,
    /// Whether a stream feeds it, rather than that it has asked for one.
    fed: Arc<AtomicBool>,
}

/// The followers of a subscription. One per member with a connection, since those that have ended go when
/// the next one comes.
pub(super) type Followers = BTreeMap<NodeId, Follower>;

/// A push that has arrived.
pub(super) struct Offer {
    push: Push,
    link: Arc<Link>,
    send: SendStream,
    recv: RecvStream,
    /// The subscriptions to its channel, by age.
    subscriptions: Vec<u64>,
}

impl Offer {
    fn refuse(mut self) {
        tracing::debug!(peer = %self.link.peer.short(), channel = self.push.channel, "push refused");
        let _ = self.send.reset(REFUSED);
        let _ = self.recv.stop(REFUSED);
    }
}

/// Why a stream no longer brings anything.
#[derive(Debug)]
enum Interruption {
    /// It broke, or the publisher ended it.
    Ended(String),
    /// It brought more than may be held.
    TooMuch,
}

fn ended(reason: impl ToString) -> Interruption {
    Interruption::Ended(reason.to_string())
}

impl Hub {
    /// A peer sends events before it was asked to.
    pub(crate) async fn pushed(self: Arc<Self>, link: Arc<Link>, send: SendStream, mut recv: RecvStream) {
        let Ok(Ok(Some(push))) = timeout(REQUEST_WAIT, Push::read(&mut recv)).await else {
            tracing::debug!(peer = %link.peer.short(), "not a push");
            return;
        };
        let subscribers = self.subscribers_to(&push.channel);
        let subscriptions = subscribers.iter().map(|s| s.id).collect();
        let mut offer = Offer { push, link, send, recv, subscriptions };
        for subscriber in &subscribers {
            match subscriber.take(offer) {
                Ok(()) => return,
                Err(declined) => offer = *declined,
            }
        }
        offer.refuse();
    }
}

impl Subscriber {
    /// Follows the link's peer over it, in place of any earlier connection.
    pub(super) fn follow(self: &Arc<Self>, link: &Arc<Link>) {
        let mut followers = lock(&self.followers);
        let already = |f: &Follower| f.conn == link.id && !f.task.is_finished();
        if !followers.get(&link.peer).is_some_and(already) {
            self.start(&mut followers, Arc::clone(link), None);
        }
    }

    /// Takes a push, unless it is another stream's or nobody's turn.
    fn take(self: &Arc<Self>, offer: Offer) -> Result<(), Box<Offer>> {
        let peer = offer.link.peer;
        let mut followers = lock(&self.followers);
        let follower = followers.get(&peer).filter(|f| !f.task.is_finished());
        let busy = follower.is_some_and(|f| f.conn != offer.link.id || f.fed.load(Ordering::Relaxed));
        if busy || self.is_closed() || !self.continues(peer, &offer.push) {
            return Err(Box::new(offer));
        }
        self.start(&mut followers, Arc::clone(&offer.link), Some(offer));
        Ok(())
    }

    /// Whether a push brings exactly what comes next. A run that began before the one that is known does not
    /// follow it; where clocks say so wrongly, the publisher is asked instead.
    fn continues(&self, peer: NodeId, push: &Push) -> bool {
        let meant = push.subscription.is_none_or(|s| s == self.id);
        meant
            && match self.place(&peer) {
                Some(place) if place.boot == push.boot => place.next == push.first,
                Some(place) => push.subscription.is_none() && place.boot < push.boot,
                None => push.subscription.is_none(),
            }
    }

    fn start(self: &Arc<Self>, followers: &mut Followers, link: Arc<Link>, offer: Option<Offer>) {
        let (peer, conn) = (link.peer, link.id);
        // Two followers at once would deliver twice: the later one waits until the earlier one is gone.
        let turn = followers.remove(&peer).map_or_else(Arc::default, |earlier| {
            earlier.task.abort();
            earlier.turn
        });
        let fed = Arc::new(AtomicBool::new(offer.is_some()));
        let (next_turn, is_fed) = (Arc::clone(&turn), Arc::clone(&fed));
        let subscriber = Arc::clone(self);
        let task = tokio::spawn(async move {
            let _turn = turn.lock_owned().await;
            // A subscription that ends is said goodbye to on the stream, so that is waited for.
            let following = subscriber.keep_following(link, offer, &is_fed);
            tokio::pin!(following);
            tokio::select! {
                biased;
                () = &mut following => return,
                () = subscriber.closed() => {}
            }
            let _ = timeout(GOODBYE_WAIT, following).await;
        });
        followers.retain(|_, f| !f.task.is_finished());
        followers.insert(peer, Follower { turn: next_turn, task, conn, fed });
    }

    /// Follows a publisher for as long as the connection lasts: a stream that ends before may be one that the
    /// publisher had no room for.
    async fn keep_following(&self, link: Arc<Link>, offer: Option<Offer>, fed: &AtomicBool) {
        if let Some(offer) = offer {
            match self.follow_push(offer).await {
                Ok(()) => return,
                Err(reason) => {
                    tracing::debug!(peer = %link.peer.short(), channel = self.channel(), ?reason, "push ended");
                }
            }
            fed.store(false, Ordering::Relaxed);
        }
        let mut pause = RETRY;
        loop {
            let Err(interruption) = self.ask(&link, fed).await else { return };
            fed.store(false, Ordering::Relaxed);
            if link.connection.close_reason().is_some() {
                return;
            }
            let (peer, channel) = (link.peer.short(), self.channel());
            match interruption {
                Interruption::Ended(reason) => {
                    tracing::warn!(%peer, channel, %reason, "subscription interrupted");
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(RETRY_MAX);
                }
                Interruption::TooMuch => {
                    tracing::warn!(%peer, channel, "more has come than is held; waiting until it is read");
                    if let Some(place) = self.place(&link.peer) {
                        place.progress.emptied().await;
                    }
                }
            }
        }
    }

    /// Takes what a push brings until its stream ends.
    async fn follow_push(&self, offer: Offer) -> Result<(), Interruption> {
        // Asked again, now that no other stream can move the place.
        if !self.continues(offer.link.peer, &offer.push) {
            offer.refuse();
            return Err(ended("another stream was faster"));
        }
        let Offer { push, link, mut send, recv, mut subscriptions } = offer;
        if push.subscription.is_some() {
            subscriptions = vec![self.id];
        }
        let progress = self.settle(link.peer, push.boot, push.first);
        subscriptions.sort_unstable_by_key(|s| *s != self.id);
        let answer = Taken { attempt: self.next_attempt(), subscriptions };
        send.write_all(&answer.encode()).await.map_err(ended)?;
        self.copy(&link, send, recv, &progress, push.first).await
    }

    /// Asks for a stream, and takes what it brings until it ends.
    async fn ask(&self, link: &Link, fed: &AtomicBool) -> Result<(), Interruption> {
        let place = self.place(&link.peer);
        let resume = place.map(|p| (p.boot, Resume { taken: p.progress.taken(), next: p.next }));
        let request = Request {
            subscription: self.id,
            attempt: self.next_attempt(),
            channel: self.channel().to_owned(),
            resume,
        };
        let (mut send, mut recv) = link.open(stream::EVENTS).await.map_err(ended)?;
        send.write_all(&request.encode()).await.map_err(ended)?;
        let mut answer = [0; ANSWER];
        recv.read_exact(&mut answer).await.map_err(ended)?;
        fed.store(true, Ordering::Relaxed);
        let (boot, first) = parse_answer(&answer).map_err(ended)?;
        // In another run the sequence starts anew; in the same one a gap shows by itself.
        let progress = self.settle(link.peer, boot, first);
        let said = resume.filter(|(b, _)| *b == boot).map_or(first, |(_, resume)| resume.taken);
        self.copy(link, send, recv, &progress, said).await
    }

    /// Takes segments and says what the application has taken, until the stream or the subscription ends.
    async fn copy(
        &self,
        link: &Link,
        mut send: SendStream,
        mut recv: RecvStream,
        progress: &Arc<Progress>,
        said: u64,
    ) -> Result<(), Interruption> {
        tokio::select! {
            biased;
            () = self.closed() => {}
            Err(reason) = self.copy_segments(link, &mut recv, progress) => return Err(reason),
            () = write_acks(&mut send, progress, said) => return Err(ended("the publisher ended it")),
        }
        // Best effort: a publisher that does not hear it lets the cursor expire.
        let _ = send.write_all(&GOODBYE.to_be_bytes()).await;
        let _ = send.finish();
        let _ = send.stopped().await;
        Ok(())
    }

    async fn copy_segments(
        &self,
        link: &Link,
        recv: &mut RecvStream,
        progress: &Arc<Progress>,
    ) -> Result<(), Interruption> {
        loop {
            let mut header = [0; HEADER];
            recv.read_exact(&mut header).await.map_err(ended)?;
            let header = Header::parse(&header).map_err(ended)?;
            // What is on its way to the publisher as an acknowledgement counts there as held still.
            if progress.held() + header.cost() as u64 > MAX_HELD {
                return Err(Interruption::TooMuch);
            }
            let body = read_body(recv, header.length).await?;
            let segment = header.with_body(body).map_err(ended)?;
            link.touch();
            if !self.deliver(link.peer, segment, progress) {
                return Ok(());
            }
        }
    }
}

/// The body of a segment. Memory is taken for what arrives, not for what is announced.
async fn read_body(recv: &mut RecvStream, length: usize) -> Result<Bytes, Interruption> {
    let mut body = BytesMut::new();
    while body.len() < length {
        let chunk = recv.read_chunk(length - body.len(), true).await.map_err(ended)?;
        let chunk = chunk.ok_or_else(|| ended("it ended in the middle of a segment"))?.bytes;
        // Copied, since a piece would keep the whole buffer it was received in.
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Says what the application has taken, until that cannot be said any more.
async fn write_acks(send: &mut SendStream, progress: &Progress, mut said: u64) {
    loop {
        said = progress.beyond(said).await;
        if send.write_all(&said.to_be_bytes()).await.is_err() {
            return;
        }
    }
}
