//! Publish and subscribe between whole nodes on loopback.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::Duration;

use net_mesh::{Event, Mesh, PublishError, SubscribeError, Subscription};
use support::{key, node, secret, within};

/// Waits until `a` knows that `b` subscribes, so that not even the first event can be too early.
async fn pair() -> (Mesh, Mesh) {
    let a = node(&secret(1), &key(1), None).await;
    let b = node(&secret(1), &key(2), Some(&a)).await;
    within("their session", async {
        while a.peers().is_empty() || b.peers().is_empty() || b.ping(a.node_id()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    (a, b)
}

async fn expect(subscription: &mut Subscription, what: &str) -> Event {
    within(what, subscription.next()).await.expect("the subscription ended")
}

/// Publishes until the subscriber hears it, then drains what else came of that.
async fn settle(publisher: &Mesh, subscription: &mut Subscription) -> u64 {
    within("a first event", async {
        loop {
            let seq = publisher.publish(subscription.channel(), "settle").await.unwrap();
            let heard = tokio::time::timeout(Duration::from_millis(100), async {
                while subscription.next().await.expect("ended").seq != seq {}
            });
            if heard.await.is_ok() {
                return seq;
            }
        }
    })
    .await
}

#[tokio::test]
async fn events_arrive_in_order_with_their_sender_and_number() {
    let (a, b) = pair().await;
    let mut events = b.subscribe("news").unwrap();
    let settled = settle(&a, &mut events).await;
    for n in 1..=1000u64 {
        assert_eq!(a.publish("news", n.to_string()).await.unwrap(), settled + n);
    }
    for n in 1..=1000u64 {
        let event = expect(&mut events, "an event").await;
        assert_eq!((event.from, event.seq, event.missed), (a.node_id(), settled + n, 0));
        assert_eq!(event.payload, n.to_string());
        assert_eq!(&*event.channel, "news");
    }
    assert!(events.try_next().is_none());
}

#[tokio::test]
async fn a_nodes_own_subscription_hears_what_it_publishes() {
    let a = node(&secret(1), &key(1), None).await;
    let mut events = a.subscribe("self").unwrap();
    tokio::task::yield_now().await;
    a.publish("self", "hello").await.unwrap();
    let event = expect(&mut events, "an event").await;
    assert_eq!((event.from, event.seq, &event.payload[..]), (a.node_id(), 1, &b"hello"[..]));
}

#[tokio::test]
async fn events_of_the_largest_size_pass_and_larger_ones_are_refused() {
    let (a, b) = pair().await;
    let mut events = b.subscribe("large").unwrap();
    settle(&a, &mut events).await;
    let largest = vec![0x5a; net_mesh::MAX_EVENT];
    let (publisher, event) = (a.clone(), largest.clone());
    tokio::spawn(async move {
        for _ in 0..8 {
            publisher.publish("large", event.clone()).await.unwrap();
        }
    });
    for _ in 0..8 {
        assert_eq!(expect(&mut events, "a large event").await.payload, largest);
    }
    let refused = a.publish("large", vec![0; net_mesh::MAX_EVENT + 1]).await;
    assert_eq!(refused, Err(PublishError::TooLarge(net_mesh::MAX_EVENT + 1)));
}

#[tokio::test]
async fn a_subscription_that_is_not_read_holds_up_no_other() {
    let (a, b) = pair().await;
    // Together they could fill the session's window, were each sent all that fits its stream's.
    let unread_here: Vec<_> = (0..10).map(|_| b.subscribe("busy").unwrap()).collect();
    let mut read = b.subscribe("busy").unwrap();
    let mut other = b.subscribe("quiet").unwrap();
    settle(&a, &mut read).await;
    settle(&a, &mut other).await;
    // More than a subscription is sent ahead, less than the publisher's log holds.
    for n in 0..10_000u64 {
        a.publish("busy", vec![0; 1000]).await.unwrap();
        if n % 1000 == 0 {
            a.publish("quiet", "x").await.unwrap();
            expect(&mut other, "the other channel's event").await;
        }
    }
    for _ in 0..10_000u64 {
        assert_eq!(expect(&mut read, "an event").await.missed, 0);
    }
    drop(unread_here);
}

#[tokio::test]
async fn a_stopped_subscriber_is_told_how_much_it_lost() {
    let a_secret = secret(1);
    let identity = net_mesh::Identity::from_secret(&a_secret, &key(1)).unwrap();
    let a = Mesh::builder(identity)
        .listen("127.0.0.1:0".parse().unwrap())
        .channel_buffer(1 << 20)
        .stall_timeout(Duration::from_millis(200))
        .start()
        .await
        .unwrap();
    let b = node(&a_secret, &key(2), Some(&a)).await;
    let mut events = loop {
        if !b.peers().is_empty() {
            break b.subscribe("flood").unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let settled = settle(&a, &mut events).await;
    const EVENTS: u64 = 20_000;
    within("publishing", async {
        for _ in 0..EVENTS {
            a.publish("flood", vec![0; 1000]).await.unwrap();
        }
    })
    .await;
    let (mut got, mut missed, mut last) = (0, 0, settled);
    while last < settled + EVENTS {
        let event = expect(&mut events, "an event").await;
        got += 1;
        missed += event.missed;
        assert_eq!(event.seq, last + event.missed + 1);
        last = event.seq;
    }
    assert!(missed > 0, "nothing was lost, so this tests nothing");
    assert_eq!(got + missed, EVENTS);
}

#[tokio::test]
async fn names_that_cannot_be_channels_are_refused() {
    let a = node(&secret(1), &key(1), None).await;
    for name in ["", "a\nb", &"x".repeat(256)] {
        assert_eq!(a.publish(name, "x").await, Err(PublishError::Channel(name.to_owned())));
        assert!(matches!(a.subscribe(name), Err(SubscribeError::Channel(_))));
    }
}

#[tokio::test]
async fn shutting_down_delivers_what_was_published_and_ends_subscriptions() {
    let (a, b) = pair().await;
    let mut events = b.subscribe("last words").unwrap();
    let settled = settle(&a, &mut events).await;
    for _ in 0..100 {
        a.publish("last words", "bye").await.unwrap();
    }
    a.shutdown().await;
    for n in 1..=100 {
        assert_eq!(expect(&mut events, "an event").await.seq, settled + n);
    }
    let own = b.clone();
    b.shutdown().await;
    assert_eq!(within("the end", events.next()).await, None);
    assert_eq!(own.publish("x", "y").await, Err(PublishError::ShutDown));
}
