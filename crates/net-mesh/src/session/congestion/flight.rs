//! How much of what is in flight belongs to the route before?
//!
//! QUIC counts bytes in flight per connection and compares them with one window. What was in flight when the
//! route changed is neither on the new route nor gone: until it is acknowledged or given up for lost, the
//! window must be wider by as much, or nothing could be sent. QUIC does not say how much that is; this ledger
//! follows it through the controller's callbacks.
//!
//! They are not exact. `on_sent` counts packets too that carry acknowledgements alone, which are never in
//! flight; probes of the path's MTU are in flight and not told. Every acknowledgement sets the count right. In
//! between, packets that go beyond the window can only be probes (large) or acknowledgements (small).

use std::time::Instant;

/// A packet is given up for lost when one sent this much later is acknowledged: QUIC's packet threshold
/// (RFC 9002 §6.1.1), which the transport leaves at its default.
const PACKET_THRESHOLD: u64 = 3;

/// Packets of a datagram smaller than this part of the largest one are taken for acknowledgements where they
/// go beyond the window. An acknowledgement has some 60 bytes, or some hundred with many gaps.
const SMALL: u64 = 2;

/// To which route lost packets belonged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// To one before: says nothing about this one.
    Before,
    /// To both.
    Both,
    /// To this one.
    Here,
}

/// The bytes in flight, and which of them are stale.
#[derive(Clone, Debug, Default)]
pub(super) struct Flight {
    bytes: u64,
    stale: u64,
    /// When the route changed. Packets sent earlier are stale. Of those sent in that very instant nobody knows:
    /// their acknowledgement counts, their loss does not.
    changed: Option<Instant>,
    /// The last packet known to be sent, and the last one of those that are stale.
    newest: u64,
    newest_stale: u64,
    /// Every stale packet is acknowledged, or about to be given up.
    settled: bool,
}

impl Flight {
    /// What counts as stale right after a change of route; a probe of the MTU may be in flight besides.
    pub(super) const fn all(&self, mtu: u64) -> u64 {
        self.bytes.saturating_add(mtu)
    }

    /// What is stale.
    pub(super) const fn stale(&self) -> u64 {
        if self.settled { 0 } else { self.stale }
    }

    /// The route changes; all that is in flight is stale.
    pub(super) const fn change(&mut self, now: Instant, mtu: u64) {
        self.stale = self.all(mtu);
        self.bytes = self.stale;
        self.changed = Some(now);
        self.newest_stale = self.newest;
        self.settled = false;
    }

    /// Packets of `bytes` in all were sent, of which `number` is the last. QUIC's window is `window`.
    pub(super) const fn on_sent(&mut self, bytes: u64, number: u64, window: u64, mtu: u64) {
        self.settle();
        self.newest = number;
        let total = self.bytes.saturating_add(bytes);
        let limit = window.saturating_add(mtu);
        if total <= limit || bytes >= mtu / SMALL {
            self.bytes = total;
        } else if self.bytes < limit {
            self.bytes = limit;
        }
    }

    /// A packet sent at `sent` was acknowledged. True if it was sent on this route.
    pub(super) fn on_ack(&mut self, sent: Instant, bytes: u64) -> bool {
        self.settle();
        self.bytes = self.bytes.saturating_sub(bytes);
        let here = self.changed.is_none_or(|changed| sent >= changed);
        if !here {
            self.stale = self.stale.saturating_sub(bytes);
        }
        here
    }

    /// `in_flight` bytes are left, and `largest` is the newest packet acknowledged. Lost packets are told next.
    pub(super) fn on_end_acks(&mut self, in_flight: u64, largest: Option<u64>) {
        self.settle();
        self.bytes = in_flight;
        self.stale = self.stale.min(in_flight);
        let Some(largest) = largest else { return };
        self.newest = self.newest.max(largest);
        // One probe of the MTU at a time: one may have left after the last packet that is known.
        self.settled = largest > self.newest_stale + PACKET_THRESHOLD;
    }

    /// Packets of `bytes` in all were given up, the newest of them sent at `sent`.
    pub(super) fn on_lost(&mut self, sent: Instant, bytes: u64) -> Lost {
        self.bytes = self.bytes.saturating_sub(bytes);
        if self.changed.is_some_and(|changed| sent <= changed) {
            self.stale = self.stale.saturating_sub(bytes);
            return Lost::Before;
        }
        // Packets are given up in order: nothing older is in flight any more.
        if std::mem::take(&mut self.stale) > 0 { Lost::Both } else { Lost::Here }
    }

    const fn settle(&mut self) {
        if self.settled {
            self.stale = 0;
        }
    }
}
