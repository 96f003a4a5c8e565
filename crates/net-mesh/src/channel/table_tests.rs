//! Promises of the table of channels, in virtual time.

use std::time::Duration;

use net_mesh_proto::id::NodeId;
use tokio::time::Instant;

use super::ChannelConfig;
use super::log::{CursorId, RESUME_WINDOW};
use super::table::{IDLE, MAX_ASKED, MAX_CHANNELS, MAX_NUMBERS, MEMBER_CHANNELS, Table};

fn peer(n: u8) -> NodeId {
    NodeId([n; 32])
}

/// Asks for a channel as a peer does, and keeps a place in it.
fn ask(table: &mut Table, name: &str, from: NodeId) -> bool {
    let channel = table.asked(name, from, &ChannelConfig::default());
    channel.is_some_and(|c| c.log().attach(Instant::now(), CursorId::Remote(from, 0), 1, None).is_some())
}

#[tokio::test(start_paused = true)]
async fn a_member_that_asks_for_many_channels_keeps_nobody_from_others() {
    let (mut table, config) = (Table::default(), ChannelConfig::default());
    let got = (0..10_000).filter(|n| ask(&mut table, &format!("1/{n}"), peer(1))).count();
    assert_eq!(got, MEMBER_CHANNELS);
    assert!(ask(&mut table, "2/0", peer(2)));
    assert!(ask(&mut table, "2/0", peer(1)), "it may join a channel on another's account");
    for n in 3..20 {
        (0..10_000).find(|i| !ask(&mut table, &format!("{n}/{i}"), peer(n)));
    }
    assert!(!ask(&mut table, "20/0", peer(20)), "all together have a bound");
    assert_eq!(table.all().count(), MAX_ASKED);
    let own =
        (0..MAX_CHANNELS + 9).filter(|n| table.own(&format!("own/{n}"), &config).is_some_and(keep)).count();
    assert_eq!(own, MAX_CHANNELS, "this node's own channels have their room whatever peers do");
}

/// Gives a channel a subscription of this node's own.
#[allow(clippy::needless_pass_by_value, reason = "a handle that is let go of")]
fn keep(channel: std::sync::Arc<super::hub::Channel>) -> bool {
    channel.log().attach(Instant::now(), CursorId::Local(0), 0, None).is_some()
}

#[tokio::test(start_paused = true)]
async fn a_channel_is_charged_to_a_member_that_uses_it() {
    let mut table = Table::default();
    for n in 0..MEMBER_CHANNELS {
        assert!(ask(&mut table, &n.to_string(), peer(1)) && ask(&mut table, &n.to_string(), peer(2)));
    }
    for channel in table.all() {
        channel.log().detach(Instant::now(), CursorId::Remote(peer(1), 0), 1);
    }
    assert!(!ask(&mut table, "more", peer(1)));
    table.sweep(Instant::now() + RESUME_WINDOW);
    assert!(ask(&mut table, "more", peer(1)), "the first member has gone from all of them");
    assert!(!ask(&mut table, "yet more", peer(2)), "the second one has not");
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_nobody_uses_is_freed_and_its_numbers_go_on() {
    let (mut table, config, now) = (Table::default(), ChannelConfig::default(), Instant::now());
    let channel = table.own("news", &config).unwrap();
    let id = CursorId::Remote(peer(1), 0);
    let (generation, _) = channel.log().attach(now, id, 1, None).unwrap();
    assert_eq!(channel.log().push(0, b"one"), 1);
    drop(channel);
    let much_later = now + 10 * IDLE;
    table.sweep(now);
    table.sweep(much_later);
    assert_eq!(table.all().count(), 1, "someone has a place in it");
    let channel = table.own("news", &config).unwrap();
    channel.log().remove(id, generation);
    table.sweep(much_later);
    table.sweep(much_later + 10 * IDLE);
    assert_eq!(table.all().count(), 1, "someone has a handle for it");
    drop(channel);
    let idle = much_later + 20 * IDLE;
    table.sweep(idle);
    table.sweep(idle + IDLE - Duration::from_millis(1));
    assert_eq!(table.all().count(), 1, "it may be used again any moment");
    table.sweep(idle + IDLE);
    assert_eq!(table.all().count(), 0);
    // A subscriber that was away all the time holds the first event, and misses none.
    let channel = table.asked("news", peer(1), &config).unwrap();
    let resume = Some(super::log::Resume { taken: 2, next: 2 });
    let (generation, first) = channel.log().attach(idle, id, 2, resume).unwrap();
    assert_eq!((first, channel.log().push(0, b"two")), (2, 2));
    assert_eq!(channel.log().next_for(id, generation).map(|s| s.first), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_channel_never_published_on_leaves_at_once_and_leaves_nothing() {
    let (mut table, config) = (Table::default(), ChannelConfig::default());
    for round in 0..10 {
        for n in 0..MEMBER_CHANNELS {
            assert!(table.asked(&format!("{round}/{n}"), peer(1), &config).is_some(), "{round}/{n}");
            assert!(table.own(&format!("own {round}/{n}"), &config).is_some(), "{round}/{n}");
        }
        table.sweep(Instant::now());
        assert_eq!(table.all().count(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_numbers_that_are_kept_are_bounded_and_none_is_forgotten() {
    let (mut table, config) = (Table::default(), ChannelConfig::default());
    let mut used = 0;
    while let Some(channel) = table.own(&used.to_string(), &config) {
        channel.log().push(0, b"x");
        used += 1;
        assert!(used < 1_000_000, "there is no bound");
    }
    assert_eq!(used, MAX_NUMBERS + MAX_CHANNELS);
    for n in [0, used / 2, used - 1] {
        // Room for a channel is made by freeing another one, if its number can be kept.
        let channel = table.own(&n.to_string(), &config);
        assert!(channel.is_none_or(|c| c.log().push(0, b"x") == 2), "{n} starts anew");
    }
}
