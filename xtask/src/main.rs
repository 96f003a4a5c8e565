//! Chores of the project, each one command. `cargo xtask help` lists them.
//!
//! A chore is a list of steps. Every step is a command line that is printed before it runs, so that it
//! can be repeated by hand; all steps run even when one fails; a summary closes the run. Nothing is
//! skipped without a line in that summary.

mod fuzz;
#[cfg(test)]
mod links;
mod lint;
mod needs;
mod report;
mod test;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use report::{Cargo, Report};

const HELP: &str = "\
usage: cargo xtask COMMAND

  test [--without-kernel-labs]  every test: units, documentation, features, end to end on loopback and on
                                real kernel NATs, fuzz corpus and short fuzz runs. Installs what is missing
                                on Debian and Ubuntu as root, else names it
  lint                          formatting, clippy, documentation, dependencies; warnings are errors
  ci                            lint, then test
  fuzz [TARGET] [--seconds N]   fuzzes one target, or each in turn (60 seconds each), on the stable toolchain
  bench [ARGS]...               the benchmarks, optimised
  bench failover [RUNS]         how long events pause when networks fail, on real kernels

--without-kernel-labs leaves out the tests that need network namespaces, nftables, coturn, Prometheus or a
browser, and says so.
";

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Vec<String>) -> Result<ExitCode> {
    std::env::set_current_dir(report::root()?).context("cannot enter the root of the repository")?;
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    match command {
        "test" => {
            let mut report = Report::default();
            test::run(&mut report, labs_wanted(rest)?)?;
            Ok(report.finish())
        }
        "lint" => {
            let mut report = Report::default();
            lint::run(&mut report);
            Ok(report.finish())
        }
        "ci" => {
            let mut report = Report::default();
            let labs = labs_wanted(rest)?;
            lint::run(&mut report);
            test::run(&mut report, labs)?;
            Ok(report.finish())
        }
        "fuzz" => {
            let mut report = Report::default();
            let (target, seconds) = fuzz_arguments(rest)?;
            fuzz::run(&mut report, target, seconds)?;
            Ok(report.finish())
        }
        "bench" => {
            let mut report = Report::default();
            if let ["failover", runs @ ..] = &rest.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                report.step("failover on real kernels", failover(runs.first().unwrap_or(&"20")));
                return Ok(report.finish());
            }
            let mut cargo = Cargo::new("run --release --manifest-path bench/Cargo.toml --");
            cargo.args(rest);
            report.step("benchmarks", cargo);
            Ok(report.finish())
        }
        "help" | "-h" | "--help" => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        other => {
            eprint!("xtask: no command `{other}`\n\n{HELP}");
            Ok(ExitCode::from(2))
        }
    }
}

/// The faults of the end-to-end tests, each many times, with the optimised program.
fn failover(runs: &str) -> Cargo {
    let mut cargo = Cargo::new("test --release --locked -p net-mesh-cli --test e2e failover::figures --");
    cargo.args(["--ignored", "--nocapture"]);
    cargo.env("NET_MESH_RUNS", runs)
}

fn labs_wanted(arguments: &[String]) -> Result<test::Labs> {
    match arguments {
        [] => Ok(test::Labs::Required),
        [flag] if flag == "--without-kernel-labs" => Ok(test::Labs::LeftOut),
        _ => bail!("unknown arguments {arguments:?}; see `cargo xtask help`"),
    }
}

fn fuzz_arguments(arguments: &[String]) -> Result<(Option<&str>, u32)> {
    let (mut target, mut seconds) = (None, 60);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--seconds" {
            let value = rest.next().context("--seconds needs a number")?;
            seconds = value.parse().with_context(|| format!("--seconds {value}: not a number"))?;
        } else if argument.starts_with('-') || target.is_some() {
            bail!("unknown argument {argument}; see `cargo xtask help`");
        } else {
            target = Some(argument.as_str());
        }
    }
    Ok((target, seconds))
}
