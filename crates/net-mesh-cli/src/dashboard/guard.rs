//! May this request be answered?
//!
//! A browser lets every page send requests to every address, and lets a page read the answers of the name it came
//! from, whatever address that name leads to by now. So the page of a stranger must not be able to read this one by
//! a name of its own (DNS rebinding), nor to use it from afar. A request is answered if all of this holds:
//!
//! - its method is GET or HEAD;
//! - it has one `Host`, and this is the address that is listened on, or `localhost`, with the port;
//! - an absolute request target names the same;
//! - `Origin`, where it is sent, is the page's own;
//! - `Sec-Fetch-Site`, where it is sent, is not another site's, unless somebody follows a link to the page.
//!
//! Where all addresses are listened on, any IP address will do as `Host`: only a name can be made to lead elsewhere.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::http::{HeaderMap, Method, StatusCode, Uri, header};

/// The port of `http://` that a `Host` need not name (RFC 9110 §4.2.1).
const HTTP_PORT: u16 = 80;

/// Knows the names of this dashboard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guard {
    addr: SocketAddr,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing here can be changed.
    Method,
    /// No `Host`, or several (RFC 9112 §3.2).
    NoHost,
    /// It is for somebody else.
    WrongHost,
    /// It comes from somebody else's page.
    OtherSite,
}

impl Refusal {
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoHost => StatusCode::BAD_REQUEST,
            Self::WrongHost | Self::OtherSite => StatusCode::FORBIDDEN,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => "the dashboard shows and does not change anything: it takes GET only",
            Self::NoHost => "a request needs exactly one Host",
            Self::WrongHost => {
                "the dashboard answers only at the address and port it was started with, or at localhost with that \
                 port"
            }
            Self::OtherSite => "the dashboard does not answer the pages of others",
        })
    }
}

impl Guard {
    pub(super) const fn new(addr: SocketAddr) -> Self {
        Self { addr }
    }

    /// # Errors
    /// Says why the request is not to be answered.
    pub(super) fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(Refusal::Method);
        }
        let host = only(headers, header::HOST.as_str()).ok_or(Refusal::NoHost)?;
        let target = uri.authority().is_none_or(|authority| self.is_ours(authority.as_str()));
        if !self.is_ours(host) || !target {
            return Err(Refusal::WrongHost);
        }
        if headers.contains_key(header::ORIGIN) {
            let origin =
                only(headers, header::ORIGIN.as_str()).and_then(|origin| origin.strip_prefix("http://"));
            // Not merely ours by another name: a page at `localhost` and one at the address are two sites.
            if !origin.is_some_and(|origin| origin.eq_ignore_ascii_case(host)) {
                return Err(Refusal::OtherSite);
            }
        }
        let says = |name: &str, value: &str| headers.get(name).is_some_and(|said| said == value);
        let own = says("sec-fetch-site", "same-origin") || says("sec-fetch-site", "none");
        let follows_link = says("sec-fetch-mode", "navigate") && says("sec-fetch-dest", "document");
        if headers.contains_key("sec-fetch-site") && !own && !follows_link {
            return Err(Refusal::OtherSite);
        }
        Ok(())
    }

    /// Whether `authority`, a host with or without a port, is this dashboard.
    fn is_ours(&self, authority: &str) -> bool {
        let Some((host, port)) = split(authority) else { return false };
        let ip = self.addr.ip().to_canonical();
        let known = match host {
            Host::Ip(named) => ip.is_unspecified() || named == ip,
            Host::Localhost => ip.is_unspecified() || ip.is_loopback(),
        };
        known && port == self.addr.port()
    }
}

/// The value of a header that occurs once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

enum Host {
    Ip(IpAddr),
    Localhost,
}

/// Host and port of an authority; `None` for any name but `localhost`, and for what is no authority.
fn split(authority: &str) -> Option<(Host, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (inner, rest) = rest.split_once(']')?;
            (Host::Ip(inner.parse::<Ipv6Addr>().ok().map(|ip| IpAddr::V6(ip).to_canonical())?), rest)
        }
        None => {
            let end = authority.find(':').unwrap_or(authority.len());
            let (host, rest) = authority.split_at(end);
            let host = if host.eq_ignore_ascii_case("localhost") {
                Host::Localhost
            } else {
                Host::Ip(IpAddr::V4(host.parse::<Ipv4Addr>().ok()?))
            };
            (host, rest)
        }
    };
    let port = match port.strip_prefix(':') {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
        None if port.is_empty() => HTTP_PORT,
        _ => return None,
    };
    Some((host, port))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn ask(addr: &str, headers: &[(&'static str, &str)]) -> Result<(), Refusal> {
        ask_for(addr, &Method::GET, "/", headers)
    }

    fn ask_for(
        addr: &str,
        method: &Method,
        uri: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Guard::new(addr.parse().unwrap()).check(method, &uri.parse().unwrap(), &map)
    }

    #[test]
    fn the_bound_address_and_localhost_are_answered_with_their_port() {
        for (addr, hosts) in [
            ("127.0.0.1:8080", &["127.0.0.1:8080", "localhost:8080", "LocalHost:8080"][..]),
            ("[::1]:8080", &["[::1]:8080", "[0:0:0:0:0:0:0:1]:8080", "localhost:8080"]),
            ("127.0.0.1:80", &["127.0.0.1", "localhost", "127.0.0.1:80"]),
            ("192.0.2.7:8080", &["192.0.2.7:8080"]),
            ("0.0.0.0:8080", &["192.0.2.7:8080", "[2001:db8::1]:8080", "localhost:8080"]),
        ] {
            for host in hosts {
                assert_eq!(ask(addr, &[("host", host)]), Ok(()), "{host} at {addr}");
            }
        }
    }

    #[test]
    fn a_name_that_was_made_to_lead_here_is_refused() {
        for host in [
            "evil.example:8080",
            "127.0.0.1.evil.example:8080",
            "localhost.evil.example:8080",
            "localhost.:8080",
            "evil.example",
            "127.0.0.2:8080",
            "127.1:8080",
            "0x7f000001:8080",
            "2130706433:8080",
            "[::1]:8080",
            "[::1%lo]:8080",
            "192.0.2.7:8080",
            "user@127.0.0.1:8080",
            "127.0.0.1:8080@evil.example",
            "127.0.0.1:8080, evil.example",
            "",
        ] {
            assert_eq!(ask("127.0.0.1:8080", &[("host", host)]), Err(Refusal::WrongHost), "{host}");
        }
        // Names are refused also where every address is listened on, and `localhost` where it is not this host's.
        assert_eq!(ask("0.0.0.0:8080", &[("host", "evil.example:8080")]), Err(Refusal::WrongHost));
        assert_eq!(ask("192.0.2.7:8080", &[("host", "localhost:8080")]), Err(Refusal::WrongHost));
    }

    #[test]
    fn another_port_is_another_site() {
        for host in
            ["127.0.0.1:8081", "127.0.0.1", "localhost", "127.0.0.1:", "127.0.0.1:+8080", "127.0.0.1:99999"]
        {
            assert_eq!(ask("127.0.0.1:8080", &[("host", host)]), Err(Refusal::WrongHost), "{host}");
        }
    }

    #[test]
    fn no_host_and_two_hosts_are_bad_requests() {
        assert_eq!(ask("127.0.0.1:8080", &[]), Err(Refusal::NoHost));
        let twice = [("host", "127.0.0.1:8080"), ("host", "127.0.0.1:8080")];
        assert_eq!(ask("127.0.0.1:8080", &twice), Err(Refusal::NoHost));
    }

    #[test]
    fn an_absolute_target_must_name_this_dashboard_too() {
        let host = [("host", "127.0.0.1:8080")];
        let ask = |uri| ask_for("127.0.0.1:8080", &Method::GET, uri, &host);
        assert_eq!(ask("http://127.0.0.1:8080/api/snapshot"), Ok(()));
        assert_eq!(ask("http://evil.example:8080/api/snapshot"), Err(Refusal::WrongHost));
    }

    #[test]
    fn only_the_page_itself_may_be_the_origin() {
        let ask = |origin| ask("127.0.0.1:8080", &[("host", "127.0.0.1:8080"), ("origin", origin)]);
        assert_eq!(ask("http://127.0.0.1:8080"), Ok(()));
        for other in [
            "null",
            "http://127.0.0.1:8081",
            "http://127.0.0.1",
            "http://localhost:8080",
            "https://127.0.0.1:8080",
            "http://evil.example",
            "file://",
            "",
        ] {
            assert_eq!(ask(other), Err(Refusal::OtherSite), "{other}");
        }
    }

    #[test]
    fn a_page_of_another_site_may_link_here_and_not_load_from_here() {
        let ask = |site, mode, dest| {
            let host = ("host", "127.0.0.1:8080");
            ask(
                "127.0.0.1:8080",
                &[host, ("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)],
            )
        };
        assert_eq!(ask("none", "navigate", "document"), Ok(()));
        assert_eq!(ask("same-origin", "cors", "empty"), Ok(()));
        assert_eq!(ask("cross-site", "navigate", "document"), Ok(()));
        assert_eq!(ask("cross-site", "no-cors", "script"), Err(Refusal::OtherSite));
        assert_eq!(ask("same-site", "cors", "empty"), Err(Refusal::OtherSite), "another port of this host");
        assert_eq!(ask("cross-site", "navigate", "iframe"), Err(Refusal::OtherSite));
    }

    #[test]
    fn nothing_but_reading_is_answered() {
        let host = [("host", "127.0.0.1:8080")];
        for method in
            [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::CONNECT, Method::TRACE]
        {
            let answer = ask_for("127.0.0.1:8080", &method, "/", &host);
            assert_eq!(answer, Err(Refusal::Method), "{method}");
        }
        assert_eq!(ask_for("127.0.0.1:8080", &Method::HEAD, "/", &host), Ok(()));
    }
}
