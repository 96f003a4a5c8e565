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

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Everything in `docs/logs.md` is said somewhere, with these fields.
    #[test]
    fn the_documentation_has_what_is_said() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
        let sources = ["net-mesh/src/driver.rs", "net-mesh-cli/src/cmd/up.rs", "net-mesh-cli/src/metrics.rs"]
            .map(|path| read(&format!("crates/{path}")))
            .concat();
        let mut rows = 0;
        let text = read("docs/logs.md");
        for row in text
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .filter(|row| !row.starts_with("message`"))
        {
            let cells: Vec<&str> = row.split('|').collect();
            let words = |cell: &str| cell.split('`').map(str::to_owned).collect::<Vec<_>>();
            // What stands between backquotes; the first one was taken away above.
            for message in words(cells[0]).iter().step_by(2).filter(|text| !text.trim().is_empty()) {
                let said = format!("\"{}", message.trim_end_matches("..."));
                assert!(sources.contains(&said), "nothing says {message:?}");
            }
            for field in words(cells[2]).iter().skip(1).step_by(2) {
                let given =
                    [" = ", ",", " }"].iter().any(|after| sources.contains(&format!("{field}{after}")));
                assert!(given, "nothing has the field {field}");
            }
            rows += 1;
        }
        assert!(rows >= 12);
    }
}
