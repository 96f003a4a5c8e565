//! What a change must satisfy before its tests are worth running.

use crate::needs;
use crate::report::{Cargo, Report};

/// Workspaces of their own: what they depend on must not enter the lock file of the product.
const SEPARATE: [&str; 2] = ["fuzz", "bench"];

/// Formatting, lints, documentation and dependencies; every warning is an error.
pub(crate) fn run(report: &mut Report) {
    report.step("formatting", Cargo::new("fmt --all --check"));
    for separate in SEPARATE {
        let words = format!("fmt --manifest-path {separate}/Cargo.toml --check");
        report.step(&format!("formatting of {separate}"), Cargo::new(&words));
        let words = format!(
            "clippy --locked --manifest-path {separate}/Cargo.toml --all-targets --target-dir target -- -D warnings"
        );
        report.step(&format!("clippy of {separate}"), Cargo::new(&words));
    }
    report.step("clippy", Cargo::new("clippy --locked --workspace --all-targets -- -D warnings"));
    let all = "clippy --locked --workspace --all-targets --features port-mapping -- -D warnings";
    report.step("clippy with port mapping", Cargo::new(all));
    // The whole workspace here too: for one package alone cargo would build its dependencies anew.
    let bare = "clippy --locked --workspace --all-targets --no-default-features -- -D warnings";
    report.step("clippy without features", Cargo::new(bare));
    let documentation = Cargo::new("doc --locked --workspace --no-deps").env("RUSTDOCFLAGS", "-D warnings");
    report.step("documentation", documentation);
    if needs::succeeds("cargo", &["deny", "--version"]) {
        for workspace in ["."].iter().chain(&SEPARATE) {
            let words = format!(
                "deny --manifest-path {workspace}/Cargo.toml --all-features --config deny.toml check \
                 --allow license-exception-not-encountered licenses bans sources"
            );
            report.step(&format!("dependencies of {workspace}"), Cargo::new(&words));
        }
    } else {
        let why = "cargo-deny is missing: `cargo install --locked cargo-deny`";
        report.failed("dependencies", why.to_owned());
    }
}
