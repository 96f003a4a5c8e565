//! Sorting what arrived: QUIC to QUIC under the peer's virtual address, the rest to the driver.

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use net_mesh_proto::drops::DropReason;
use net_mesh_proto::wire::DatagramKind;
use quinn::udp::RecvMeta;
use quinn::{ConnectionId, ConnectionIdGenerator as _};

use super::MeshSocket;
use super::routes::PeerRoutes;
use super::slots::SlotId;

/// Smallest datagram that may carry a client's Initial (RFC 9000 §14.1), in bytes.
const MIN_INITIAL: usize = 1200;

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

    /// One GRO buffer: datagrams of one source, each `stride` long but the last.
    fn sort_batch(&self, buf: &mut [u8], meta: &mut RecvMeta) {
        let source = canonical(meta.addr);
        let stride = meta.stride.max(1);
        let mut slot = self.slots.by_source(source);
        let mut kept = 0;
        let mut start = 0;
        while start < meta.len {
            let end = (start + stride).min(meta.len);
            if self.keep(&buf[start..end], source, &mut slot) {
                if kept != start {
                    buf.copy_within(start..end, kept);
                }
                kept += end - start;
            }
            start = end;
        }
        if meta.len == 0 {
            self.drops.count(DropReason::Empty);
        }
        meta.len = kept;
        if let Some((id, _)) = slot {
            meta.addr = id.addr();
        }
    }

    /// Whether a datagram is for QUIC; what is not goes its own way from here.
    fn keep(
        &self,
        datagram: &[u8],
        source: SocketAddr,
        slot: &mut Option<(SlotId, Arc<PeerRoutes>)>,
    ) -> bool {
        let Some(first) = datagram.first() else {
            self.drops.count(DropReason::Empty);
            return false;
        };
        match DatagramKind::of(*first) {
            DatagramKind::Quic => self.keep_quic(datagram, source, slot),
            DatagramKind::Stun => {
                if self.inbox.try_send((source, Bytes::copy_from_slice(datagram))).is_err() {
                    self.drops.count(DropReason::QueueFull);
                }
                false
            }
            DatagramKind::Frame => {
                self.drops.count(DropReason::UnknownFrame);
                false
            }
            DatagramKind::Unknown => {
                self.drops.count(DropReason::UnknownFirstByte);
                false
            }
        }
    }

    fn keep_quic(
        &self,
        datagram: &[u8],
        source: SocketAddr,
        slot: &mut Option<(SlotId, Arc<PeerRoutes>)>,
    ) -> bool {
        let initial = initial_dcid(datagram);
        if slot.is_none() {
            let Some(dcid) = initial.filter(|dcid| !self.is_ours(dcid)) else {
                self.drops.count(DropReason::UnknownSource);
                return false;
            };
            if datagram.len() < MIN_INITIAL {
                self.drops.count(DropReason::ShortInitial);
                return false;
            }
            *slot = self.slots.by_initial(dcid, source);
        }
        let Some((_, routes)) = slot else { return false };
        // A client's first flight proves nothing. What answers us carries a connection id that we chose,
        // which nobody knows who has not received from us.
        if destination_id(datagram, self.ids.cid_len()).is_some_and(|id| self.is_ours(id)) {
            routes.proven(source);
        }
        true
    }
}

impl MeshSocket {
    /// Whether a connection id was chosen by this node.
    fn is_ours(&self, id: &[u8]) -> bool {
        // The generator expects ids of its own length.
        id.len() == self.ids.cid_len() && self.ids.validate(&ConnectionId::new(id)).is_ok()
    }
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
