//! Who is behind what in a plausible mesh: a mix of networks and NATs to draw nodes from.
//!
//! The shares are in `population.csv`; what a class of the table means is in [`Class`]. Within a class the rest is
//! drawn too: three quarters of port-restricted NATs preserve ports, half of the lax filters of symmetric ones
//! let in a whole IP, and a fifth of the random symmetric ones (21 %) spread their mappings over four IPs.
//! One generator, one population.

use std::fmt;
use std::time::Duration;

use net_mesh_proto::rng::Rng;

use crate::link::Link;
use crate::nat::{Chain, Dependence, Inside, Nat, Pool, Ports};

/// The mix that comes with the crate.
const STANDARD: &str = include_str!("population.csv");

/// Of port-restricted NATs, how many preserve ports.
const PRESERVING: f64 = 0.75;

/// Of symmetric NATs with random ports, how many give each mapping any of several external IPs (Richter et al. 2016).
const POOLED: f64 = 0.21;

/// What a network is like apart from its NATs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    /// A household.
    Home,
    /// A phone, behind its carrier.
    Mobile,
    /// A company or a campus.
    Enterprise,
    /// A data centre.
    Cloud,
}

impl Network {
    /// All four, in the order of the table's columns.
    pub const ALL: [Self; 4] = [Self::Home, Self::Mobile, Self::Enterprise, Self::Cloud];

    const fn name(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Mobile => "mobile",
            Self::Enterprise => "enterprise",
            Self::Cloud => "cloud",
        }
    }

    /// Its access links.
    fn link(self) -> Link {
        let (delay, jitter, loss) = match self {
            Self::Home => (8, 2, 0.001),
            Self::Mobile => (25, 10, 0.005),
            Self::Enterprise => (4, 1, 0.0),
            Self::Cloud => (1, 0, 0.0),
        };
        let [delay, jitter] = [delay, jitter].map(Duration::from_millis);
        Link { delay, jitter, loss, ..Link::default() }
    }

    /// A translator as such networks have them.
    const fn like_those_there(self, nat: Nat) -> Nat {
        match self {
            Self::Mobile => {
                Nat { idle: Duration::from_secs(60), hairpin: true, inside: Inside::Carrier, ..nat }
            }
            Self::Home | Self::Enterprise | Self::Cloud => nat,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What stands between a node and the public internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Nothing.
    Open,
    /// A stateful firewall, and no translator.
    Firewall,
    /// One mapping, anyone may send in.
    FullCone,
    /// One mapping, known IPs may send in.
    RestrictedCone,
    /// One mapping, known endpoints may send in.
    PortRestricted,
    /// A mapping per endpoint, and a filter that does not ask for the port.
    SymmetricLaxFilter,
    /// A mapping per endpoint, ports in sequence.
    SymmetricSequential,
    /// A mapping per endpoint, random ports.
    SymmetricRandom,
    /// UDP does not pass.
    UdpBlocked,
}

impl Class {
    /// All of them, in the order of the table's rows.
    pub const ALL: [Self; 9] = [
        Self::Open,
        Self::Firewall,
        Self::FullCone,
        Self::RestrictedCone,
        Self::PortRestricted,
        Self::SymmetricLaxFilter,
        Self::SymmetricSequential,
        Self::SymmetricRandom,
        Self::UdpBlocked,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Firewall => "firewall",
            Self::FullCone => "full-cone",
            Self::RestrictedCone => "restricted-cone",
            Self::PortRestricted => "port-restricted",
            Self::SymmetricLaxFilter => "symmetric-lax-filter",
            Self::SymmetricSequential => "symmetric-sequential",
            Self::SymmetricRandom => "symmetric-random",
            Self::UdpBlocked => "udp-blocked",
        }
    }

    fn nat(self, rng: &mut Rng) -> Option<Nat> {
        Some(match self {
            Self::Open => return None,
            Self::Firewall => Nat::firewall(),
            Self::FullCone => Nat::full_cone(),
            Self::RestrictedCone => Nat::restricted_cone(),
            Self::PortRestricted if rng.chance(PRESERVING) => Nat::port_restricted(),
            Self::PortRestricted => Nat::port_restricted().with_ports(Ports::Random),
            Self::SymmetricLaxFilter => {
                let lax = if rng.chance(0.5) { Dependence::Independent } else { Dependence::Address };
                Nat::new(Dependence::AddressAndPort, lax)
            }
            Self::SymmetricSequential => Nat::symmetric().with_ports(Ports::Sequential { step: 1 }),
            Self::SymmetricRandom if rng.chance(POOLED) => Nat::symmetric().with_pool(Pool::Arbitrary(4)),
            Self::SymmetricRandom => Nat::symmetric(),
            Self::UdpBlocked => Nat::udp_blocked(),
        })
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The place of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Resident {
    /// In what kind of network it is.
    pub network: Network,
    /// What stands before it.
    pub class: Class,
    /// The same, to build it.
    pub chain: Chain,
    /// Its access link, in both directions.
    pub link: Link,
}

/// Why a table of shares was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MixError(String);

impl fmt::Display for MixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for MixError {}

/// A mix of networks and classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix {
    networks: [u64; Network::ALL.len()],
    /// Per network.
    classes: [[u64; Class::ALL.len()]; Network::ALL.len()],
}

impl Mix {
    /// The mix that comes with the crate.
    ///
    /// # Panics
    /// Never: a test reads it.
    #[must_use]
    pub fn standard() -> Self {
        match Self::parse(STANDARD) {
            Ok(mix) => mix,
            Err(error) => unreachable!("population.csv: {error}"),
        }
    }

    /// Reads a table of shares in percent, as `population.csv` has it.
    ///
    /// # Errors
    /// Where a row or a column is missing or unknown, or does not add up to 100.
    pub fn parse(text: &str) -> Result<Self, MixError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut rows = lines.map(|line| line.split(',').map(str::trim).collect::<Vec<_>>());
        let columns: Vec<&str> = ["share"].into_iter().chain(Network::ALL.map(Network::name)).collect();
        if rows.next().as_ref() != Some(&columns) {
            return Err(MixError(format!("the first row must be {}", columns.join(", "))));
        }
        let mut next = |name: &str| {
            let row = rows.next().filter(|row| row.first() == Some(&name));
            numbers(row.ok_or_else(|| MixError(format!("the row {name} is missing here")))?)
        };
        let networks = next("nodes")?;
        let mut classes = [[0; Class::ALL.len()]; Network::ALL.len()];
        for (i, class) in Class::ALL.into_iter().enumerate() {
            let shares = next(class.name())?;
            (0..Network::ALL.len()).for_each(|network| classes[network][i] = shares[network]);
        }
        if let Some(row) = rows.next() {
            return Err(MixError(format!("there is no class {}", row.join(", "))));
        }
        let whole = |shares: &[u64]| shares.iter().sum::<u64>() == 100;
        if !whole(&networks) || !classes.iter().all(|column| whole(column)) {
            return Err(MixError("nodes and every column must add up to 100".into()));
        }
        Ok(Self { networks, classes })
    }

    /// The next node.
    pub fn draw(&self, rng: &mut Rng) -> Resident {
        let at = pick(&self.networks, rng);
        let network = Network::ALL[at];
        let class = Class::ALL[pick(&self.classes[at], rng)];
        let nat = class.nat(rng).map(|nat| network.like_those_there(nat));
        Resident { network, class, chain: Chain(nat.into_iter().collect()), link: network.link() }
    }
}

fn numbers<const N: usize>(row: Vec<&str>) -> Result<[u64; N], MixError> {
    let bad = || MixError(format!("not {N} numbers: {}", row.join(", ")));
    let numbers: Option<Vec<u64>> = row.iter().skip(1).map(|share| share.parse().ok()).collect();
    numbers.and_then(|numbers| numbers.try_into().ok()).ok_or_else(bad)
}

/// An index, as often as its share says.
fn pick(shares: &[u64], rng: &mut Rng) -> usize {
    let mut left = rng.below(shares.iter().sum());
    for (i, share) in shares.iter().enumerate() {
        if left < *share {
            return i;
        }
        left -= share;
    }
    0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn many_nodes_are_distributed_as_the_table_says() {
        let (mix, mut rng) = (Mix::standard(), Rng::from_u64(1));
        let mut counts: BTreeMap<(Network, Class), u32> = BTreeMap::new();
        let mut pooled = 0;
        for _ in 0..100_000 {
            let resident = mix.draw(&mut rng);
            *counts.entry((resident.network, resident.class)).or_default() += 1;
            pooled += u32::from(resident.chain.0.iter().any(|nat| nat.pool.size() > 1));
        }
        let share = |network, class| counts.get(&(network, class)).copied().unwrap_or(0);
        // 60 % of 66 %, 20 % of 26 %, 8 % of 12 %, 12 % of 60 %.
        assert!((38_900..40_300).contains(&share(Network::Home, Class::PortRestricted)), "{counts:?}");
        assert!((4_900..5_500).contains(&share(Network::Mobile, Class::SymmetricRandom)), "{counts:?}");
        assert!((840..1_080).contains(&share(Network::Enterprise, Class::UdpBlocked)), "{counts:?}");
        assert!((6_900..7_500).contains(&share(Network::Cloud, Class::Open)), "{counts:?}");
        assert_eq!(share(Network::Cloud, Class::FullCone), 0);
        // 21 % of the 11.8 % that are symmetric with random ports.
        assert!((2_250..2_700).contains(&pooled), "{pooled}");
    }

    #[test]
    fn one_seed_gives_one_population() {
        let draw = |seed| {
            let mut rng = Rng::from_u64(seed);
            (0..50).map(|_| Mix::standard().draw(&mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }

    #[test]
    fn a_table_that_does_not_add_up_is_refused() {
        assert!(Mix::parse(STANDARD).is_ok());
        for (from, to) in [
            ("60,     20", "61,     20"),
            ("restricted-cone,", "cone,"),
            ("home, mobile", "mobile, home"),
            ("66", "x"),
        ] {
            assert!(Mix::parse(&STANDARD.replacen(from, to, 1)).is_err(), "{to}");
        }
        assert!(Mix::parse(&format!("{STANDARD}teapot, 0, 0, 0, 0\n")).is_err());
    }
}
