//! Which plan suits a pair, and when does each side send what?
//!
//! | what the two are behind | plans, in the order they are tried |
//! |---|---|
//! | one NAT | private addresses first, with all others behind them |
//! | the sought one admits anyone | dial |
//! | the seeker admits anyone | ask to be dialled |
//! | one address for all destinations, on both sides | fire together; one side first; the other side first |
//! | one is symmetric, the other asks for the IP only | the cone opens, the symmetric side fires |
//! | both symmetric, but one admits strangers and an address is kept for each IP | fire together |
//! | they have no address family in common | none |
//! | anything else | none; but where both have IPv6, fire together over that alone |
//! | not known | fire together; one side first; the other side first |
//!
//! **Who goes first matters.** A packet that reaches a NAT before anything went out to its sender is dropped by the
//! filter, and some NATs remember it: Linux then gives the answer another port, and a cone looks symmetric
//! in the very exchange that needs it. Fired together, first packets cross between the two NATs. Where one side
//! is symmetric they cannot: its packets come from a port that nobody knows. So the cone sends
//! *openers* to the symmetric side's known IP, which open a filter that asks for IPs, and the symmetric side
//! fires a little later. The openers themselves arrive where no mapping is; they are expected to be lost.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use crate::membership::VerdictSummary;
use crate::nat::{Filtering, Mapping};
use crate::peer::Local;
use crate::wire::Malformed;
use crate::wire::addr::{Scope, scope};

/// Between first checks to two candidates. RFC 8445 §14.2 asks for 50 ms unless the rate is known to be harmless;
/// sixteen packets of a hundred bytes in 160 ms are fewer than one page's worth of DNS.
const PACE: Duration = Duration::from_millis(10);

/// When the check of one candidate is sent, from the first on. The first two leave almost together: were the only
/// one lost, the other side's would arrive before anything went out to it, and could spoil the mapping. All
/// span 1.5 s: bursts of loss last up to half a second, and a path of 200 ms with one check in ten lost needs
/// two or three.
const SHOTS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(4),
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(700),
    Duration::from_millis(1500),
];

/// When openers are sent. As above, the first may be lost alone, and then nothing that follows from the symmetric side
/// gets in; the third pays for a burst. It can spoil nothing: it goes to a port that no check comes from.
const OPENERS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(4), Duration::from_millis(300)];

/// How much later the symmetric side fires than the cone opens: the time that the opener needs to get out of the
/// cone's network, generously, since both clocks of firing are only as good as round trips are even.
const AFTER_OPENER: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

/// What two nodes try together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Plan {
    /// The seeker sends: the sought one admits anyone.
    Dial,
    /// The sought one sends: the seeker admits anyone.
    AskToBeDialled,
    /// Both send at once, to private addresses first.
    LocalFirst,
    /// Both send at once.
    FireTogether,
    /// The seeker sends first, the sought one when that has got about half way.
    SeekerFirst,
    /// The other way round.
    SoughtFirst,
    /// The cone opens its filter, the symmetric side fires.
    SymmetricSide,
    /// Both send at once, over IPv6 alone.
    OverIpv6,
}

impl Plan {
    /// All plans.
    pub const ALL: [Self; 8] = [
        Self::Dial,
        Self::AskToBeDialled,
        Self::LocalFirst,
        Self::FireTogether,
        Self::SeekerFirst,
        Self::SoughtFirst,
        Self::SymmetricSide,
        Self::OverIpv6,
    ];

    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Dial => 1,
            Self::AskToBeDialled => 2,
            Self::LocalFirst => 3,
            Self::FireTogether => 4,
            Self::SeekerFirst => 5,
            Self::SoughtFirst => 6,
            Self::SymmetricSide => 7,
            Self::OverIpv6 => 8,
        }
    }

    pub(crate) fn from_code(code: u8) -> Result<Self, Malformed> {
        Self::ALL.into_iter().find(|plan| plan.code() == code).ok_or(Malformed::Invalid("a plan"))
    }

    /// A name for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dial => "dial",
            Self::AskToBeDialled => "ask_to_be_dialled",
            Self::LocalFirst => "local_first",
            Self::FireTogether => "fire_together",
            Self::SeekerFirst => "seeker_first",
            Self::SoughtFirst => "sought_first",
            Self::SymmetricSide => "symmetric_side",
            Self::OverIpv6 => "over_ipv6",
        }
    }

    /// The plan in words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Dial => "dial",
            Self::AskToBeDialled => "ask to be dialled",
            Self::LocalFirst => "local network first",
            Self::FireTogether => "fire together",
            Self::SeekerFirst => "seeker first",
            Self::SoughtFirst => "sought first",
            Self::SymmetricSide => "cone opens, symmetric side fires",
            Self::OverIpv6 => "fire together over IPv6",
        }
    }
}

/// One side of a pair, as the other one knows it.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// What its NAT does.
    pub verdict: VerdictSummary,
    /// Where it may be reached.
    pub candidates: &'a [SocketAddr],
}

impl Side<'_> {
    fn is_symmetric(&self) -> bool {
        matches!(
            self.verdict.mapping,
            Mapping::AddressDependent | Mapping::AddressAndPortDependent | Mapping::EndpointDependent
        )
    }

    fn is_unknown(&self) -> bool {
        self.verdict.mapping == Mapping::Unknown || self.verdict.filtering == Filtering::Unknown
    }

    fn admits_anyone(&self) -> bool {
        self.verdict.filtering == Filtering::EndpointIndependent && !self.is_symmetric() && !self.is_unknown()
    }

    fn globals(&self, v4: bool) -> impl Iterator<Item = SocketAddr> {
        let of_family = move |a: &&SocketAddr| a.is_ipv4() == v4 && scope(a.ip()) == Scope::Global;
        self.candidates.iter().filter(of_family).copied()
    }
}

/// Whether the two seem to be behind one NAT: others see them at one IPv4 address.
fn is_near(a: &Side<'_>, b: &Side<'_>) -> bool {
    a.globals(true).any(|x| b.globals(true).any(|y| x.ip() == y.ip()))
}

/// Whether packets of one side can be addressed to the other, as far as their addresses are known.
fn share_a_family(a: &Side<'_>, b: &Side<'_>) -> bool {
    let has = |side: &Side<'_>, v4: bool| {
        side.candidates.is_empty() || side.candidates.iter().any(|addr| addr.is_ipv4() == v4)
    };
    [true, false].into_iter().any(|v4| has(a, v4) && has(b, v4))
}

/// The plans for a pair, in the order to try them.
///
/// # Errors
/// Why there is none, as a clause.
pub fn plans(seeker: &Side<'_>, sought: &Side<'_>) -> Result<Vec<Plan>, &'static str> {
    if !share_a_family(seeker, sought) {
        return Err("the two have no address family in common: one side has IPv4 only, the other IPv6 only");
    }
    if is_near(seeker, sought) {
        return Ok(Vec::from([Plan::LocalFirst]));
    }
    let over_v6 = seeker.globals(false).next().is_some() && sought.globals(false).next().is_some();
    match over_ipv4(seeker, sought) {
        Ok(mut plans) => {
            if over_v6 {
                plans.push(Plan::OverIpv6);
            }
            Ok(plans)
        }
        Err(_) if over_v6 => Ok(Vec::from([Plan::OverIpv6])),
        Err(reason) => Err(reason),
    }
}

fn over_ipv4(seeker: &Side<'_>, sought: &Side<'_>) -> Result<Vec<Plan>, &'static str> {
    let in_turn = [Plan::FireTogether, Plan::SeekerFirst, Plan::SoughtFirst];
    if sought.admits_anyone() {
        return Ok(Vec::from([Plan::Dial, Plan::FireTogether]));
    }
    if seeker.admits_anyone() {
        return Ok(Vec::from([Plan::AskToBeDialled, Plan::FireTogether]));
    }
    if seeker.is_unknown() || sought.is_unknown() {
        return Ok(Vec::from(in_turn));
    }
    match (seeker.is_symmetric(), sought.is_symmetric()) {
        (false, false) => Ok(Vec::from(in_turn)),
        (true, false) => one_symmetric(sought),
        (false, true) => one_symmetric(seeker),
        (true, true) if settles(seeker, sought) || settles(sought, seeker) => {
            Ok(Vec::from([Plan::FireTogether, Plan::SeekerFirst, Plan::SoughtFirst]))
        }
        (true, true) => {
            Err("both sides are symmetric: neither knows the address that the other one will have")
        }
    }
}

fn one_symmetric(cone: &Side<'_>) -> Result<Vec<Plan>, &'static str> {
    match cone.verdict.filtering {
        Filtering::AddressDependent => Ok(Vec::from([Plan::SymmetricSide, Plan::FireTogether])),
        _ => {
            Err("one side is symmetric, so its next port is unknown, and the other side's filter asks for it")
        }
    }
}

/// Whether two symmetric sides get through, `x` being the one that hears the other first: it admits strangers,
/// the other one admits any port of an IP it has sent to, and one of them keeps one address for each IP.
fn settles(x: &Side<'_>, y: &Side<'_>) -> bool {
    let keeps_per_ip = |side: &Side<'_>| side.verdict.mapping == Mapping::AddressDependent;
    let admits_any_port =
        matches!(y.verdict.filtering, Filtering::EndpointIndependent | Filtering::AddressDependent);
    x.verdict.filtering == Filtering::EndpointIndependent
        && admits_any_port
        && (keeps_per_ip(x) || keeps_per_ip(y))
}

/// A packet to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shot {
    /// From the moment of firing on.
    pub(super) after: Duration,
    pub(super) to: SocketAddr,
}

/// What one side sends, in the order of time. `span` is one way between the two by way of the mediator.
pub(super) fn schedule(
    plan: Plan,
    is_seeker: bool,
    local: &Local,
    (own, theirs): (&Side<'_>, &Side<'_>),
    span: Duration,
) -> Vec<Shot> {
    let candidates = ordered(plan, local, own, theirs);
    let (least, most) = AFTER_OPENER;
    let later = span.clamp(least, most);
    let begin = match plan {
        Plan::LocalFirst | Plan::FireTogether | Plan::OverIpv6 => Duration::ZERO,
        Plan::Dial if is_seeker => Duration::ZERO,
        Plan::AskToBeDialled if !is_seeker => Duration::ZERO,
        // The other side does it all; what it sends is answered.
        Plan::Dial | Plan::AskToBeDialled => return Vec::new(),
        Plan::SeekerFirst => {
            if is_seeker {
                Duration::ZERO
            } else {
                later
            }
        }
        Plan::SoughtFirst => {
            if is_seeker {
                later
            } else {
                Duration::ZERO
            }
        }
        Plan::SymmetricSide if own.is_symmetric() => later,
        Plan::SymmetricSide => return volleys(&one_per_ip(&candidates), Duration::ZERO, &OPENERS),
    };
    volleys(&candidates, begin, &SHOTS)
}

/// The shots at each of `candidates`, paced, in the order of time.
fn volleys(candidates: &[SocketAddr], begin: Duration, pattern: &[Duration]) -> Vec<Shot> {
    let at_one = |(to, n): (&SocketAddr, u32)| {
        let (to, begin) = (*to, begin + PACE * n);
        pattern.iter().map(move |shot| Shot { after: begin + *shot, to })
    };
    let mut shots: Vec<Shot> = candidates.iter().zip(0..).flat_map(at_one).collect();
    shots.sort_by_key(|shot| shot.after);
    shots
}

/// One of the public IPv4 addresses of each host: which port an opener goes to makes no difference.
fn one_per_ip(candidates: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for addr in candidates.iter().filter(|a| a.is_ipv4() && scope(a.ip()) == Scope::Global) {
        if found.iter().all(|known| known.ip() != addr.ip()) {
            found.push(*addr);
        }
    }
    found
}

/// The candidates worth a check, best first.
fn ordered(plan: Plan, local: &Local, own: &Side<'_>, theirs: &Side<'_>) -> Vec<SocketAddr> {
    let near = is_near(own, theirs);
    let nowhere_else = !theirs.candidates.iter().any(|a| scope(a.ip()) == Scope::Global);
    let worth = |a: &&SocketAddr| match scope(a.ip()) {
        Scope::Global => !near || plan == Plan::LocalFirst || a.is_ipv6(),
        // A private address of another network belongs to someone else here, or to nobody.
        Scope::Private => near || nowhere_else || local.shares_network(a.ip()),
        Scope::Loopback | Scope::LinkLocal | Scope::Unusable => nowhere_else,
    };
    let usable = theirs.candidates.iter().filter(|a| local.worth_dialling(**a)).filter(worth);
    let of_family = |a: &&SocketAddr| plan != Plan::OverIpv6 || a.is_ipv6();
    let mut found: Vec<SocketAddr> = usable.filter(of_family).copied().collect();
    found.sort_by_key(|a| (scope(a.ip()) == Scope::Global) == near);
    found
}
