//! Sorting what arrived: QUIC to QUIC under the peer's virtual address, relayed datagrams on their way, the
//! rest to the driver.

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::ops::Range;

use bytes::Bytes;
use net_mesh_proto::drops::DropReason;
use net_mesh_proto::relay::Step;
use net_mesh_proto::route::{CircuitId, Route};
use net_mesh_proto::wire::DatagramKind;
use net_mesh_proto::wire::frame::{self, PING, PONG, RELAY, RELAY_HEADER};
use quinn::udp::RecvMeta;
use quinn::{ConnectionId, ConnectionIdGenerator as _};

use super::slots::{Found, SlotId};
use super::{Datagram, MeshSocket};

/// Smallest datagram that may carry a client's Initial (RFC 9000 §14.1), in bytes.
const MIN_INITIAL: usize = 1200;

/// Shortest packet that a stateless reset can answer, in bytes: the answer has 22 and must be shorter than
/// what it answers (RFC 9000 §10.3.3).
const MIN_STRAY: usize = 23;

/// Where QUIC packets that come over one route belong; asked once for a run of them.
struct Entry {
    route: Route,
    found: Option<Found>,
    /// Datagrams with a connection id that this node chose, their bytes, and the last such id.
    ours: usize,
    bytes: usize,
    id: Option<u64>,
}

/// What of a buffer is left for QUIC: one run for one slot, at the buffer's start.
struct Kept {
    len: usize,
    /// The slot's virtual address, and the length of each datagram but the last.
    run: Option<(SocketAddr, usize)>,
}

impl MeshSocket {
    /// Rewrites what was received so that only QUIC of known or admissible peers is left in it, from
    /// their virtual addresses. False if nothing is left at all.
    pub(super) fn sort(&self, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> bool {
        let mut any = false;
        for (buf, meta) in bufs.iter_mut().zip(metas) {
            meta.ecn = None;
            meta.dst_ip = None;
            self.sort_batch(buf, meta);
            any |= meta.len > 0;
        }
        any
    }

    /// One GRO buffer: datagrams of one source, each `stride` long but the last. What is left in it belongs
    /// to one slot; what belongs to others goes to the overflow.
    pub(super) fn sort_batch(&self, buf: &mut [u8], meta: &mut RecvMeta) {
        let from = canonical(meta.addr);
        let stride = meta.stride.max(1);
        let len = meta.len.min(buf.len());
        let mut kept = Kept { len: 0, run: None };
        let mut direct: Option<Entry> = None;
        if len == 0 {
            self.drops.count(DropReason::Empty);
        }
        let mut start = 0;
        while start < len {
            let mut end = (start + stride).min(len);
            match DatagramKind::of(buf[start]) {
                DatagramKind::Quic => {
                    let entry = direct.get_or_insert_with(|| self.entry(Route::Direct(from)));
                    if let Some(slot) = self.admit(entry, &buf[start..end]) {
                        self.keep(buf, start..end, slot, stride, &mut kept);
                    }
                }
                DatagramKind::Frame if buf[start] == RELAY => {
                    end = end_of_run(&buf[..len], start, stride);
                    self.relayed(buf, start..end, from, stride, &mut kept);
                }
                DatagramKind::Frame => self.own_frame(Route::Direct(from), &buf[start..end]),
                DatagramKind::Stun => {
                    self.tell(Datagram::Stun { from, bytes: Bytes::copy_from_slice(&buf[start..end]) });
                }
                DatagramKind::Unknown => self.drops.count(DropReason::UnknownFirstByte),
            }
            start = end;
        }
        if let Some(direct) = &direct {
            self.count(direct);
        }
        meta.len = kept.len;
        if let Some((addr, stride)) = kept.run {
            (meta.addr, meta.stride) = (addr, stride);
        }
    }

    /// Frames with one label, the last perhaps shorter than `stride`.
    fn relayed(&self, buf: &mut [u8], run: Range<usize>, from: SocketAddr, stride: usize, kept: &mut Kept) {
        let Some(label) = frame::label(&buf[run.clone()]) else {
            return self.drops.count(DropReason::MalformedFrame);
        };
        let count = run.len().div_ceil(stride);
        match self.labels.step(from, label, count, run.len() - count * RELAY_HEADER) {
            Step::Forward { to, label } => self.forward(to, label, &mut buf[run], stride),
            Step::Deliver(circuit) => self.deliver(buf, run, circuit, stride, kept),
            Step::Drop(DropReason::UnknownLabel) if self.slots.is_session(Route::Direct(from)) => {
                self.early.hold(label, from, stride, &buf[run], &self.drops);
            }
            Step::Drop(reason) => self.drops.add(reason, count),
        }
    }

    /// Frames of a circuit that ends here.
    fn deliver(&self, buf: &mut [u8], run: Range<usize>, circuit: CircuitId, stride: usize, kept: &mut Kept) {
        let mut entry = self.entry(Route::Relayed(circuit));
        for start in run.clone().step_by(stride) {
            let payload = start + RELAY_HEADER..(start + stride).min(run.end);
            match DatagramKind::of(buf[payload.start]) {
                DatagramKind::Quic => {
                    if let Some(slot) = self.admit(&mut entry, &buf[payload.clone()]) {
                        self.keep(buf, payload, slot, stride - RELAY_HEADER, kept);
                    }
                }
                DatagramKind::Frame => self.own_frame(entry.route, &buf[payload]),
                DatagramKind::Stun | DatagramKind::Unknown => {
                    self.drops.count(DropReason::UnknownFirstByte);
                }
            }
        }
        self.count(&entry);
    }

    /// A frame of ours that is not a relayed datagram, or is one inside another.
    fn own_frame(&self, route: Route, bytes: &[u8]) {
        match bytes.first() {
            Some(&(PING | PONG)) => {
                self.tell(Datagram::Frame { route, bytes: Bytes::copy_from_slice(bytes) });
            }
            _ => self.drops.count(DropReason::UnknownFrame),
        }
    }

    /// Leaves a datagram in the buffer for QUIC, or copies it to the overflow if the buffer is another's.
    fn keep(&self, buf: &mut [u8], datagram: Range<usize>, slot: SlotId, stride: usize, kept: &mut Kept) {
        let addr = slot.addr();
        let fits = match kept.run {
            Some(run) => run == (addr, stride),
            None => !self.overflow.has(addr),
        };
        if fits {
            let len = datagram.len();
            if datagram.start != kept.len {
                buf.copy_within(datagram, kept.len);
            }
            kept.len += len;
            kept.run = Some((addr, stride));
        } else if !self.overflow.push(addr, stride, &buf[datagram]) {
            self.drops.count(DropReason::QueueFull);
        }
    }

    fn tell(&self, datagram: Datagram) {
        if self.inbox.try_send(datagram).is_err() {
            self.drops.count(DropReason::QueueFull);
        }
    }

    fn entry(&self, route: Route) -> Entry {
        Entry { route, found: self.slots.by_source(route), ours: 0, bytes: 0, id: None }
    }

    /// Counts what of a batch came from an entry's peer.
    fn count(&self, entry: &Entry) {
        let (Some(found), Some(id)) = (&entry.found, entry.id) else { return };
        let news = found.routes.received(self.clock.now(), entry.route, entry.ours as u64, id);
        self.passed.received(entry.route, entry.ours, entry.bytes);
        if news.untold {
            self.slots.changed().add(&found.routes);
        }
        if news.new_id {
            self.slots.learn(found.slot, id);
        }
    }

    /// The slot that a QUIC packet over a route is for. `None` if it was dropped.
    fn admit(&self, entry: &mut Entry, datagram: &[u8]) -> Option<SlotId> {
        let initial = initial_dcid(datagram).filter(|dcid| !self.is_ours(dcid));
        match &entry.found {
            // A settled slot gives way on routes it has not proven: someone else may be there.
            Some(Found { settled: true, proven: false, .. })
                if initial.is_some() && datagram.len() >= MIN_INITIAL =>
            {
                entry.found = self.slots.by_initial(initial?, entry.route);
            }
            Some(_) => {}
            None => match initial {
                Some(_) if datagram.len() < MIN_INITIAL => self.drops.count(DropReason::ShortInitial),
                Some(dcid) => entry.found = self.slots.by_initial(dcid, entry.route),
                None => return self.stray(entry.route, datagram),
            },
        }
        let found = entry.found.as_mut()?;
        // A client's first flight proves nothing. What answers us carries a connection id that we chose,
        // which nobody knows who has not received from us.
        // While a slot is unsettled that is a handshake packet: a short header may be that of a session whose
        // peer has just moved here, and is no word for a stranger.
        let counts = found.settled || datagram.first().is_some_and(|first| first & 0x80 != 0);
        if counts && let Some(id) = self.own_id(datagram, entry.id) {
            entry.ours += 1;
            entry.bytes += datagram.len();
            entry.id = Some(id);
            if !found.proven {
                found.proven = true;
                self.slots.prove(found.slot, entry.route);
            }
        }
        Some(found.slot)
    }

    /// A packet that starts nothing, over a route of nobody's. If an earlier run of this node made its
    /// connection id, QUIC tells the sender that the connection is gone. A connection that lives may have moved:
    /// its packets are not for QUIC before its peer has proved that it is there.
    fn stray(&self, route: Route, datagram: &[u8]) -> Option<SlotId> {
        let short = datagram.first().is_some_and(|first| first & 0x80 == 0);
        let id = self.own_id(datagram, None).filter(|_| short && datagram.len() >= MIN_STRAY);
        let gone = id.is_some_and(|id| !self.slots.is_in_use(id));
        let slot = if gone { self.slots.stray(route) } else { None };
        if slot.is_none() {
            self.drops.count(DropReason::UnknownSource);
        }
        slot
    }

    /// The packet's connection id, if this node chose it, as it did `last`.
    fn own_id(&self, datagram: &[u8], last: Option<u64>) -> Option<u64> {
        let bytes = destination_id(datagram, self.ids.cid_len())?;
        let id = u64::from_be_bytes(bytes.try_into().ok()?);
        (last == Some(id) || self.is_ours(bytes)).then_some(id)
    }

    /// Whether a connection id was chosen by this node, in this run or an earlier one.
    fn is_ours(&self, id: &[u8]) -> bool {
        // The generator expects ids of its own length.
        id.len() == self.ids.cid_len() && self.ids.validate(&ConnectionId::new(id)).is_ok()
    }
}

/// Where the run of frames ends that have the label of the one at `start`.
fn end_of_run(buf: &[u8], start: usize, stride: usize) -> usize {
    let mut end = (start + stride).min(buf.len());
    let Some((header, _)) = buf[start..end].split_first_chunk::<RELAY_HEADER>() else { return end };
    while let Some((next, payload)) = buf[end..].split_first_chunk::<RELAY_HEADER>()
        && next == header
        && !payload.is_empty()
    {
        end = (end + stride).min(buf.len());
    }
    end
}

/// The destination connection id of any QUIC packet (RFC 8999 §5), where those of this node have
/// `length` bytes.
fn destination_id(datagram: &[u8], length: usize) -> Option<&[u8]> {
    if datagram.first()? & 0x80 == 0 {
        datagram.get(1..1 + length)
    } else {
        let length = usize::from(*datagram.get(5)?);
        datagram.get(6..6 + length)
    }
}

/// The destination connection id of a QUIC version 1 Initial (RFC 9000 §17.2.2).
fn initial_dcid(datagram: &[u8]) -> Option<&[u8]> {
    let (first, rest) = datagram.split_first()?;
    let (version, rest) = rest.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first()?;
    let is_initial = first & 0xf0 == 0xc0 && *version == [0, 0, 0, 1];
    let length = usize::from(*length);
    if !is_initial || !(1..=20).contains(&length) {
        return None;
    }
    rest.get(..length)
}

/// IPv4 as IPv4, whatever the socket shows it as.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
