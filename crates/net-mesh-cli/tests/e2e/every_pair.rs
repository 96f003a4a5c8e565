//! Every pair of NATs, through the real program: all at once in one mesh, and the hard ones cold and alone.

use std::time::Duration;

use crate::support::mesh::{Mesh, Pair, Way, talk};
use crate::support::net::{Behind, Net};

/// How long the pairs may take to have the ways they must have, from when they know of each other. A few
/// seconds are the rule; a machine with two processors and twelve unoptimised nodes is slow.
const ALL_PAIRS: Duration = Duration::from_secs(60);
const ONE_PAIR: Duration = Duration::from_secs(30);

const KINDS: [(&str, Behind); 5] = [
    ("no-nat", Behind::Nothing),
    ("full-cone", Behind::FullCone),
    ("restricted", Behind::RestrictedCone),
    ("port-restricted", Behind::PortRestricted),
    ("symmetric", Behind::Symmetric),
];

/// What packets alone can do: a new mapping for every destination never meets a filter that asks for the port.
fn way(left: Behind, right: Behind) -> Way {
    let picky = |behind| matches!(behind, Behind::PortRestricted | Behind::Symmetric);
    let hopeless = (left == Behind::Symmetric && picky(right)) || (right == Behind::Symmetric && picky(left));
    if hopeless { Way::Relayed { because: "symmetric" } } else { Way::Direct }
}

/// Two public nodes and one host of each kind on each side: all 25 pairs in one mesh.
#[test]
fn all_pairs_at_once() {
    let mut net = Net::new();
    let helpers = ["fra", "lon"].map(|name| net.host(name, Behind::Nothing));
    let mut hosts = Vec::new();
    for side in ["left", "right"] {
        hosts.extend(KINDS.iter().map(|(kind, behind)| net.host(&format!("{side}-{kind}"), *behind)));
    }
    let mesh = Mesh::around(helpers.into(), hosts);
    let mut pairs: Vec<Pair> = Vec::new();
    for (left, (left_kind, left_behind)) in KINDS.iter().enumerate() {
        for (right, (right_kind, right_behind)) in KINDS.iter().enumerate() {
            let places =
                (mesh.place(&format!("left-{left_kind}")), mesh.place(&format!("right-{right_kind}")));
            assert_eq!(places, (2 + left, 7 + right));
            pairs.push((places.0, places.1, way(*left_behind, *right_behind)));
        }
    }
    let relayed = pairs.iter().filter(|pair| pair.2 != Way::Direct).count();
    assert_eq!((pairs.len(), relayed), (25, 3));
    talk(&mesh, &pairs, ALL_PAIRS);
}

/// A mesh of four, so that nothing but the pair itself is going on.
fn one_pair(left: Behind, right: Behind) {
    let mut net = Net::new();
    let helpers = ["fra", "lon"].map(|name| net.host(name, Behind::Nothing));
    let hosts = [net.host("left", left), net.host("right", right)];
    let mesh = Mesh::around(helpers.into(), hosts.into());
    talk(&mesh, &[(2, 3, way(left, right))], ONE_PAIR);
}

#[test]
fn two_port_restricted_nats_alone() {
    one_pair(Behind::PortRestricted, Behind::PortRestricted);
}

#[test]
fn a_symmetric_nat_and_a_restricted_cone_alone() {
    one_pair(Behind::Symmetric, Behind::RestrictedCone);
}

#[test]
fn two_symmetric_nats_alone() {
    one_pair(Behind::Symmetric, Behind::Symmetric);
}
