//! The `net-mesh` program: a node of a mesh, and the commands that talk to it.
//!
//! | file | the question it answers |
//! |---|---|
//! | `cmd/` | what does each subcommand do? One file each |
//! | `home` | where do keys and settings live, and who may read them? |
//! | `admin/` | how do the commands talk to the running node? |
//! | `metrics` | what does Prometheus get? |
//! | `log` | how does the node tell what happens to it? |
//! | `dashboard/` | what does the mesh look like, in a browser? |
//! | `doctor/` | can the node work where it is, and what would help? |
//! | `json` | which JSON is promised to others? |
//! | `table`, `text`, `stdout` | how does it look, and what if nobody reads it? |
//!
//! A command ends with 0 when it did its work, 1 with one line on stderr when it could not, and 2 when
//! it was called wrongly. `doctor` says in its report, on stdout, why the node cannot work, and ends with 1.

#[cfg(not(unix))]
compile_error!("net-mesh keeps its keys and its admin socket in files with Unix permissions");

mod admin;
mod cmd;
mod dashboard;
mod doctor;
mod home;
mod json;
mod log;
mod metrics;
mod stdout;
mod table;
mod text;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cmd::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough, which is how `| head` says goodbye.
        Err(error) if error.is::<stdout::Closed>() => ExitCode::SUCCESS,
        // The reason is in the report.
        Err(error) if error.is::<cmd::Unwell>() => ExitCode::FAILURE,
        Err(error) if error.is::<cmd::Misused>() => misused(&error),
        Err(error) => {
            let line = text::one_line(&format!("{error:#}"));
            // Nothing is left to do if stderr is closed too.
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("net-mesh: {line}\n"));
            ExitCode::FAILURE
        }
    }
}

fn misused(error: &anyhow::Error) -> ExitCode {
    if let Some(misused) = error.downcast_ref::<cmd::Misused>() {
        let _ = misused.said().print();
    }
    ExitCode::from(2)
}
