//! Fuzzing on the stable toolchain.
//!
//! `cargo fuzz` wants a nightly compiler for its sanitizers. Coverage alone does not: LLVM's pass and
//! libFuzzer do all that is needed to find panics and overflows in safe Rust. The same directory
//! works with `cargo fuzz` for those who have it.
//!
//! Flow: build all targets into a target directory of their own (other flags must not rebuild the
//! workspace), replay the committed corpus, then mutate for a while. New inputs go to the target
//! directory, never into the committed corpus.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::report::{Cargo, Report};

const TARGET_DIR: &str = "target/fuzz";

/// Longest input in bytes. Past a datagram's 64 KiB nothing new can be reached.
const LONGEST: u32 = 65_536;

/// Resident memory that fails a target, in MiB: no decoder may need more than a small multiple of its input.
const MEMORY_MIB: u32 = 1_024;

/// A single input that takes longer, in seconds, is a finding.
const SLOWEST: u32 = 10;

const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1";

pub(crate) fn run(report: &mut Report, only: Option<&str>, seconds: u32) -> Result<()> {
    let mut targets = targets()?;
    if let Some(only) = only {
        if !targets.iter().any(|target| target == only) {
            bail!("no fuzz target `{only}`; there are: {}", targets.join(" "));
        }
        targets.retain(|target| target == only);
    }
    let host = host()?;
    let build = format!(
        "build --locked --release --bins --manifest-path fuzz/Cargo.toml --target {host} --target-dir {TARGET_DIR}"
    );
    if !report.step("build of the fuzz targets", Cargo::new(&build).env("RUSTFLAGS", RUSTFLAGS)) {
        return Ok(());
    }
    for target in &targets {
        let program = Path::new(TARGET_DIR).join(&host).join("release").join(target);
        one(report, &program, target, seconds)?;
    }
    Ok(())
}

fn one(report: &mut Report, program: &Path, target: &str, seconds: u32) -> Result<()> {
    let seeds = PathBuf::from("fuzz/corpus").join(target);
    if fs::read_dir(&seeds).map_or(0, Iterator::count) == 0 {
        report.failed(&format!("fuzz {target}"), format!("no seeds in {}", seeds.display()));
        return Ok(());
    }
    let found = PathBuf::from(TARGET_DIR).join("corpus").join(target);
    let artifacts = PathBuf::from(TARGET_DIR).join("artifacts").join(target);
    for dir in [&found, &artifacts] {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let common = [
        format!("-artifact_prefix={}/", artifacts.display()),
        format!("-rss_limit_mb={MEMORY_MIB}"),
        format!("-timeout={SLOWEST}"),
        format!("-max_len={LONGEST}"),
    ];
    let mut replay = Command::new(program);
    replay.args(&common).arg("-runs=0").arg(&seeds);
    let replayed = report.step(&format!("replay of the corpus of {target}"), replay);
    if replayed && seconds > 0 {
        let mut mutate = Command::new(program);
        mutate
            .args(&common)
            .args(["-verbosity=0", "-print_final_stats=1"])
            .arg(format!("-max_total_time={seconds}"));
        mutate.args([&found, &seeds]);
        report.step(&format!("fuzz {target} for {seconds} s"), mutate);
    }
    Ok(())
}

/// The targets are the files in their directory.
fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir("fuzz/fuzz_targets").context("cannot list fuzz/fuzz_targets")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The host's target triple: naming it keeps the flags away from build scripts.
fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot start rustc")?;
    let text = String::from_utf8(output.stdout).context("rustc -vV printed no text")?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}
