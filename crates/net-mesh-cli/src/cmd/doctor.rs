//! `doctor`: can this node work here, and what would help?
//!
//! What it says is in the report, on standard output, also where that is bad news; the last line is the reason. Whether
//! the news is bad is in the exit code.

use clap::Args;

use crate::admin::client::{Client, Nobody};
use crate::doctor::{Report, absent, anonymized};
use crate::home::Home;
use crate::stdout;

/// The node cannot do its work, and that has been said.
#[derive(Debug, thiserror::Error)]
#[error("this node cannot work")]
pub(crate) struct Unwell;

/// Say whether this node can work where it is, and what would help
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Replace addresses, names and ids, each by the same one throughout, so that it can be posted
    #[arg(long)]
    anonymize: bool,
    /// Say which single change would make most pairs of the mesh direct
    #[arg(long)]
    mesh: bool,
}

impl Doctor {
    pub(super) fn run(self, home: &Home) -> anyhow::Result<()> {
        super::block_on(async {
            // Also where it cannot be told: the report says why.
            if !home.exists().unwrap_or(false) {
                return self.show(absent(home).await);
            }
            let client = Client::new(home);
            let answer = if self.mesh {
                client.advice().await.map(|advice| self.show(advice))
            } else {
                client.doctor().await.map(|facts| self.show(facts))
            };
            match answer {
                Ok(shown) => shown,
                Err(error) if error.is::<Nobody>() => self.show(absent(home).await),
                Err(error) => Err(error),
            }
        })
    }

    fn show<R: Report>(&self, mut report: R) -> anyhow::Result<()> {
        report.conclude();
        if self.anonymize {
            report = anonymized(&report)?;
        }
        let text = if self.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.text() };
        stdout::write(text.as_bytes())?;
        if report.can_work() { Ok(()) } else { Err(Unwell.into()) }
    }
}
