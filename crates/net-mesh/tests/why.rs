//! Whole nodes on loopback: what both ends of a pair say of the way between them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::Duration;

use net_mesh::{OtherSide, PathKind, PeerError};
use support::{key, node, secret, within};

#[tokio::test]
async fn both_ends_say_how_they_reach_each_other_and_since_when() {
    let a = node(&secret(1), &key(1), None).await;
    let b = node(&secret(1), &key(2), Some(&a)).await;
    within("a pong", async {
        while b.ping(a.node_id()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let why = b.why_from_both(a.node_id()).await.unwrap();
    let OtherSide::Told(told) = &why.other_side else { panic!("{why:?}") };
    assert_eq!((why.path.addr, told.path.addr), (Some(a.local_addrs()[0]), Some(b.local_addrs()[0])));
    assert!(!told.reason.is_empty() && told.since.is_some() && why.since.is_some() && !why.hopeless);
    for own in [true, false] {
        let says = |m: &&net_mesh::Moment| m.own == own && m.text.starts_with("sends directly to 127.0.0.1:");
        assert!(why.timeline.iter().any(|m| says(&m)), "{own}: {:?}", why.timeline);
    }
    let half = b.why(a.node_id()).unwrap();
    assert!(matches!(half.other_side, OtherSide::NotAsked) && half.timeline.iter().all(|m| m.own));
    assert!(b.peers()[0].since.is_some());
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn a_peer_that_is_asked_all_the_time_says_so_and_one_without_a_session_cannot_be_asked() {
    let a = node(&secret(1), &key(1), None).await;
    let b = node(&secret(1), &key(2), Some(&a)).await;
    within("a session", b.connect(a.node_id())).await.ok();
    within("a pong", async {
        while b.ping(a.node_id()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let mut told = 0;
    let problem = within("a refusal", async {
        loop {
            match b.why_from_both(a.node_id()).await.unwrap().other_side {
                OtherSide::Told(_) => told += 1,
                OtherSide::Unknown(problem) => break problem,
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    assert!(told >= 4 && problem.contains("too often"), "{told}: {problem}");
    let stranger = key(9).id();
    assert!(matches!(b.why_from_both(stranger).await, Err(PeerError::Unknown(_))));
    assert!(matches!(b.discover(stranger), Err(PeerError::Unknown(_))));
    b.discover(a.node_id()).unwrap();
    assert_eq!(b.ping(a.node_id()).await.unwrap().path.kind, PathKind::Direct);
    a.shutdown().await;
    b.shutdown().await;
}
