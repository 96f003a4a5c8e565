//! A node of the real program: its home, its commands, its process.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::process::{Done, Place, Running, run};
use super::wait_until;

/// How long a node may take from its start to its first answer.
const START_LIMIT: Duration = Duration::from_secs(15);

/// A home directory, and the place where its node and its commands run.
pub(crate) struct Home {
    dir: TempDir,
    place: Place,
}

impl Home {
    pub(crate) fn new(place: Place) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), place }
    }

    /// A home on loopback.
    pub(crate) fn here() -> Self {
        Self::new(Place::Here)
    }

    /// The directory given as `--home`; `init` and `join` make it.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// A file beside the home.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = net_mesh(&self.path());
        command.args(arguments);
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        run(&self.place, self.command(arguments))
    }

    /// Runs a command that must succeed, for its output.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).ok(&arguments.join(" "))
    }

    /// Runs a command that must succeed and print JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(arguments);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// A new mesh.
    pub(crate) fn init(&self, name: &str) {
        self.ok(&["init", "--name", name]);
    }

    /// The ticket of this home's mesh, with addresses to start from.
    pub(crate) fn invite(&self, addrs: &[SocketAddr]) -> String {
        let addrs: Vec<String> = addrs.iter().map(ToString::to_string).collect();
        let mut arguments = vec!["invite"];
        for addr in &addrs {
            arguments.extend(["--addr", addr]);
        }
        self.ok(&arguments).trim().to_owned()
    }

    pub(crate) fn join(&self, ticket: &str, name: &str) {
        self.ok(&["join", ticket, "--name", name]);
    }

    /// Starts the node and waits until it answers.
    pub(crate) fn up(&self, arguments: &[&str]) -> Node<'_> {
        let mut node = self.start(arguments);
        node.wait_until_it_answers();
        node
    }

    /// Starts the node without waiting for anything.
    pub(crate) fn start(&self, arguments: &[&str]) -> Node<'_> {
        let log = self.dir.path().join("log");
        let mut command = self.command(&["up"]);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(&log).unwrap());
        Node { home: self, process: Running::start(&self.place, command, log) }
    }

    /// Starts a command in the background; its stderr is kept in a file beside the home.
    pub(crate) fn background(&self, arguments: &[&str], stdin: Stdio, stdout: Stdio) -> Running {
        let log = self.dir.path().join(format!("{}.err", arguments[0]));
        let mut command = self.command(arguments);
        command.stdin(stdin).stdout(stdout).stderr(File::create(&log).unwrap());
        Running::start(&self.place, command, log)
    }
}

/// A running node.
pub(crate) struct Node<'a> {
    home: &'a Home,
    pub(crate) process: Running,
}

impl Node<'_> {
    /// Waits until the node answers its commands.
    pub(crate) fn wait_until_it_answers(&mut self) {
        let Self { home, process } = self;
        wait_until("the node answers", START_LIMIT, || {
            assert!(process.is_running(), "the node ended:\n{}", process.log());
            (home.run(&["status", "--json"]).code == Some(0)).then_some(())
        });
    }

    pub(crate) fn status(&self) -> Value {
        self.home.json(&["status", "--json"])
    }

    pub(crate) fn peers(&self) -> Vec<Value> {
        match self.home.json(&["peers", "--json"]) {
            Value::Array(peers) => peers,
            other => panic!("`peers --json` is no array: {other}"),
        }
    }

    /// Waits until `peers` lists all of `names` with a direct path.
    pub(crate) fn wait_for_direct_peers(&self, names: &[&str], limit: Duration) {
        let what = format!("direct paths to {names:?}");
        wait_until(&what, limit, || {
            let peers = self.peers();
            let direct = |name: &&str| {
                peers.iter().any(|peer| peer["name"] == **name && peer["path"]["kind"] == "direct")
            };
            names.iter().all(direct).then_some(())
        });
    }

    /// Waits for a status that satisfies `wanted`; fails with the last one seen.
    pub(crate) fn wait_for_status(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = std::time::Instant::now() + limit;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(std::time::Instant::now() < deadline, "{what}: not within {limit:?}: {status:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops the node as an operator does; it must end well, and must have logged no error.
    pub(crate) fn stop(mut self) {
        self.process.signal("TERM");
        let status = self.process.wait(Duration::from_secs(10));
        let log = self.process.log();
        assert_eq!(status.and_then(|status| status.code()), Some(0), "after SIGTERM:\n{log}");
        assert!(!log.contains("ERROR"), "an error was logged:\n{log}");
    }
}

/// The program under test, told its home and nothing from the environment of whoever runs the tests.
pub(crate) fn net_mesh(home: &Path) -> Command {
    let built = env!("CARGO_BIN_EXE_net-mesh").into();
    let mut command = Command::new(std::env::var_os("NET_MESH_BIN").unwrap_or(built));
    command.env_remove("NET_MESH_HOME").env_remove("RUST_LOG").env("RUST_BACKTRACE", "1");
    command.arg("--home").arg(home);
    command
}
