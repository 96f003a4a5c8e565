//! `lab`.

use clap::Args;

/// Try it all in a small simulated internet
#[derive(Debug, Args)]
pub(super) struct Lab {
    /// Where all chance comes from: the same seed gives the same result
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Lab {
    pub(super) fn run(self) -> anyhow::Result<()> {
        anyhow::bail!("{} {}", self.seed, self.json)
    }
}
