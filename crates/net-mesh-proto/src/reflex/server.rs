//! Tells anyone who asks at which address they are seen.
//!
//! **Flow.** A Binding request on any socket is answered to where it came from, on the same socket. One with
//! attributes that must be understood and are not gets the error 420 that lists them.
//!
//! **Bounds.** A token bucket for each source (an IPv4 address, or an IPv6 /64) and one for all of them; what is
//! beyond is dropped and counted. Answers are as small as the standard allows (see [`stun`]).
//!
//! **Memory.** The requests answered on the main socket are remembered for a while, so that the node can
//! vouch for a member: this address really is yours, I saw your transaction come from it.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use core::time::Duration;

use super::stun::{self, BindingRequest};
use crate::bounded::BoundedMap;
use crate::drops::DropReason;
use crate::outbox::{Outbox, SocketId};
use crate::time::Time;

/// Requests a second that one source may make for long, and how many at once.
///
/// A node classifying its NAT sends at most 100 requests in two seconds, most of which do not count here as
/// they carry a token; a carrier NAT may hide many nodes behind one address. Ten times less would starve
/// them, ten times more would let one source take a good part of everybody's share.
const SOURCE_RATE: Rate = Rate { per_second: 20, burst: 100 };

/// Requests a second answered in all, and how many at once.
///
/// 2000 answers of 52 bytes are less than 1 Mbit/s: no line is filled by them, whoever's address was forged.
/// A mesh of thousands of nodes asks a popular one a few hundred times a second at worst.
const TOTAL_RATE: Rate = Rate { per_second: 2000, burst: 2000 };

/// Sources whose rate is tracked. The one first seen longest ago makes room, which gives it a fresh bucket; a
/// flood of forged sources is held by the total rate instead.
const MAX_SOURCES: usize = 1024;

/// Transactions remembered. At the total rate a flood pushes one out after half a second; without one
/// they last until [`REMEMBER`].
const MAX_SEEN: usize = 1024;

/// How long a transaction is remembered. A node that wants it vouched for needs one round trip over its
/// session after the answer; 10 s allow for a session that is retransmitting.
const REMEMBER: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
struct Rate {
    per_second: u64,
    burst: u64,
}

/// Tokens in nanoseconds of credit, so that no rounding loses any.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    credit: u64,
    at: Time,
}

impl Rate {
    const fn full(self, now: Time) -> Bucket {
        Bucket { credit: self.burst * 1_000_000_000, at: now }
    }

    /// Takes one token, if there is one.
    fn take(self, bucket: &mut Bucket, now: Time) -> bool {
        const TOKEN: u64 = 1_000_000_000;
        let gained = u64::try_from((now - bucket.at).as_nanos()).unwrap_or(u64::MAX);
        let credit = bucket.credit.saturating_add(gained.saturating_mul(self.per_second));
        bucket.credit = credit.min(self.burst * TOKEN);
        bucket.at = now;
        let enough = bucket.credit >= TOKEN;
        if enough {
            bucket.credit -= TOKEN;
        }
        enough
    }
}

/// What others asked, and what came of it, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Plain requests that were answered.
    pub answered: u64,
    /// Requests of members that classify their NAT, with a token that this node gave out, that were answered.
    pub probes: u64,
    /// Requests refused for attributes that this node does not understand.
    pub rejected: u64,
    /// Requests beyond their source's rate, or everybody's.
    pub limited: u64,
    /// Requests that no answer can be sent to.
    pub unusable: u64,
}

/// The answering side of the protocol.
#[derive(Debug)]
pub struct Server {
    sources: BoundedMap<IpAddr, Bucket>,
    total: Bucket,
    seen: BoundedMap<u128, (SocketAddr, Time)>,
    told: Told,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            sources: BoundedMap::new(MAX_SOURCES),
            total: TOTAL_RATE.full(Time::ZERO),
            seen: BoundedMap::new(MAX_SEEN),
            told: Told::default(),
        }
    }
}

impl Server {
    /// Answers a request that arrived on `socket` from `from`.
    ///
    /// `authorised` says that it carries a token this node gave out: those are bounded per token and do not
    /// count against their source.
    pub fn handle_request<E>(
        &mut self,
        now: Time,
        socket: SocketId,
        from: SocketAddr,
        request: &BindingRequest,
        authorised: bool,
        out: &mut Outbox<E>,
    ) {
        let from = stun::canonical(from);
        if from.port() == 0 {
            self.told.unusable += 1;
            return out.drop(DropReason::UnsupportedStun);
        }
        if !authorised && !self.admit(now, from.ip()) {
            self.told.limited += 1;
            return out.drop(DropReason::RateLimited);
        }
        if !request.unknown_required.is_empty() {
            self.told.rejected += 1;
            let error =
                stun::unknown_attributes(request.txid, &request.unknown_required, request.has_fingerprint);
            return out.send(socket, from, error);
        }
        if authorised {
            self.told.probes += 1;
        } else {
            self.told.answered += 1;
        }
        if socket == SocketId::MAIN {
            self.seen.insert(request.txid, (from, now));
        }
        out.send(socket, from, stun::binding_response(request.txid, from, request.has_fingerprint));
    }

    fn admit(&mut self, now: Time, source: IpAddr) -> bool {
        let source = aggregate(source);
        if !self.sources.contains_key(&source) {
            self.sources.insert(source, SOURCE_RATE.full(now));
        }
        let within = self.sources.get_mut(&source).is_some_and(|bucket| SOURCE_RATE.take(bucket, now));
        within && TOTAL_RATE.take(&mut self.total, now)
    }

    /// Whether the transaction `txid` was answered on the main socket, to `from`, within the last 10 s.
    #[must_use]
    pub fn saw(&self, now: Time, txid: u128, from: SocketAddr) -> bool {
        self.seen.get(&txid).is_some_and(|(addr, at)| *addr == from && now - *at <= REMEMBER)
    }

    /// What was asked by others so far, and what came of it.
    #[must_use]
    pub const fn counts(&self) -> Told {
        self.told
    }

    /// How many sources and transactions are remembered.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.sources.len(), self.seen.len())
    }
}

/// Whoever has an IPv6 address has the /64 around it.
pub(crate) fn aggregate(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}
