//! Steps: run one, remember how it went, and say so at the end.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// The root of the repository, wherever the chore was started from.
pub(crate) fn root() -> Result<PathBuf> {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest.parent().context("xtask is not inside the repository")?.to_path_buf())
}

/// A cargo command line, with the toolchain that started this program.
pub(crate) struct Cargo {
    command: Command,
}

impl Cargo {
    /// `words` are split at blanks: none of ours holds one inside a word.
    pub(crate) fn new(words: &str) -> Self {
        let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(program);
        command.args(words.split_whitespace());
        Self { command }
    }

    pub(crate) fn args(&mut self, more: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.command.args(more);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }
}

impl From<Cargo> for Command {
    fn from(cargo: Cargo) -> Self {
        cargo.command
    }
}

enum Outcome {
    Passed,
    Failed(String),
    LeftOut(String),
}

struct Step {
    name: String,
    took: Duration,
    outcome: Outcome,
}

/// What ran, in order.
#[derive(Default)]
pub(crate) struct Report {
    steps: Vec<Step>,
}

impl Report {
    /// Runs a command as a step; true when it exited with zero.
    pub(crate) fn step(&mut self, name: &str, command: impl Into<Command>) -> bool {
        let mut command = command.into();
        announce(name, &command);
        let start = Instant::now();
        let outcome = match command.status() {
            Ok(status) if status.success() => Outcome::Passed,
            Ok(status) => Outcome::Failed(status.to_string()),
            Err(error) => Outcome::Failed(format!("cannot start: {error}")),
        };
        self.note(name, start.elapsed(), outcome)
    }

    /// Records a step that could not even be tried.
    pub(crate) fn failed(&mut self, name: &str, why: String) {
        self.note(name, Duration::ZERO, Outcome::Failed(why));
    }

    /// Records a step that the caller chose to leave out.
    pub(crate) fn left_out(&mut self, name: &str, why: &str) {
        self.note(name, Duration::ZERO, Outcome::LeftOut(why.to_owned()));
    }

    fn note(&mut self, name: &str, took: Duration, outcome: Outcome) -> bool {
        let passed = matches!(outcome, Outcome::Passed);
        self.steps.push(Step { name: name.to_owned(), took, outcome });
        passed
    }

    /// Prints what ran and turns it into an exit code.
    pub(crate) fn finish(self) -> ExitCode {
        let mut text = String::from("\n==> summary\n");
        let mut failures = 0;
        for step in &self.steps {
            let seconds = step.took.as_secs_f64();
            let (word, why) = match &step.outcome {
                Outcome::Passed => ("ok", ""),
                Outcome::Failed(why) => ("FAILED", why.as_str()),
                Outcome::LeftOut(why) => ("LEFT OUT", why.as_str()),
            };
            failures += usize::from(matches!(step.outcome, Outcome::Failed(_)));
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{word:>9} {seconds:7.1} s  {}  {why}", step.name);
        }
        eprint!("{text}");
        if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn announce(name: &str, command: &Command) {
    let mut line = String::new();
    for (variable, value) in command.get_envs() {
        if let Some(value) = value {
            let _ = write!(line, "{}={:?} ", variable.to_string_lossy(), value.to_string_lossy());
        }
    }
    let program = PathBuf::from(command.get_program());
    line.push_str(&program.file_name().unwrap_or(program.as_os_str()).to_string_lossy());
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    eprintln!("\n==> {name}\n    {line}");
}
