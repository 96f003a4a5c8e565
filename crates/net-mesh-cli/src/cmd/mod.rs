//! The command line: one file per subcommand.

mod create;
mod doctor;
#[cfg(test)]
mod flags_tests;
mod init;
mod invite;
mod join;
mod lab;
mod names;
mod peers;
mod ping;
mod publish;
mod status;
mod subscribe;
mod up;
mod why;

use std::future::Future;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};

pub(crate) use self::doctor::Unwell;
use crate::home::Home;

/// A node of a mesh that reaches others through their NATs, and the commands that talk to it.
#[derive(Debug, Parser)]
#[command(name = "net-mesh", version, about, max_term_width = 100, propagate_version = true)]
pub(crate) struct Cli {
    /// The directory of the node [default: $NET_MESH_HOME, else the platform's place for data]
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Init),
    Invite(invite::Invite),
    Join(join::Join),
    Up(up::Up),
    Status(status::StatusCommand),
    Peers(peers::Peers),
    Ping(ping::Ping),
    Why(why::WhyCommand),
    Doctor(doctor::Doctor),
    Publish(publish::Publish),
    Subscribe(subscribe::Subscribe),
    Lab(lab::Lab),
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// Says what failed and what to do.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let home = || Home::locate(self.home.as_deref(), std::env::var_os("NET_MESH_HOME"));
        match self.command {
            Command::Init(init) => init.run(&home()?),
            Command::Invite(invite) => invite.run(&home()?),
            Command::Join(join) => join.run(&home()?),
            Command::Up(up) => up.run(&home()?),
            Command::Status(status) => status.run(&home()?),
            Command::Peers(peers) => peers.run(&home()?),
            Command::Ping(ping) => ping.run(&home()?),
            Command::Why(why) => why.run(&home()?),
            Command::Doctor(doctor) => doctor.run(&home()?),
            Command::Publish(publish) => publish.run(&home()?),
            Command::Subscribe(subscribe) => subscribe.run(&home()?),
            Command::Lab(lab) => lab.run(),
        }
    }
}

/// A command was called wrongly, in a way that its flags one by one do not show.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(crate) struct Misused {
    command: &'static str,
    why: String,
}

impl Misused {
    fn new(command: &'static str, why: impl Into<String>) -> Self {
        Self { command, why: why.into() }
    }

    /// What stderr says, in the form of everything else that is called wrongly.
    pub(crate) fn said(&self) -> clap::Error {
        let mut cli = Cli::command();
        cli.build();
        let command = cli.find_subcommand_mut(self.command).map(std::mem::take);
        command.unwrap_or(cli).error(ErrorKind::ValueValidation, &self.why)
    }
}

/// Runs `work` on a runtime of one thread: packets then never travel between threads, which is faster,
/// and what a command does is in one order.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(work);
    // A name that is still being looked up must not keep the process.
    runtime.shutdown_background();
    result
}
