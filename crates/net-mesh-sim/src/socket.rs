//! The simulated internet as UDP sockets for quinn, under tokio's clock.
//!
//! One task waits until the next packet is due and hands what has arrived to the sockets. With tokio's
//! paused clock a run takes no longer than its computations, and equal seeds give equal traces as long as
//! everything runs on one thread. tokio's timers tick in milliseconds, so a packet is handed over up to 1 ms
//! after it is due; the trace and all ordering keep the exact instants.
//!
//! Batches are a setting ([`SimNet::set_segments`]): a socket may take many datagrams in one call, and join what
//! arrived from one sender in datagrams of one length, as kernels do (GSO, GRO). On the line they are single
//! datagrams all the same.
//!
//! Bounds: each socket's receive buffer holds [`RECEIVE_BUFFER`] bytes, and what comes beyond is dropped and
//! counted. Sending never blocks: queues are in the simulated links.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use net_mesh_proto::time::Time;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::host::{BindError, HostId};
use crate::internet::{Delivery, Internet};

/// Bytes of payload a socket holds before its owner reads them: what a node asks its system for.
pub const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// A simulated internet that sockets can be opened on. Clones share it.
#[derive(Clone)]
pub struct SimNet {
    shared: Arc<Shared>,
}

/// One host of it: what a node sees of its network.
#[derive(Clone)]
pub struct SimHost {
    /// The internet.
    pub net: SimNet,
    /// The host.
    pub host: HostId,
}

/// A UDP socket of a simulated host. Dropping it closes the port.
pub struct SimSocket {
    net: SimNet,
    host: HostId,
    local: SocketAddr,
    segments: usize,
}

struct Shared {
    inner: Mutex<Inner>,
    /// Tells the delivering task to look again.
    changed: Arc<Notify>,
    epoch: Instant,
}

struct Inner {
    net: Internet,
    inboxes: BTreeMap<InboxKey, Inbox>,
    /// When the delivering task will look next by itself.
    armed: Option<Time>,
    /// Datagrams in one call of a socket, at most.
    segments: usize,
    /// Hosts whose changes someone wants to hear of.
    watched: BTreeMap<HostId, Watched>,
}

/// The addresses of a host as they were when its watchers were last told.
struct Watched {
    ips: Vec<IpAddr>,
    told: watch::Sender<()>,
}

type InboxKey = (HostId, bool, u16);

#[derive(Default)]
struct Inbox {
    queue: VecDeque<Delivery>,
    bytes: usize,
    reader: Option<Waker>,
}

impl Inbox {
    /// Puts what follows `first` behind it, as long as it is from the same sender and as long; the last may be
    /// shorter. Returns how many bytes that were.
    fn join(&mut self, first: &Delivery, mut buf: &mut [u8], limit: usize) -> usize {
        let (mut total, mut whole) = (0, !first.payload.is_empty());
        for _ in 0..limit {
            let fits = |next: &&Delivery| {
                whole
                    && (next.from, next.local) == (first.from, first.local)
                    && (1..=first.payload.len().min(buf.len())).contains(&next.payload.len())
            };
            if self.queue.front().filter(fits).is_none() {
                break;
            }
            let Some(next) = self.queue.pop_front() else { break };
            let (here, rest) = std::mem::take(&mut buf).split_at_mut(next.payload.len());
            here.copy_from_slice(&next.payload);
            (buf, total) = (rest, total + next.payload.len());
            self.bytes -= next.payload.len();
            whole = next.payload.len() == first.payload.len();
        }
        total
    }
}

impl SimNet {
    /// Puts `net` under tokio's clock; the present instant becomes [`Time::ZERO`].
    ///
    /// # Panics
    /// Outside a tokio runtime with time enabled.
    #[must_use]
    pub fn new(net: Internet) -> Self {
        let changed = Arc::new(Notify::new());
        let inner = Mutex::new(Inner {
            net,
            inboxes: BTreeMap::new(),
            armed: None,
            segments: 1,
            watched: BTreeMap::new(),
        });
        let shared = Arc::new(Shared { inner, changed: Arc::clone(&changed), epoch: Instant::now() });
        tokio::spawn(deliver(Arc::downgrade(&shared), changed, shared.epoch));
        Self { shared }
    }

    /// The present instant.
    #[must_use]
    pub fn now(&self) -> Time {
        self.shared.now()
    }

    /// Lets sockets that are opened from now on send and receive up to `segments` datagrams at once; 1 unless set.
    pub fn set_segments(&self, segments: usize) {
        self.shared.lock().segments = segments.max(1);
    }

    /// Looks at the internet, or changes it, as it is now. Hosts whose addresses it changes are told
    /// ([`Self::changes`]).
    pub fn with<R>(&self, act: impl FnOnce(&mut Internet, Time) -> R) -> R {
        let result = self.act(act);
        self.shared.lock().tell_readdressed();
        result
    }

    /// A value that changes whenever the host's network does: its addresses, or what
    /// [`network_changed`](Self::network_changed) stands for.
    #[must_use]
    pub fn changes(&self, host: HostId) -> watch::Receiver<()> {
        let mut inner = self.shared.lock();
        let ips = inner.net.ips(host).to_vec();
        let watched = inner.watched.entry(host);
        watched.or_insert_with(|| Watched { ips, told: watch::Sender::new(()) }).told.subscribe()
    }

    /// Tells a host that its network changed, as its system would of what leaves its addresses as they are: another
    /// default route, another way behind its NAT, the end of a sleep.
    pub fn network_changed(&self, host: HostId) {
        if let Some(watched) = self.shared.lock().watched.get(&host) {
            watched.told.send_replace(());
        }
    }

    fn act<R>(&self, act: impl FnOnce(&mut Internet, Time) -> R) -> R {
        let mut inner = self.shared.lock();
        let result = act(&mut inner.net, self.shared.now());
        if inner.is_late() {
            self.shared.changed.notify_one();
        }
        result
    }

    /// Opens a UDP socket on a host; on a port of the host's choosing where the port is 0.
    ///
    /// # Errors
    /// `AddrInUse` where the port is taken, `AddrNotAvailable` where the host does not have the address.
    pub fn bind(&self, host: HostId, addr: SocketAddr) -> io::Result<Arc<SimSocket>> {
        let mut inner = self.shared.lock();
        let local = inner.net.bind(host, addr).map_err(|error| match error {
            BindError::InUse => io::Error::new(io::ErrorKind::AddrInUse, error),
            BindError::NoSuchAddress => io::Error::new(io::ErrorKind::AddrNotAvailable, error),
        })?;
        inner.inboxes.insert((host, local.is_ipv6(), local.port()), Inbox::default());
        let segments = inner.segments;
        Ok(Arc::new(SimSocket { net: self.clone(), host, local, segments }))
    }

    /// The addresses of a host's interfaces.
    #[must_use]
    pub fn ips(&self, host: HostId) -> Vec<IpAddr> {
        self.shared.lock().net.ips(host).to_vec()
    }

    /// One host of this internet.
    #[must_use]
    pub fn host(&self, host: HostId) -> SimHost {
        SimHost { net: self.clone(), host }
    }

    /// The fingerprint of everything that has happened.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.shared.lock().net.trace().hash()
    }
}

impl SimHost {
    /// Opens a UDP socket.
    ///
    /// # Errors
    /// As for [`SimNet::bind`].
    pub fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(self.net.bind(self.host, addr)?)
    }

    /// The addresses of the host's interfaces.
    #[must_use]
    pub fn ips(&self) -> Vec<IpAddr> {
        self.net.ips(self.host)
    }

    /// A value that changes whenever the host's network does; as [`SimNet::changes`].
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.net.changes(self.host)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Time {
        let nanos = self.epoch.elapsed().as_nanos();
        Time::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

impl Inner {
    fn tell_readdressed(&mut self) {
        for (host, watched) in &mut self.watched {
            let ips = self.net.ips(*host);
            if ips != watched.ips {
                watched.ips = ips.to_vec();
                watched.told.send_replace(());
            }
        }
    }

    /// Whether something happens before the delivering task will look.
    fn is_late(&self) -> bool {
        match (self.net.poll_timeout(), self.armed) {
            (Some(next), Some(armed)) => next < armed,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    /// Hands out what has arrived; wakers to call once the lock is released.
    fn deliver(&mut self, now: Time) -> Vec<Waker> {
        let mut readers = Vec::new();
        while let Some(delivery) = self.net.poll_delivery(now) {
            let key = (delivery.host, delivery.local.is_ipv6(), delivery.local.port());
            let Some(inbox) = self.inboxes.get_mut(&key) else { continue };
            if inbox.bytes + delivery.payload.len() > RECEIVE_BUFFER {
                self.net.trace_mut().overflowed();
                continue;
            }
            inbox.bytes += delivery.payload.len();
            inbox.queue.push_back(delivery);
            readers.extend(inbox.reader.take());
        }
        self.armed = self.net.poll_timeout();
        readers
    }
}

/// Runs until the internet and all its sockets are dropped.
async fn deliver(shared: Weak<Shared>, changed: Arc<Notify>, epoch: Instant) {
    loop {
        let next = {
            let Some(shared) = shared.upgrade() else { return };
            let now = shared.now();
            let mut inner = shared.lock();
            let readers = inner.deliver(now);
            let next = inner.armed;
            drop(inner);
            readers.into_iter().for_each(Waker::wake);
            next
        };
        match next {
            Some(at) => {
                let at = epoch + Duration::from_nanos(at.as_nanos());
                // Elapsed or notified: either way it is time to look.
                let _ = tokio::time::timeout_at(at, changed.notified()).await;
            }
            None => changed.notified().await,
        }
    }
}

impl SimSocket {
    fn key(&self) -> InboxKey {
        (self.host, self.local.is_ipv6(), self.local.port())
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        let mut inner = self.net.shared.lock();
        let inbox = inner.inboxes.remove(&self.key());
        inner.net.close(self.host, self.local);
        drop(inner);
        // A waker may own what owns another socket: it goes when the lock is free.
        drop(inbox);
    }
}

impl AsyncUdpSocket for SimSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let local = transmit.src_ip.map_or(self.local, |ip| SocketAddr::new(ip, self.local.port()));
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        self.net.act(|net, now| {
            for datagram in transmit.contents.chunks(segment) {
                net.send(now, self.host, local, transmit.destination, datagram.to_vec());
            }
        });
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.net.shared.lock();
        let Some(inbox) = inner.inboxes.get_mut(&self.key()) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some(delivery) = inbox.queue.pop_front() else { break };
            inbox.bytes -= delivery.payload.len();
            let stride = delivery.payload.len().min(buf.len());
            buf[..stride].copy_from_slice(&delivery.payload[..stride]);
            let len = stride + inbox.join(&delivery, &mut buf[stride..], self.segments - 1);
            let dst_ip = Some(delivery.local.ip());
            *meta = RecvMeta { addr: delivery.from, len, stride, ecn: None, dst_ip };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        inbox.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn max_transmit_segments(&self) -> usize {
        self.segments
    }

    fn max_receive_segments(&self) -> usize {
        self.segments
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for SimNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimNet").finish_non_exhaustive()
    }
}

impl fmt::Debug for SimHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimHost").field("host", &self.host).finish_non_exhaustive()
    }
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimSocket")
            .field("host", &self.host)
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}
