//! The simulated internet that the program carries: whole nodes, in virtual time.

use serde_json::Value;

use crate::support::node::net_mesh;

fn lab(seed: u64) -> (bool, Vec<u8>, String) {
    // It has no home, and needs none.
    let mut command = net_mesh("/nonexistent".as_ref());
    let out = command.args(["lab", "--json", "--seed", &seed.to_string()]).output().unwrap();
    (out.status.success(), out.stdout, String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn every_node_finds_out_its_nat_and_every_pair_does_what_its_topology_allows() {
    for seed in 1..=10 {
        let (success, stdout, stderr) = lab(seed);
        assert!(success, "seed {seed}: {stderr}");
        let report: Value = serde_json::from_slice(&stdout).unwrap();
        assert_eq!(report["seed"], seed);
        let nodes = report["nodes"].as_array().unwrap();
        for kind in ["direct", "full-cone", "restricted-cone", "port-restricted", "symmetric"] {
            assert!(nodes.iter().any(|n| n["actual"] == kind), "seed {seed}: no node is behind {kind}");
        }
        for node in nodes {
            assert_eq!(node["found"], node["actual"], "seed {seed}: {node}");
        }
        let pairs = report["pairs"].as_array().unwrap();
        assert_eq!(pairs.len(), nodes.len() * (nodes.len() - 1));
        for pair in pairs {
            assert_eq!(pair["path"], pair["expected"], "seed {seed}: {pair}");
            let published = pair["published"].as_u64().unwrap();
            let expected = if pair["path"] == "none" { 0 } else { published };
            assert!(published > 0 && pair["delivered"] == expected, "seed {seed}: {pair}");
        }
    }
}

#[test]
fn one_seed_gives_one_output_to_the_byte_and_another_seed_another() {
    let first = lab(7).1;
    assert_eq!(first, lab(7).1);
    assert_ne!(first, lab(8).1);
}
