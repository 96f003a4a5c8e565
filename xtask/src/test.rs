//! All tests, with whatever test runner is there.

use anyhow::Result;

use crate::report::{Cargo, Report};
use crate::{fuzz, needs};

/// Whether the tests that need namespaces, nftables, coturn, Prometheus and a browser run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Labs {
    /// Something they need being absent is an error.
    Required,
    /// The user said to leave them out.
    LeftOut,
}

/// Modules of the end-to-end tests that need more than a loopback interface.
///
/// They are named by module, because both runners can leave out a module by its name.
const LAB_MODULES: [&str; 13] = [
    "on_a_real_kernel",
    "every_pair",
    "special_places",
    "bad_lines",
    "first_words",
    "failover",
    "network_changes",
    "port_mapping",
    "operators",
    "with_coturn",
    "with_prometheus",
    "in_a_browser",
    "doctor_in_a_lab",
];

/// The features of the program that is tested: all there are for users.
const FEATURES: &str = "--features port-mapping";

/// Length of each fuzz run: enough to find again what a handful of mutations of a seed can break,
/// short enough to stay a small part of the whole.
const FUZZ_SECONDS: u32 = 10;

pub(crate) fn run(report: &mut Report, labs: Labs) -> Result<()> {
    needs::ensure(labs == Labs::Required)?;
    if labs == Labs::LeftOut {
        let names = LAB_MODULES.join(", ");
        eprintln!("\n!!! LEFT OUT at your request: all tests in the modules {names}");
        report.left_out("kernel labs, coturn, Prometheus and the browser", "--without-kernel-labs");
    }
    suite(report, labs);
    report.step("documentation tests", Cargo::new(&format!("test --locked --workspace --doc {FEATURES}")));
    features(report, labs);
    fuzz::run(report, None, FUZZ_SECONDS)
}

fn suite(report: &mut Report, labs: Labs) {
    if has_nextest() {
        let mut cargo = nextest(&format!("--workspace {FEATURES}"));
        if labs == Labs::LeftOut {
            let lab = LAB_MODULES.map(|module| format!("test({module}::)")).join(" + ");
            cargo.args(["-E".to_owned(), format!("not ({lab})")]);
        }
        report.step("tests", cargo);
    } else {
        let mut cargo =
            Cargo::new(&format!("test --locked --no-fail-fast --workspace --all-targets {FEATURES}"));
        if labs == Labs::LeftOut {
            cargo.args(["--"]);
            cargo.args(
                LAB_MODULES.into_iter().flat_map(|module| ["--skip".to_owned(), format!("{module}::")]),
            );
        }
        report.step("tests", cargo);
    }
}

fn has_nextest() -> bool {
    needs::succeeds("cargo", &["nextest", "--version"])
}

fn nextest(what: &str) -> Cargo {
    let profile = if std::env::var_os("CI").is_some() { "ci" } else { "default" };
    Cargo::new(&format!("nextest run --locked --no-fail-fast --profile {profile} {what}"))
}

/// A feature adds an API and changes nothing else, so other combinations need to build; the one that
/// takes something away is tested.
///
/// The whole workspace is named each time: for one package alone cargo would build its dependencies anew.
fn features(report: &mut Report, labs: Labs) {
    if labs == Labs::Required {
        let without = "-p net-mesh-cli --test e2e";
        if has_nextest() {
            let mut cargo = nextest(without);
            cargo.args(["-E", "test(port_mapping::)"]);
            report.step("what a program without port mapping sends", cargo);
        } else {
            let cargo = Cargo::new(&format!("test --locked --no-fail-fast {without} port_mapping::"));
            report.step("what a program without port mapping sends", cargo);
        }
    }
    if has_nextest() {
        let mut cargo = nextest("--workspace --no-default-features");
        cargo.args(["-E", "package(net-mesh)"]);
        report.step("tests of the library without features", cargo);
    } else {
        let cargo =
            Cargo::new("test --locked --no-fail-fast -p net-mesh --no-default-features --all-targets");
        report.step("tests of the library without features", cargo);
    }
    for features in ["--no-default-features --features port-mapping", "--all-features"] {
        let words = format!("check --locked --workspace --all-targets {features}");
        report.step(&format!("build with {features}"), Cargo::new(&words));
    }
}
