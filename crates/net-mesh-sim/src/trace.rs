//! What happened to each packet: counts, a bounded memory for failure messages, and a fingerprint.
//!
//! The fingerprint runs over every packet's time, addresses, size and fate, so two runs with one
//! fingerprint took the same course. The memory keeps the last packets only; a diagram drawn from it has a
//! column per host and an arrow per packet.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};

use net_mesh_proto::time::Time;
use net_mesh_proto::wire::DatagramKind;

use crate::host::HostId;

macro_rules! losses {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+) => {
        /// Why a packet did not arrive.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Lost { $($(#[doc = $doc])+ $variant,)+ }

        impl Lost {
            /// Every reason, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// A short name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

losses! {
    /// The link was cut.
    Cut => "cut",
    /// The host has no such address any more, or is not plugged in there.
    Unplugged => "unplugged",
    /// Larger than a link's MTU.
    Mtu => "mtu",
    /// Lost on its own.
    Loss => "loss",
    /// Lost in a burst.
    Burst => "burst",
    /// The queue before a slow link was full.
    Queue => "queue-full",
    /// No host or NAT has the destination address.
    NoRoute => "no-route",
    /// The sender has no address of the destination's family, or does not own the source address.
    NoSource => "no-source",
    /// The NAT has no mapping at the destination address.
    NoMapping => "no-mapping",
    /// A NAT or firewall let nothing in from that source.
    Filtered => "filtered",
    /// The NAT's table was full, or it had no external port left.
    NatFull => "nat-full",
    /// Sent to the NAT's own external address from inside, and the NAT does not hairpin.
    NoHairpin => "no-hairpin",
    /// UDP is blocked there.
    UdpBlocked => "udp-blocked",
    /// No socket is bound at the destination.
    Unbound => "unbound",
    /// The receiver's buffer was full.
    ReceiveBuffer => "receive-buffer",
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How many packets were sent, arrived, and were lost for each reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets sent.
    pub sent: u64,
    /// Packets that reached a socket.
    pub delivered: u64,
    lost: [u64; Lost::ALL.len()],
}

impl Counts {
    /// How many were lost for `reason`.
    #[must_use]
    pub fn lost(&self, reason: Lost) -> u64 {
        self.lost[reason as usize]
    }

    /// The reasons that occurred, with their counts.
    pub fn losses(&self) -> impl Iterator<Item = (Lost, u64)> + '_ {
        Lost::ALL.iter().map(|r| (*r, self.lost(*r))).filter(|(_, n)| *n > 0)
    }
}

/// One packet's way, as far as it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketEvent {
    /// When it was sent.
    pub sent: Time,
    /// When it arrived or was lost.
    pub ended: Time,
    /// Who sent it.
    pub from: HostId,
    /// The source address as it was at the end of its way.
    pub src: SocketAddr,
    /// The destination address as it was at the end of its way.
    pub dst: SocketAddr,
    /// Bytes of payload.
    pub size: usize,
    /// What its first byte says it is.
    pub kind: Option<DatagramKind>,
    /// The host it reached, or why it reached none.
    pub fate: Result<HostId, Lost>,
}

/// Counts, the last packets, and the fingerprint of all of them.
#[derive(Debug)]
pub struct Trace {
    ring: VecDeque<PacketEvent>,
    capacity: usize,
    counts: Counts,
    hash: u64,
}

/// Packets remembered for diagrams. One screen of arrows is read by a human; ten of them leave room to
/// look for the cause, and the memory stays below 100 KB per simulated internet.
const REMEMBERED: usize = 512;

impl Default for Trace {
    fn default() -> Self {
        Self {
            ring: VecDeque::new(),
            capacity: REMEMBERED,
            counts: Counts::default(),
            hash: 0xcbf2_9ce4_8422_2325,
        }
    }
}

impl Trace {
    /// Changes how many packets are remembered; none at 0.
    pub fn remember(&mut self, capacity: usize) {
        self.capacity = capacity;
        while self.ring.len() > capacity {
            self.ring.pop_front();
        }
    }

    /// The fingerprint so far (FNV-1a, 64 bits).
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// The counts so far.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The last packets, oldest first.
    pub fn packets(&self) -> impl DoubleEndedIterator<Item = &PacketEvent> {
        self.ring.iter()
    }

    pub(crate) fn sent(&mut self) {
        self.counts.sent += 1;
    }

    pub(crate) fn ended(&mut self, packet: PacketEvent) {
        match packet.fate {
            Ok(_) => self.counts.delivered += 1,
            Err(reason) => self.counts.lost[reason as usize] += 1,
        }
        self.mix(&packet.ended.as_nanos().to_le_bytes());
        self.mix_addr(packet.src);
        self.mix_addr(packet.dst);
        self.mix(&(packet.size as u64).to_le_bytes());
        self.mix(&[packet.fate.err().map_or(0xff, |reason| reason as u8)]);
        if self.capacity > 0 {
            if self.ring.len() == self.capacity {
                self.ring.pop_front();
            }
            self.ring.push_back(packet);
        }
    }

    /// Counts a packet that had arrived and was then lost in the receiver's buffer.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code, reason = "only sockets have a buffer"))]
    pub(crate) fn overflowed(&mut self) {
        self.counts.delivered -= 1;
        self.counts.lost[Lost::ReceiveBuffer as usize] += 1;
    }

    fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn mix_addr(&mut self, addr: SocketAddr) {
        match addr.ip() {
            IpAddr::V4(ip) => self.mix(&ip.octets()),
            IpAddr::V6(ip) => self.mix(&ip.octets()),
        }
        self.mix(&addr.port().to_le_bytes());
    }

    /// Draws the last `limit` packets: a column per host that took part (the first twelve), in the order of
    /// the hosts' ids; `name` titles the columns.
    #[must_use]
    pub fn diagram(&self, limit: usize, name: impl Fn(HostId) -> String) -> String {
        let first = self.ring.len().saturating_sub(limit);
        let shown: Vec<&PacketEvent> = self.ring.iter().skip(first).collect();
        let mut hosts: Vec<HostId> =
            shown.iter().flat_map(|p| [Some(p.from), p.fate.ok()]).flatten().collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts.truncate(COLUMNS);
        let mut text = format!("{:>12} ", "ms");
        for host in &hosts {
            let mut title = name(*host);
            title.truncate(title.char_indices().nth(WIDTH - 2).map_or(title.len(), |(at, _)| at));
            let _ = write!(text, "{title:^WIDTH$}");
        }
        text.push('\n');
        for packet in shown {
            draw(&mut text, packet, &hosts);
        }
        text
    }
}

/// Columns of a diagram: more do not fit a line that is still read.
const COLUMNS: usize = 12;
/// Characters per column.
const WIDTH: usize = 14;

fn draw(text: &mut String, packet: &PacketEvent, hosts: &[HostId]) {
    let centre = |host: HostId| hosts.iter().position(|h| *h == host).map(|i| i * WIDTH + WIDTH / 2);
    let mut line = vec![' '; hosts.len() * WIDTH];
    for host in hosts {
        if let Some(at) = centre(*host) {
            line[at] = '|';
        }
    }
    let from = centre(packet.from);
    let to = packet.fate.ok().and_then(centre);
    if let (Some(from), Some(to)) = (from, to) {
        let (low, high) = (from.min(to), from.max(to));
        line[low..=high].fill('-');
        line[from] = 'o';
        line[to] = if to >= from { '>' } else { '<' };
    } else if let Some(from) = from {
        line[from] = 'o';
        let end = (from + WIDTH / 2).min(line.len() - 1);
        line[from + 1..end].fill('-');
        line[end] = 'x';
    } else if let Some(to) = to {
        line[to] = '<';
    }
    let ms = packet.ended.as_nanos() / 1_000;
    let kind = match packet.kind {
        Some(DatagramKind::Stun) => "stun",
        Some(DatagramKind::Quic) => "quic",
        Some(DatagramKind::Frame) => "frame",
        Some(DatagramKind::Unknown) | None => "-",
    };
    let drawn: String = line.into_iter().collect();
    let _ = write!(text, "{:>8}.{:03} {drawn}", ms / 1_000, ms % 1_000);
    let _ = write!(text, " {} > {} {kind} {}", packet.src, packet.dst, packet.size);
    if let Err(reason) = packet.fate {
        let _ = write!(text, " LOST {reason}");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(ms: u64, fate: Result<HostId, Lost>) -> PacketEvent {
        PacketEvent {
            sent: Time::ZERO,
            ended: Time::from_millis(ms),
            from: HostId(0),
            src: "198.18.0.1:7".parse().unwrap(),
            dst: "198.18.0.2:9".parse().unwrap(),
            size: 20,
            kind: Some(DatagramKind::Stun),
            fate,
        }
    }

    #[test]
    fn the_memory_is_bounded_but_counts_and_fingerprint_cover_everything() {
        let mut trace = Trace::default();
        trace.remember(2);
        let mut hashes = vec![trace.hash()];
        for ms in 1..=3 {
            trace.ended(packet(ms, Ok(HostId(1))));
            hashes.push(trace.hash());
        }
        trace.ended(packet(4, Err(Lost::Loss)));
        hashes.push(trace.hash());
        hashes.dedup();
        assert_eq!(hashes.len(), 5, "every packet changes the fingerprint");
        assert_eq!(trace.packets().count(), 2);
        assert_eq!((trace.counts().delivered, trace.counts().lost(Lost::Loss)), (3, 1));
    }

    #[test]
    fn a_diagram_has_a_column_per_host_and_an_arrow_per_packet() {
        let mut trace = Trace::default();
        trace.ended(packet(1, Ok(HostId(1))));
        trace.ended(packet(2, Err(Lost::Filtered)));
        let text = trace.diagram(10, |h| format!("host{}", h.0));
        let expected = "\
\u{20}         ms     host0         host1     
\u{20}      1.000        o------------->       198.18.0.1:7 > 198.18.0.2:9 stun 20
\u{20}      2.000        o------x      |       198.18.0.1:7 > 198.18.0.2:9 stun 20 LOST filtered
";
        assert_eq!(text, expected);
    }
}
