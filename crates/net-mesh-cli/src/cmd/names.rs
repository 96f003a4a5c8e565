//! Names of addresses to start from, looked up at the start and again while they are needed.
//!
//! A host that starts before its network does finds no name; and behind a name that follows a changing address is another
//! one each day. Names are therefore looked up again while the node has no session or a name had no address, ever more rarely.

use std::net::SocketAddr;
use std::time::Duration;

use net_mesh::{Mesh, PathKind};

/// How long looking up one name may take. Two attempts of a usual resolver; a node without names starts
/// without delay.
const LOOKUP: Duration = Duration::from_secs(10);

/// Between two looks at whether names are needed, at first; it doubles up to [`LONGEST`] while they are.
const SHORTEST: Duration = Duration::from_secs(15);

const LONGEST: Duration = Duration::from_secs(600);

/// The addresses of some names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) addrs: Vec<SocketAddr>,
    /// Some name had none.
    pub(super) missing: bool,
}

/// The addresses of `names`, all looked up at once. One that cannot be found is logged and left out: the
/// others may do.
pub(super) async fn look_up(names: &[String]) -> Found {
    let lookups = names.iter().map(async |name| {
        match tokio::time::timeout(LOOKUP, tokio::net::lookup_host(name)).await {
            Ok(Ok(addrs)) => addrs.collect(),
            Ok(Err(error)) => {
                tracing::warn!(%name, %error, "an address cannot be looked up");
                Vec::new()
            }
            Err(_) => {
                tracing::warn!(%name, "an address takes too long to look up");
                Vec::new()
            }
        }
    });
    let found: Vec<Vec<SocketAddr>> = futures_util::future::join_all(lookups).await;
    Found { missing: found.iter().any(Vec::is_empty), addrs: found.concat() }
}

/// Where to start from: what the operator says, then what is `remembered` of the last run.
pub(super) fn starts(named: &[SocketAddr], remembered: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut starts: Vec<SocketAddr> = Vec::new();
    for addr in named.iter().chain(remembered) {
        if !starts.contains(addr) {
            starts.push(*addr);
        }
    }
    starts
}

/// Looks `names` up again while they are needed: until `mesh` has a session and all of them have an address. `found` is what the
/// start found, and `remembered` what else the node starts from.
pub(super) async fn keep_looking(
    mesh: &Mesh,
    names: &[String],
    found: Found,
    remembered: &[SocketAddr],
) -> ! {
    let has_session = || mesh.peers().iter().any(|peer| peer.path.kind != PathKind::None);
    let start_from = |addrs: &[SocketAddr]| mesh.start_from(starts(addrs, remembered));
    look_while(has_session, start_from, || look_up(names), found).await
}

async fn look_while(
    has_session: impl Fn() -> bool,
    start_from: impl Fn(&[SocketAddr]),
    look_up: impl AsyncFn() -> Found,
    mut found: Found,
) -> ! {
    let mut pause = SHORTEST;
    loop {
        tokio::time::sleep(pause).await;
        if !found.missing && has_session() {
            pause = SHORTEST;
            continue;
        }
        pause = (2 * pause).min(LONGEST);
        let now = look_up().await;
        if now.addrs != found.addrs && !now.addrs.is_empty() {
            tracing::info!(addrs = ?now.addrs, "names of addresses to start from were looked up again");
            start_from(&now.addrs);
        }
        found = now;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    fn found(ports: &[u16]) -> Found {
        let addrs = ports.iter().map(|port| ([127, 0, 0, 1], *port).into()).collect();
        Found { addrs, missing: ports.is_empty() }
    }

    /// How often was looked, and what was started from, within `time`; an answer for each time it is looked.
    async fn looking(
        has_session: bool,
        first: Found,
        answers: &[&[u16]],
        time: Duration,
    ) -> (usize, Vec<u16>) {
        let (looked, started) = (Cell::new(0), RefCell::new(vec![]));
        let answer = async || {
            let n = looked.replace(looked.get() + 1);
            found(answers[n.min(answers.len() - 1)])
        };
        let start = |addrs: &[SocketAddr]| started.borrow_mut().extend(addrs.iter().map(SocketAddr::port));
        let _ = tokio::time::timeout(time, look_while(|| has_session, start, answer, first)).await;
        (looked.get(), started.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_had_no_address_is_looked_up_until_it_has_one() {
        let first = Found::default();
        let first = Found { missing: true, ..first };
        let hour = Duration::from_secs(3600);
        assert_eq!(looking(true, first, &[&[], &[], &[7]], hour).await, (3, vec![7]));
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_looked_up_ever_more_rarely_while_nobody_is_reached_and_told_when_they_change() {
        let hour = Duration::from_secs(3600);
        let (looked, started) = looking(false, found(&[7]), &[&[7], &[8]], hour).await;
        assert!((6..14).contains(&looked), "{looked} times in an hour");
        assert_eq!(started, [8]);
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_left_alone_where_they_are_not_needed() {
        let (looked, started) = looking(true, found(&[7]), &[&[8]], Duration::from_secs(86_400)).await;
        assert_eq!((looked, started), (0, vec![]));
    }

    #[test]
    fn addresses_are_started_from_once_the_operators_first() {
        let addr = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(starts(&[addr(2), addr(1)], &[addr(3), addr(2)]), [addr(2), addr(1), addr(3)]);
    }

    #[tokio::test]
    async fn what_is_no_name_is_missing() {
        let found = look_up(&["127.0.0.1:7".to_owned(), "no port".to_owned()]).await;
        assert_eq!(found, Found { addrs: vec![([127, 0, 0, 1], 7).into()], missing: true });
    }
}
