//! Processes that always end: commands with a deadline, and programs killed by their own id.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use patchbay::{Device, Router};

/// The longest any single command may take. Far above what any needs: only a hang reaches it.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// Lines of a log that are shown when a test fails: the end is where the reason is.
const SHOWN_LINES: usize = 120;

/// Where a process runs.
#[derive(Clone)]
pub(crate) enum Place {
    /// In the network of the machine; tests keep to its loopback.
    Here,
    /// In the network namespace of a host of a lab.
    Inside(Device),
    /// In that of a router of a lab.
    Router(Router),
}

impl Place {
    fn spawn(&self, mut command: Command) -> io::Result<Child> {
        match self {
            Self::Here => command.spawn(),
            Self::Inside(device) => device.spawn_command_sync(command).map_err(io::Error::other),
            Self::Router(router) => router.spawn_command_sync(command).map_err(io::Error::other),
        }
    }
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// The output of a command that must succeed.
    pub(crate) fn ok(self, what: &str) -> String {
        assert_eq!(self.code, Some(0), "{what} failed: {self:?}");
        self.stdout
    }

    /// The one line on stderr of a command that must fail at run time.
    pub(crate) fn failure(self, what: &str) -> String {
        assert_eq!(self.code, Some(1), "{what} must fail with 1: {self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{what} must say one line: {self:?}");
        self.stderr
    }
}

/// Runs a command to its end.
pub(crate) fn run(place: &Place, mut command: Command) -> Done {
    let what = format!("{command:?}");
    let dir = tempfile::tempdir().unwrap();
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    command.stdin(Stdio::null());
    command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
    let mut running = Running::start(place, command, err.clone());
    let status = running.wait(COMMAND_LIMIT);
    assert!(status.is_some(), "still running after {COMMAND_LIMIT:?}: {what}");
    let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    Done { code: status.and_then(|status| status.code()), stdout: text(&out), stderr: text(&err) }
}

/// A process in the background. Dropping it ends it.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Running {
    /// Starts `command`. `log` is where its stderr goes, shown when the test fails.
    pub(crate) fn start(place: &Place, command: Command, log: PathBuf) -> Self {
        let what = format!("{command:?}");
        let child = place.spawn(command).unwrap_or_else(|error| panic!("cannot start {what}: {error}"));
        Self { child, log, ended: None }
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits for the end; `None` if it has not come within `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = std::time::Instant::now() + limit;
        while self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
            if self.ended.is_none() {
                if std::time::Instant::now() >= deadline {
                    return None;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.ended
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.wait(Duration::ZERO).is_none()
    }

    /// Sends a signal by name, to this process only.
    pub(crate) fn signal(&mut self, name: &str) {
        assert!(self.is_running(), "ended already:\n{}", self.log());
        let command = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &command]).status().unwrap();
        assert!(status.success(), "{command}");
    }

    /// The largest resident set so far, in KiB (`VmHWM`).
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let skipped = log.lines().count().saturating_sub(SHOWN_LINES);
            let shown: String = log.lines().skip(skipped).map(|line| format!("{line}\n")).collect();
            let (path, id, ended) = (self.log.display(), self.child.id(), self.ended);
            eprintln!("--- end of {path}, of process {id} ({ended:?}) ---\n{shown}");
        }
    }
}

/// A program that must be there; the tests never look away from its absence.
pub(crate) fn program(name: &str, package: &str) -> PathBuf {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps some where only root's PATH looks.
    let dirs = std::env::split_paths(&dirs).chain([PathBuf::from("/usr/sbin")]);
    let found = dirs.map(|dir| dir.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing: install the package {package}"))
}

/// A UDP port of loopback that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// A TCP port of loopback that was free a moment ago.
pub(crate) fn free_tcp_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
