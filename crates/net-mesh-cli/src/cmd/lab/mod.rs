//! `lab`: whole nodes in a simulated internet, one behind each kind of NAT, and who reaches whom.
//!
//! No network, no privileges, virtual time. What is expected comes from the topology alone, by the
//! simulator's oracle; what is reported comes from the nodes alone, by the interfaces any user has.
//!
//! | file | what |
//! |---|---|
//! | `world` | the small internet, who is in it, and what must come true there |
//! | `run` | the nodes' lives: start, meet, publish, and what was seen |
//! | `cold` | pairs that never spoke: how long the first event and a direct way take |
//! | `report` | the result as JSON and for people |
//! | `progress` | the line on stderr |

mod cold;
mod progress;
mod report;
mod run;
mod world;

use anyhow::{Context as _, bail};
use clap::Args;

use self::progress::Progress;
use self::report::Report;
use self::world::World;
use crate::{log, stdout};

/// Try it all in a small simulated internet: one node behind each kind of NAT
///
/// Needs no network and no privileges. Equal seeds give equal output. Ends with 1 if anything differs from
/// what the simulated topology allows.
#[derive(Debug, Args)]
pub(super) struct Lab {
    /// Where all chance comes from: keys, distances, ports
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// What a line of the log looks like, where `RUST_LOG` asks for one
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    log_format: log::Format,
}

impl Lab {
    pub(super) fn run(self) -> anyhow::Result<()> {
        if !cfg!(feature = "nat-traversal") {
            bail!("this program was built without NAT traversal: build it with the feature `nat-traversal`");
        }
        if let Ok(filter) = std::env::var(log::VARIABLE)
            && !filter.is_empty()
        {
            let filter = log::parse_filter(&filter).map_err(|why| super::Misused::new("lab", why))?;
            log::start(&filter, self.log_format)?;
        }
        let (world, internet) = World::new(self.seed);
        // Paused: time jumps to the next thing that happens, and nothing depends on this machine's speed.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .context("cannot start the runtime")?;
        let mut progress = Progress::new();
        let observed = runtime.block_on(run::run(&world, internet, &mut progress));
        progress.show("pairs that never spoke", "");
        let cold = runtime.block_on(cold::run(self.seed));
        progress.end();
        let report = Report::new(&world, &observed?, cold?);
        if self.json {
            stdout::line(&serde_json::to_string_pretty(&report.json)?)?;
        } else {
            stdout::write(report.human().as_bytes())?;
        }
        let wrong = report.wrong();
        if wrong.is_empty() {
            return Ok(());
        }
        bail!(
            "not everything is as it should be: {}; please report it with the seed {}",
            wrong.join("; "),
            self.seed
        )
    }
}
