//! How does the node tell what happens to it?
//!
//! One structured line per event that matters, on stderr: text for people, or JSON for what collects logs. Above
//! TRACE nothing is said per packet, and nothing that is secret is said at all.

use anyhow::anyhow;
use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// What a line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Words and fields, with colours on a terminal
    #[default]
    Text,
    /// One JSON object: `timestamp`, `level`, `target`, `message`, and the event's fields beside them
    Json,
}

/// Checks filter directives.
///
/// # Errors
/// Says what is wrong with them.
pub(crate) fn parse_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Starts to log to stderr what `filter` lets through.
///
/// # Errors
/// If the filter is none, or something logs already.
pub(crate) fn start(filter: &str, format: Format) -> anyhow::Result<()> {
    use std::io::IsTerminal as _;
    let log =
        tracing_subscriber::fmt().with_env_filter(EnvFilter::try_new(filter)?).with_writer(std::io::stderr);
    let started = match format {
        Format::Text => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => {
            log.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
        }
    };
    started.map_err(|error| anyhow!("cannot start logging: {error}"))
}
