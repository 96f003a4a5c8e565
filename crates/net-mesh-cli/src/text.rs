//! Small pieces of text for people: names, durations, amounts, addresses.

use std::time::Duration;

use crate::json::PathJson;

/// The longest name of a node, in bytes.
pub(crate) const MAX_NAME: usize = 64;

/// `text` with everything that could move a cursor replaced. Names come from other nodes, and must not
/// be able to write to the terminal of whoever lists them.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// `text` on one line.
pub(crate) fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    printable(&words.join(" "))
}

/// Checks a name given by the user: not empty, at most [`MAX_NAME`] bytes, printable.
///
/// # Errors
/// Says which rule it breaks.
pub(crate) fn parse_name(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("a name must not be empty".into());
    }
    if text.len() > MAX_NAME {
        return Err(format!("a name has at most {MAX_NAME} bytes, this one has {}", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err("a name must not contain control characters".into());
    }
    Ok(text.to_owned())
}

/// The host's name, as the name of a node that was not given one.
pub(crate) fn default_name() -> String {
    let host = gethostname::gethostname();
    let mut name = printable(&host.to_string_lossy());
    while name.len() > MAX_NAME {
        name.pop();
    }
    if name.trim().is_empty() { "node".into() } else { name }
}

/// Checks an address given as `HOST:PORT`, where the host is a name, an IPv4 address or an IPv6 address
/// in brackets. The name is not looked up.
///
/// # Errors
/// Says what is wrong with it.
pub(crate) fn parse_host_port(text: &str) -> Result<String, String> {
    const WANTED: &str =
        "expected HOST:PORT, for instance 203.0.113.7:4433, [2001:db8::7]:4433 or mesh.example:4433";
    let (host, port) = text.rsplit_once(':').ok_or(WANTED)?;
    if !port.parse::<u16>().is_ok_and(|port| port != 0) {
        return Err(format!("`{port}` is not a port from 1 to 65535; {WANTED}"));
    }
    let known = if let Some(inner) = host.strip_prefix('[') {
        inner.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok())
    } else {
        // RFC 1123 §2.1: letters, digits, hyphens and dots, at most 253 characters.
        !host.is_empty()
            && host.len() <= 253
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
    };
    if known { Ok(text.to_owned()) } else { Err(format!("`{host}` is not a host; {WANTED}")) }
}

/// Milliseconds with a resolution of a microsecond.
pub(crate) fn millis(duration: Duration) -> f64 {
    // Durations here are round-trip times and ages; 2^52 microseconds are 142 years.
    #[allow(clippy::cast_precision_loss)]
    let micros = duration.as_micros() as f64;
    micros / 1000.0
}

/// A time in milliseconds for people: `0.31 ms`, `31.2 ms`, `1204 ms`.
pub(crate) fn ms(value: f64) -> String {
    if value < 1.0 {
        format!("{value:.2} ms")
    } else if value < 100.0 {
        format!("{value:.1} ms")
    } else {
        format!("{value:.0} ms")
    }
}

/// An age for people, with one unit: `14 s`, `3 min`, `5 h`, `2 d`.
pub(crate) fn age(age_ms: u64) -> String {
    match age_ms / 1000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// An amount of bytes for people, in powers of 1000: `999 B`, `1.5 kB`, `12 MB`.
pub(crate) fn bytes(amount: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if amount < 1000 {
        return format!("{amount} B");
    }
    let (mut whole, mut tenth, mut unit) = (amount / 1000, amount % 1000 / 100, 0);
    while whole >= 1000 {
        (whole, tenth, unit) = (whole / 1000, whole % 1000 / 100, unit + 1);
    }
    let unit = UNITS[unit];
    if whole < 10 { format!("{whole}.{tenth} {unit}") } else { format!("{whole} {unit}") }
}

/// A share for people: `0 %`, `0.4 %`, `12 %`.
pub(crate) fn share(share: f32) -> String {
    let percent = share * 100.0;
    if percent == 0.0 || percent >= 9.95 { format!("{percent:.0} %") } else { format!("{percent:.1} %") }
}

/// A path for people: `direct 203.0.113.7:4433`, `relayed via fra-1 > nyc-2`, `none`.
pub(crate) fn path(path: &PathJson) -> String {
    let mut text = path.kind.clone();
    if let Some(addr) = &path.addr {
        text = format!("{text} {addr}");
    }
    if !path.via.is_empty() {
        let via: Vec<String> = path.via.iter().map(|name| printable(name)).collect();
        text = format!("{text} via {}", via.join(" > "));
    }
    text
}

/// The start of a printed node id, long enough to tell nodes apart and to be used in commands.
pub(crate) fn short_id(id: &str) -> &str {
    id.get(..10).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_cannot_write_escapes_to_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(one_line("two\n  lines\x07"), "two lines\u{fffd}");
    }

    #[test]
    fn names_are_short_printable_and_not_empty() {
        assert!(parse_name("laptop of Zoë").is_ok());
        assert!(parse_name(" ").is_err());
        assert!(parse_name(&"x".repeat(65)).is_err());
        assert!(parse_name("a\tb").is_err());
        assert!(parse_name(&default_name()).is_ok());
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["203.0.113.7:4433", "[2001:db8::7]:1", "mesh.example:65535", "localhost:9"] {
            assert_eq!(parse_host_port(good).as_deref(), Ok(good));
        }
        for bad in
            ["203.0.113.7", "host:0", "host:65536", ":1", "2001:db8::7:1", "[host]:1", "a b:1", "h,i:1"]
        {
            assert!(parse_host_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn amounts_have_one_unit_and_two_digits_that_matter() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_540), "1.5 kB");
        assert_eq!(bytes(123_456_789), "123 MB");
        assert_eq!(bytes(u64::MAX), "18 EB");
        assert_eq!(age(119_000), "119 s");
        assert_eq!(age(7_300_000), "2 h");
        assert_eq!([share(0.0), share(0.004), share(0.0996), share(1.0)], ["0 %", "0.4 %", "10 %", "100 %"]);
        assert_eq!(ms(0.314), "0.31 ms");
        assert_eq!(ms(31.24), "31.2 ms");
        assert_eq!(ms(1204.4), "1204 ms");
    }
}
