//! Small pieces of text for people: names, durations, amounts, addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::json::PathJson;

/// The longest name of a node, in bytes.
pub(crate) const MAX_NAME: usize = 64;

/// The longest name of a channel, in bytes.
const MAX_CHANNEL: usize = 255;

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
    let (host, port) =
        text.rsplit_once(':').ok_or_else(|| format!("`{}` has no port; {WANTED}", printable(text)))?;
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

/// Checks an address to listen on, given as `ADDR:PORT`.
///
/// # Errors
/// Says what to give instead.
pub(crate) fn parse_addr_port(text: &str) -> Result<SocketAddr, String> {
    if let Ok(addr) = text.parse() {
        return Ok(addr);
    }
    let named =
        parse_host_port(text).ok().and_then(|text| text.rsplit_once(':').map(|(_, port)| port.to_owned()));
    Err(match named {
        Some(port) => format!("an address, not a name: 127.0.0.1:{port}"),
        None => "expected ADDR:PORT, for instance 127.0.0.1:4433 or [::1]:4433".into(),
    })
}

/// Checks an address at which others are to reach this node: what [`parse_host_port`] takes, but no address that stands for
/// all or for many.
///
/// # Errors
/// Says what is wrong with it.
pub(crate) fn parse_reachable(text: &str) -> Result<String, String> {
    let text = parse_host_port(text)?;
    if let Ok(addr) = text.parse::<SocketAddr>() {
        let ip = addr.ip().to_canonical();
        if ip.is_unspecified() {
            return Err(format!("{ip} is where this node listens, not where others reach it"));
        }
        if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(format!("{ip} stands for many hosts, not for this node"));
        }
    }
    Ok(text)
}

/// Checks the name of a channel.
///
/// # Errors
/// Says which rule it breaks.
pub(crate) fn parse_channel(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a channel's name must not be empty".into());
    }
    if text.len() > MAX_CHANNEL {
        return Err(format!("a channel's name has at most {MAX_CHANNEL} bytes, this one has {}", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err("a channel's name must not contain control characters".into());
    }
    Ok(text.to_owned())
}

/// Checks what is given to find a member by.
///
/// # Errors
/// If it is empty, which would fit all of them.
pub(crate) fn parse_peer(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("give a member's name, or the start of its id".into())
    } else {
        Ok(text.to_owned())
    }
}

/// `word` as a shell takes it for one word.
pub(crate) fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%,=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
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
    fn an_address_to_listen_on_is_no_name() {
        assert_eq!(parse_addr_port("[::1]:7"), Ok("[::1]:7".parse().unwrap()));
        let error = parse_addr_port("localhost:5000").unwrap_err();
        assert_eq!(error, "an address, not a name: 127.0.0.1:5000");
        assert!(parse_addr_port("nowhere").unwrap_err().contains("ADDR:PORT"));
    }

    #[test]
    fn others_reach_one_host_and_not_all_or_many() {
        for good in ["203.0.113.7:4433", "127.0.0.1:1", "[2001:db8::7]:1", "mesh.example:4433"] {
            assert_eq!(parse_reachable(good).as_deref(), Ok(good));
        }
        let error = parse_reachable("0.0.0.0:4433").unwrap_err();
        assert_eq!(error, "0.0.0.0 is where this node listens, not where others reach it");
        for bad in [
            "[::]:1",
            "[::ffff:0.0.0.0]:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "[ff02::1]:1",
            "203.0.113.7:0",
        ] {
            assert!(parse_reachable(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn channels_and_members_have_names() {
        assert!(parse_channel(&"x".repeat(255)).is_ok() && parse_channel("\u{e9}t\u{e9}").is_ok());
        for bad in ["", "a\nb", &"x".repeat(256)] {
            assert!(parse_channel(bad).is_err(), "{bad:?}");
        }
        assert!(parse_peer("").is_err() && parse_peer("fra").is_ok());
    }

    #[test]
    fn a_word_for_the_shell_is_quoted_where_it_must_be() {
        assert_eq!(shell_word("/srv/beta_2"), "/srv/beta_2");
        assert_eq!(shell_word("my $HOME"), "'my $HOME'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
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
