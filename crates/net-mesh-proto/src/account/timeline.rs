//! Two accounts of one pair, merged into what happened.
//!
//! What both sides know of is an attempt. Its lines are ordered, on each side, by the time since the attempt began
//! there, and the rest of the peer's lines by how long they were before or after the last attempt that both know.
//! Where they know none in common, what each says of "ago" is all there is.

use alloc::vec::Vec;
use core::time::Duration;

use super::{Account, Change, Try};

/// Whose line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Whose {
    /// This node's.
    Own,
    /// The peer's.
    Theirs,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// An attempt began on that side.
    Began(Try),
    /// An attempt ended on that side.
    Ended(Try),
    /// A path or a way changed.
    Changed(Change),
}

/// A line of the timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How long ago, on this node's clock.
    pub ago: Duration,
    /// How long after the beginning of the attempt on that side, where it is part of one.
    pub into: Option<Duration>,
    /// Who says so.
    pub whose: Whose,
    /// What.
    pub happened: Happened,
}

/// Milliseconds into the past.
fn millis(ago: Duration) -> i64 {
    i64::try_from(ago.as_millis()).unwrap_or(i64::MAX / 4)
}

fn past(ago: i64) -> Duration {
    Duration::from_millis(u64::try_from(ago).unwrap_or(0))
}

/// What happened, oldest first.
#[must_use]
pub fn timeline(own: &Account, theirs: Option<&Account>) -> Vec<Entry> {
    let known = |id: u128| own.attempts.iter().find(|attempt| attempt.id == id);
    // By how much the peer's past must be moved to be this node's.
    let shared = theirs.into_iter().flat_map(|theirs| theirs.attempts.iter().rev());
    let shift = shared.into_iter().find_map(|t| Some(millis(known(t.id)?.ago) - millis(t.ago))).unwrap_or(0);
    let mut entries: Vec<(i64, u8, Entry)> = Vec::new();
    for (whose, account) in [(Whose::Own, Some(own)), (Whose::Theirs, theirs)] {
        let Some(account) = account else { continue };
        let shift = if whose == Whose::Own { 0 } else { shift };
        for attempt in &account.attempts {
            let began = known(attempt.id).map_or_else(|| millis(attempt.ago) + shift, |a| millis(a.ago));
            let mut add = |after: Duration, rank, happened| {
                let ago = began - millis(after);
                entries.push((ago, rank, Entry { ago: past(ago), into: Some(after), whose, happened }));
            };
            // Who asks, asks first.
            add(Duration::ZERO, u8::from(!attempt.seeker), Happened::Began(attempt.clone()));
            if let Some(took) = attempt.took {
                add(took, 2, Happened::Ended(attempt.clone()));
            }
        }
        for (ago, change) in &account.changes {
            let ago = millis(*ago) + shift;
            let happened = Happened::Changed(change.clone());
            entries.push((ago, 3, Entry { ago: past(ago), into: None, whose, happened }));
        }
    }
    entries.sort_by_key(|(ago, rank, entry)| (-ago, *rank, entry.whose));
    entries.into_iter().map(|(.., entry)| entry).collect()
}
