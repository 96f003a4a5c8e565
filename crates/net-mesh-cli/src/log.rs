//! How does the node tell what happens to it?
//!
//! One structured line per event that matters, on stderr: text for people, or JSON for what collects logs. Above
//! TRACE nothing is said per packet, and nothing that is secret is said at all.

use anyhow::anyhow;
use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The target of all lines of this program and its library, and the beginning of each.
const TARGET: &str = "net_mesh";

/// What a line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Words and fields, with colours on a terminal
    #[default]
    Text,
    /// One JSON object: `timestamp`, `level`, `target`, `message`, and the event's fields beside them
    Json,
}

/// What is let through where nothing else is said.
pub(crate) const DEFAULT: &str = "info";

/// Where directives come from that are not on the command line.
pub(crate) const VARIABLE: &str = "RUST_LOG";

/// Checks filter directives from the command line or the environment.
///
/// # Errors
/// Says what is wrong with them.
pub(crate) fn parse_filter(text: &str) -> Result<String, String> {
    check(text, std::env::var(VARIABLE).ok().as_deref())
}

/// Checks `text`, which comes from the environment if that has the same.
fn check(text: &str, environment: Option<&str>) -> Result<String, String> {
    let of_environment = environment == Some(text);
    if of_environment && text.trim().is_empty() {
        // A variable that is empty is one that is not set.
        return Ok(DEFAULT.to_owned());
    }
    let found = check_words(text)
        .and_then(|()| EnvFilter::try_new(text).map_err(|error| error.to_string()))
        .map(|_| text.to_owned());
    found.map_err(|why| if of_environment { format!("{why} (from {VARIABLE})") } else { why })
}

/// A word that is no level is a target to the filter, and all others are silenced: a slip of the pen would silence all.
fn check_words(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err("nothing would be logged: say `off` if that is meant".to_owned());
    }
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let bare = !word.contains(['=', '[', ']', '}']);
        let ours = word == TARGET || word.starts_with(&format!("{TARGET}::"));
        if bare && !ours && word.parse::<LevelFilter>().is_err() {
            return Err(format!(
                "`{word}` is no level: say off, error, warn, info, debug or trace, or TARGET=LEVEL, for instance {TARGET}=debug"
            ));
        }
    }
    Ok(())
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
mod messages_tests;
#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn a_slip_of_the_pen_is_no_filter() {
        for bad in ["inof", "nonsense", "", " ", "warn,nonsense", "net_mesh=inof", "net_meshes"] {
            assert!(check(bad, None).is_err(), "{bad:?}");
        }
        for good in [
            "off",
            "INFO",
            "warn,net_mesh=debug",
            "net_mesh",
            "net_mesh::driver,quinn=off",
            "[span]=trace",
            "info,",
        ] {
            assert_eq!(check(good, None).as_deref(), Ok(good));
        }
    }

    #[test]
    fn a_filter_of_the_environment_is_called_so_and_an_empty_one_is_none() {
        assert!(check("inof", Some("inof")).unwrap_err().contains("RUST_LOG"));
        assert!(!check("inof", Some("debug")).unwrap_err().contains("RUST_LOG"));
        assert_eq!(check("", Some("")).as_deref(), Ok("info"));
        assert!(check("", Some("debug")).is_err());
    }
}
