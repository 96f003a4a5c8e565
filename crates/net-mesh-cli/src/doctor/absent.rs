//! What can be known where no node runs? Nothing is sent to anyone but, for names, to the resolver.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::home::Home;
use crate::json::doctor::{AbsentJson, LookupJson};
use crate::text;

/// How long looking up one name may take.
const LOOKUP: Duration = Duration::from_secs(5);

/// Addresses outside of every network (RFC 5737, RFC 3849), to see from where one would send there.
const ELSEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// The facts about a home in which no node runs, without their conclusion.
pub(crate) async fn absent(home: &Home) -> AbsentJson {
    let mut error = None;
    let config = home.require().and_then(|()| home.material()).and_then(|material| {
        material.identity()?;
        home.config()
    });
    let config = config.map_err(|why| error = Some(text::one_line(&format!("{why:#}")))).ok();
    let names = config.as_ref().map(|config| config.bootstrap.clone()).unwrap_or_default();
    let lookups = names.into_iter().map(async |host| {
        let found = tokio::time::timeout(LOOKUP, tokio::net::lookup_host(&host)).await;
        let addrs = found.ok().and_then(Result::ok).map(Iterator::collect).unwrap_or_default();
        LookupJson { host, addrs }
    });
    let [ipv4, ipv6] = ELSEWHERE.map(source);
    AbsentJson {
        running: false,
        home: home.dir().display().to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
        name: config.map(|config| config.name),
        error,
        ipv4,
        ipv6,
        start: futures_util::future::join_all(lookups).await,
        remembered: home.remembered().len(),
        can_work: false,
        verdict: String::new(),
        improve: Vec::new(),
    }
}

/// The address from which this host would send to `to`. Connecting a UDP socket sends nothing.
fn source(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(SocketAddr::new(to, 9)).ok()?;
    socket.local_addr().ok().map(|addr| addr.ip())
}
