//! What a change must satisfy before its tests are worth running.

use std::path::Path;

use crate::needs;
use crate::report::{Cargo, Report};

/// Formatting, lints, documentation and dependencies; every warning is an error.
pub(crate) fn run(report: &mut Report) {
    report.step("formatting", Cargo::new("fmt --all --check"));
    for separate in ["fuzz", "bench"] {
        let manifest = format!("{separate}/Cargo.toml");
        if Path::new(&manifest).exists() {
            let words = format!("fmt --manifest-path {manifest} --check");
            report.step(&format!("formatting of {separate}"), Cargo::new(&words));
        }
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
        report.step("dependencies", Cargo::new("deny --all-features check licenses bans sources"));
    } else {
        let why = "cargo-deny is missing: `cargo install --locked cargo-deny`";
        report.failed("dependencies", why.to_owned());
    }
}
