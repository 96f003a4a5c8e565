//! Programs the tests use that a Rust toolchain does not bring: find them, or install them, or name them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// A program, the Debian package that has it, and what cannot run without it.
struct Need {
    program: &'static str,
    package: &'static str,
    purpose: &'static str,
}

/// For the labs of real kernel NATs, the interoperation with STUN and Prometheus of others, and the page of the
/// dashboard.
const LABS: [Need; 11] = [
    Need { program: "nft", package: "nftables", purpose: "the NATs of the kernel labs" },
    Need { program: "ip", package: "iproute2", purpose: "the links of the kernel labs" },
    Need { program: "ss", package: "iproute2", purpose: "the gateways of the kernel labs" },
    Need {
        program: "miniupnpd",
        package: "miniupnpd-nftables",
        purpose: "asking a router of others for ports",
    },
    Need { program: "tc", package: "iproute2", purpose: "the links of the kernel labs" },
    Need { program: "unshare", package: "util-linux", purpose: "the full-disk test" },
    Need { program: "turnserver", package: "coturn", purpose: "asking a STUN server of others" },
    Need { program: "turnutils_stunclient", package: "coturn", purpose: "answering a STUN client of others" },
    Need { program: "promtool", package: "prometheus", purpose: "checking the metrics" },
    Need { program: "prometheus", package: "prometheus", purpose: "scraping the metrics" },
    Need { program: "chromium", package: "chromium", purpose: "looking at the dashboard" },
];

/// For the fuzz targets: libFuzzer is C++.
const FUZZ: [Need; 1] = [Need { program: "c++", package: "g++", purpose: "building the fuzz targets" }];

/// Makes sure that everything is there; fails with a list of what is not, and of what it is for.
///
/// Installs with apt-get as root on Debian and its kin; elsewhere it only looks.
pub(crate) fn ensure(labs: bool) -> Result<()> {
    let mut needs: Vec<&Need> = FUZZ.iter().collect();
    if labs {
        needs.extend(&LABS);
    }
    needs.retain(|need| !on_path(need.program));
    if !needs.is_empty() && on_path("apt-get") && is_root() {
        install(&needs)?;
        needs.retain(|need| !on_path(need.program));
    }
    let mut missing: Vec<String> = needs
        .iter()
        .map(|need| format!("  {} (Debian package {}): {}", need.program, need.package, need.purpose))
        .collect();
    if labs && missing.is_empty() && !succeeds("unshare", &["--user", "--map-root-user", "--net", "true"]) {
        missing.push("  user and network namespaces, which this system refuses: the kernel labs".to_owned());
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "missing, and needed for all tests to run:\n{}\n\
         Install what is missing (as root on Debian or Ubuntu this command does it), or run \
         `cargo xtask test --without-kernel-labs` to leave out the kernel labs, coturn, Prometheus and the browser",
        missing.join("\n")
    )
}

/// Whether a command can be started and exits with zero; its output is thrown away.
pub(crate) fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn on_path(program: &str) -> bool {
    // Debian keeps nft and tc where only root's PATH looks.
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(OsStr::new);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let listed: Vec<_> = std::env::split_paths(&path).collect();
    listed.iter().map(|dir| dir.as_os_str()).chain(system).any(|dir| Path::new(dir).join(program).is_file())
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn install(needs: &[&Need]) -> Result<()> {
    let mut packages: Vec<&str> = needs.iter().map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    eprintln!("\n==> installing {}", packages.join(" "));
    let _quiet = NoServices::new()?;
    apt(&["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(packages);
    apt(&arguments)
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["-o", "DPkg::Lock::Timeout=300"]).args(arguments).stdin(Stdio::null());
    command.env("DEBIAN_FRONTEND", "noninteractive");
    let status = command.status().context("cannot start apt-get")?;
    if !status.success() {
        bail!("apt-get {}: {status}", arguments.join(" "));
    }
    Ok(())
}

/// While it lives, installed packages do not start their services: nobody who runs tests asked for a
/// TURN server on all addresses. Debian's own switch for this is a policy file.
struct NoServices {
    ours: bool,
}

impl NoServices {
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    fn new() -> Result<Self> {
        if Path::new(Self::POLICY).exists() {
            return Ok(Self { ours: false });
        }
        fs::write(Self::POLICY, "#!/bin/sh\nexit 101\n").context("cannot write the policy for services")?;
        fs::set_permissions(Self::POLICY, fs::Permissions::from_mode(0o755))?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours && fs::remove_file(Self::POLICY).is_err() {
            eprintln!("xtask: cannot remove {}: remove it by hand", Self::POLICY);
        }
    }
}
