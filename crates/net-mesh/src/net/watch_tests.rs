//! Promises about when a node is told of changes.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use futures_util::StreamExt as _;
use futures_util::stream;
use quinn::AsyncUdpSocket;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;

const ADDRESS: Change = Change::Address { v6: false };

/// A network that tells what a test wants told, to one node.
#[derive(Debug)]
struct Told(Mutex<Option<mpsc::UnboundedReceiver<Change>>>);

impl Network for Told {
    fn bind(&self, _: SocketAddr) -> std::io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn ips(&self) -> Vec<IpAddr> {
        Vec::new()
    }

    fn changes(&self) -> Option<Changes> {
        let receiver = self.0.lock().unwrap().take()?;
        Some(stream::unfold(receiver, |mut rx| async { Some((rx.recv().await?, rx)) }).boxed())
    }
}

fn watch() -> (mpsc::UnboundedSender<Change>, Watch) {
    let (tell, told) = mpsc::unbounded_channel();
    let watch = Watch::new(&Told(Mutex::new(Some(told))), [true, false]);
    assert!(watch.is_told());
    (tell, watch)
}

/// What the node is told, and how long after `start`.
async fn told(watch: &mut Watch, start: Instant) -> (Duration, Vec<Change>) {
    let kinds = timeout(Duration::from_secs(60), watch.changed()).await.expect("told within a minute");
    (start.elapsed(), kinds.into_iter().collect())
}

#[tokio::test(start_paused = true)]
async fn what_happens_together_is_told_together() {
    let (tell, mut watch) = watch();
    let start = Instant::now();
    for change in [Change::Link, ADDRESS, ADDRESS, Change::DefaultRoute { v6: false }] {
        tell.send(change).unwrap();
    }
    let expected = vec![ADDRESS, Change::DefaultRoute { v6: false }, Change::Link];
    assert_eq!(told(&mut watch, start).await, (GATHER, expected));
    assert!(timeout(Duration::from_secs(60), watch.changed()).await.is_err(), "told twice");
}

#[tokio::test(start_paused = true)]
async fn an_interface_that_flaps_is_told_of_once_a_second() {
    let (tell, mut watch) = watch();
    let start = Instant::now();
    tokio::spawn(async move {
        for _ in 0..100 {
            tell.send(Change::Link).unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tell.closed().await;
    });
    let first = told(&mut watch, start).await.0;
    assert_eq!(first, GATHER);
    for n in 1..10 {
        assert_eq!(told(&mut watch, start).await, (first + EVERY * n, vec![Change::Link]));
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_is_told_at_once_amid_flapping() {
    let (tell, mut watch) = watch();
    let start = Instant::now();
    tell.send(Change::Link).unwrap();
    assert_eq!(told(&mut watch, start).await.0, GATHER);
    tell.send(Change::Link).unwrap();
    tell.send(ADDRESS).unwrap();
    assert_eq!(told(&mut watch, start).await, (GATHER * 2, vec![ADDRESS, Change::Link]));
}

#[tokio::test(start_paused = true)]
async fn addresses_that_change_all_the_time_are_told_once_a_second_in_the_end() {
    let (tell, mut watch) = watch();
    let start = Instant::now();
    tokio::spawn(async move {
        loop {
            tell.send(ADDRESS).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut times = Vec::new();
    while times.last().is_none_or(|last| *last < Duration::from_secs(10)) {
        times.push(told(&mut watch, start).await.0);
    }
    let at_once = times.iter().filter(|time| **time < Duration::from_secs(1)).count();
    assert_eq!(at_once, 8, "{times:?}");
    assert!(times.len() <= 8 + 10, "{times:?}");
    let longest = times.windows(2).map(|pair| pair[1].checked_sub(pair[0]).unwrap()).max().unwrap();
    assert!(longest <= EVERY, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_family_that_is_not_used_does_not_matter() {
    let (tell, mut watch) = watch();
    tell.send(Change::Address { v6: true }).unwrap();
    tell.send(Change::DefaultRoute { v6: true }).unwrap();
    assert!(timeout(Duration::from_secs(60), watch.changed()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn who_is_told_nothing_any_more_knows_it() {
    let (tell, mut watch) = watch();
    let start = Instant::now();
    tell.send(ADDRESS).unwrap();
    drop(tell);
    assert_eq!(told(&mut watch, start).await.1, [ADDRESS], "the last change counts");
    assert!(timeout(Duration::from_secs(1), watch.changed()).await.is_err());
    assert!(!watch.is_told());
}
