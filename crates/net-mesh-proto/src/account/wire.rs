//! The bytes of an account, as one side of a pair tells it to the other.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::{Account, Change, Line, NOTES, Try};
use crate::id::NodeId;
use crate::liveness::{Cause, Health};
use crate::rendezvous::{Decline, HISTORY, MAX_SIDE_BY_SIDE, Outcome, Plan};
use crate::routing::MAX_HOPS;
use crate::wire::{Malformed, Reader, Writer, addr};

/// The longest answer, in bytes: sixteen changes of a path over six members are 3.3 kB, the rest is less than half of
/// that.
pub const MAX_BYTES: usize = 8 * 1024;

/// The longest sentence, in bytes.
const MAX_REASON: usize = 1024;

/// Attempts in an account: those that are over, one that is the node's own, and those of others side by side.
const MAX_TRIES: usize = HISTORY + 1 + MAX_SIDE_BY_SIDE;

/// What stands for a time that is not known, or has no end.
const NEVER: u32 = u32::MAX;

/// What a node answers when its peer asks for its account of their pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was asked too often.
    Later,
    /// This.
    Told(Account),
}

impl Answer {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        match self {
            Self::Later => {
                out.u8(0);
            }
            Self::Told(account) => write(out.u8(1), account),
        }
        out.finish()
    }

    /// Reads a whole answer.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        let answer = match from.u8()? {
            0 => Self::Later,
            1 => Self::Told(read(&mut from)?),
            _ => return Err(Malformed::Invalid("an account")),
        };
        from.finish()?;
        Ok(answer)
    }
}

fn write(out: &mut Writer, account: &Account) {
    write_line(out, &account.line);
    write_time(out, account.since);
    let mut end = account.reason.len().min(MAX_REASON);
    while !account.reason.is_char_boundary(end) {
        end -= 1;
    }
    out.text(account.reason.get(..end).unwrap_or_default());
    write_time(out, account.rests_for);
    let tries = last(&account.attempts, MAX_TRIES);
    out.count(tries.len());
    tries.iter().for_each(|attempt| write_try(out, attempt));
    let changes = last(&account.changes, NOTES);
    out.count(changes.len());
    for (ago, change) in changes {
        write_time(out, Some(*ago));
        write_change(out, change);
    }
}

fn read(from: &mut Reader<'_>) -> Result<Account, Malformed> {
    let line = read_line(from)?;
    let since = read_time(from)?;
    let reason = from.text(MAX_REASON, "a reason")?.to_string();
    let rests_for = read_time(from)?;
    let attempts =
        (0..from.count(MAX_TRIES, "attempts")?).map(|_| read_try(from)).collect::<Result<_, _>>()?;
    let change = |from: &mut Reader<'_>| Ok((read_known_time(from)?, read_change(from)?));
    let changes = (0..from.count(NOTES, "changes")?).map(|_| change(from)).collect::<Result<_, _>>()?;
    Ok(Account { line, since, reason, rests_for, attempts, changes })
}

/// The last `count` of `all`.
fn last<T>(all: &[T], count: usize) -> &[T] {
    all.get(all.len().saturating_sub(count)..).unwrap_or(all)
}

/// Whole milliseconds, up to 49 days.
fn write_time(out: &mut Writer, time: Option<Duration>) {
    let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(NEVER - 1).min(NEVER - 1);
    out.u32(time.map_or(NEVER, millis));
}

fn read_time(from: &mut Reader<'_>) -> Result<Option<Duration>, Malformed> {
    let millis = from.u32()?;
    Ok((millis != NEVER).then(|| Duration::from_millis(millis.into())))
}

/// A time of something that has happened, which is always known.
fn read_known_time(from: &mut Reader<'_>) -> Result<Duration, Malformed> {
    read_time(from)?.ok_or(Malformed::Invalid("a time"))
}

fn write_line(out: &mut Writer, line: &Line) {
    match line {
        Line::None => {
            out.u8(0);
        }
        Line::Direct(to) => addr::write(out.u8(1), *to),
        Line::Relayed(via) => {
            let via = via.get(..MAX_HOPS).unwrap_or(via);
            out.u8(2).count(via.len());
            for id in via {
                out.bytes(&id.0);
            }
        }
    }
}

fn read_line(from: &mut Reader<'_>) -> Result<Line, Malformed> {
    Ok(match from.u8()? {
        0 => Line::None,
        1 => Line::Direct(addr::read(from)?),
        2 => {
            let count = from.count(MAX_HOPS, "members that relay")?;
            Line::Relayed((0..count).map(|_| Ok(NodeId(from.array()?))).collect::<Result<_, Malformed>>()?)
        }
        _ => return Err(Malformed::Invalid("a path")),
    })
}

fn write_option<T>(out: &mut Writer, value: Option<T>, write: impl FnOnce(&mut Writer, T)) {
    out.bool(value.is_some());
    if let Some(value) = value {
        write(out, value);
    }
}

fn read_option<'a, T>(
    from: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<Option<T>, Malformed> {
    if from.bool()? { read(from).map(Some) } else { Ok(None) }
}

fn write_try(out: &mut Writer, attempt: &Try) {
    out.bytes(&attempt.id.to_be_bytes()).bool(attempt.seeker);
    write_option(out, attempt.mediator, |out, id| {
        out.bytes(&id.0);
    });
    out.u8(attempt.plan.code());
    write_time(out, Some(attempt.ago));
    write_time(out, attempt.took);
    out.u32(attempt.sent).u32(attempt.heard);
    match attempt.outcome {
        None => {
            out.u8(0);
        }
        Some(Outcome::Found { addr, rtt }) => {
            addr::write(out.u8(1), addr);
            write_time(out, Some(rtt));
        }
        Some(Outcome::TimedOut) => {
            out.u8(2);
        }
        Some(Outcome::Declined(why)) => {
            out.u8(3).u8(why.code());
        }
        Some(Outcome::Unanswered) => {
            out.u8(4);
        }
        Some(Outcome::Superseded) => {
            out.u8(5);
        }
    }
}

fn read_try(from: &mut Reader<'_>) -> Result<Try, Malformed> {
    let (id, seeker) = (u128::from_be_bytes(from.array()?), from.bool()?);
    let mediator = read_option(from, |from| Ok(NodeId(from.array()?)))?;
    let plan = Plan::from_code(from.u8()?)?;
    let (ago, took) = (read_known_time(from)?, read_time(from)?);
    let (sent, heard) = (from.u32()?, from.u32()?);
    let outcome = match from.u8()? {
        0 => None,
        1 => Some(Outcome::Found { addr: addr::read(from)?, rtt: read_known_time(from)? }),
        2 => Some(Outcome::TimedOut),
        3 => Some(Outcome::Declined(Decline::from_code(from.u8()?)?)),
        4 => Some(Outcome::Unanswered),
        5 => Some(Outcome::Superseded),
        _ => return Err(Malformed::Invalid("an outcome")),
    };
    Ok(Try { id, seeker, mediator, plan, ago, took, sent, heard, outcome })
}

const fn health_code(health: Health) -> u8 {
    match health {
        Health::Healthy => 0,
        Health::Suspect => 1,
        Health::Failed => 2,
    }
}

const fn cause_code(cause: Cause) -> u8 {
    match cause {
        Cause::Silence => 1,
        Cause::Unanswered => 2,
        Cause::Undelivered => 3,
        Cause::Latency => 4,
        Cause::PeerDoubts => 5,
        Cause::NetworkChanged => 6,
        Cause::SendFailed => 7,
        Cause::MappingEnds => 8,
        Cause::Answered => 9,
    }
}

fn write_change(out: &mut Writer, change: &Change) {
    match change {
        Change::Path(line) => write_line(out.u8(0), line),
        Change::Health { direct, health, cause } => {
            write_option(out.u8(1), *direct, addr::write);
            out.u8(health_code(*health)).u8(cause_code(*cause));
        }
    }
}

fn read_change(from: &mut Reader<'_>) -> Result<Change, Malformed> {
    Ok(match from.u8()? {
        0 => Change::Path(read_line(from)?),
        1 => {
            let direct: Option<SocketAddr> = read_option(from, addr::read)?;
            let (health, cause) = (from.u8()?, from.u8()?);
            let known = [Health::Healthy, Health::Suspect, Health::Failed];
            let health = known.into_iter().find(|known| health_code(*known) == health);
            let health = health.ok_or(Malformed::Invalid("a health"))?;
            let cause = Cause::ALL.into_iter().find(|known| cause_code(*known) == cause);
            let cause = cause.ok_or(Malformed::Invalid("a cause"))?;
            Change::Health { direct, health, cause }
        }
        _ => return Err(Malformed::Invalid("a change")),
    })
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec;

    use super::*;

    fn some() -> (Answer, Vec<u8>) {
        let relay = NodeId([0xaa; 32]);
        let to: SocketAddr = "203.0.113.7:4433".parse().unwrap();
        let addr = [4, 203, 0, 113, 7, 0x11, 0x51];
        let ms = Duration::from_millis;
        let attempt = Try {
            id: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
            seeker: true,
            mediator: Some(relay),
            plan: Plan::FireTogether,
            ago: ms(1000),
            took: Some(ms(40)),
            sent: 5,
            heard: 2,
            outcome: Some(Outcome::Found { addr: to, rtt: ms(31) }),
        };
        let account = Account {
            line: Line::Direct(to),
            since: Some(ms(700)),
            reason: "because".into(),
            rests_for: None,
            attempts: vec![attempt],
            changes: vec![
                (ms(2000), Change::Path(Line::Relayed(vec![relay]))),
                (
                    ms(256),
                    Change::Health { direct: Some(to), health: Health::Suspect, cause: Cause::Silence },
                ),
            ],
        };
        let bytes = [
            &[1, 1][..],
            &addr,
            &[0, 0, 2, 188],
            b"\x07because",
            &[0xff, 0xff, 0xff, 0xff],
            // The attempt.
            &[1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 1, 1],
            &[0xaa; 32],
            &[4, 0, 0, 3, 232, 0, 0, 0, 40, 0, 0, 0, 5, 0, 0, 0, 2, 1],
            &addr,
            &[0, 0, 0, 31],
            // The changes.
            &[2, 0, 0, 7, 208, 0, 2, 1],
            &[0xaa; 32],
            &[0, 0, 1, 0, 1, 1],
            &addr,
            &[1, 1],
        ];
        (Answer::Told(account), bytes.concat())
    }

    #[test]
    fn an_answer_has_these_bytes_and_survives_the_journey() {
        let (told, bytes) = some();
        assert_eq!(told.encode(), bytes);
        assert_eq!(Answer::decode(&bytes), Ok(told));
        assert_eq!(Answer::Later.encode(), [0]);
        assert_eq!(Answer::decode(&[0]), Ok(Answer::Later));
    }

    #[test]
    fn an_answer_cut_anywhere_or_with_more_behind_it_is_malformed() {
        let (_, mut bytes) = some();
        for end in 0..bytes.len() {
            assert!(Answer::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        bytes.push(0);
        assert!(Answer::decode(&bytes).is_err());
        assert!(Answer::decode(&[2]).is_err(), "of another version");
    }

    #[test]
    fn what_has_happened_has_a_time() {
        let (_, bytes) = some();
        for (what, time) in [("attempt", 1000_u32), ("round trip", 31), ("path", 2000), ("health", 256)] {
            let at = bytes.windows(4).rposition(|four| four == time.to_be_bytes()).unwrap();
            let mut bytes = bytes.clone();
            bytes[at..at + 4].fill(0xff);
            assert_eq!(Answer::decode(&bytes), Err(Malformed::Invalid("a time")), "{what}");
        }
    }

    #[test]
    fn every_outcome_and_cause_survives_the_journey() {
        let (Answer::Told(mut account), _) = some() else { unreachable!() };
        let tried = account.attempts[0].clone();
        let outcomes = [
            None,
            Some(Outcome::TimedOut),
            Some(Outcome::Declined(Decline::NoSession)),
            Some(Outcome::Declined(Decline::Busy)),
            Some(Outcome::Unanswered),
            Some(Outcome::Superseded),
        ];
        account.attempts = outcomes.map(|outcome| Try { outcome, ..tried.clone() }).into();
        let health = |cause| Change::Health { direct: None, health: Health::Failed, cause };
        account.changes = Cause::ALL.map(|cause| (Duration::ZERO, health(cause))).into();
        let told = Answer::Told(account);
        assert_eq!(Answer::decode(&told.encode()), Ok(told));
    }

    #[test]
    fn the_longest_account_fits_and_a_longer_one_is_cut() {
        let (Answer::Told(mut account), _) = some() else { unreachable!() };
        let long = Line::Relayed(vec![NodeId([1; 32]); MAX_HOPS + 1]);
        account.line = long.clone();
        account.reason = core::iter::repeat_n('é', 10_000).collect::<String>();
        account.attempts = vec![account.attempts[0].clone(); MAX_TRIES + 1];
        account.changes = vec![(Duration::MAX, Change::Path(long)); NOTES + 1];
        let bytes = Answer::Told(account).encode();
        assert!(bytes.len() <= MAX_BYTES, "{}", bytes.len());
        let Ok(Answer::Told(told)) = Answer::decode(&bytes) else { panic!("unreadable") };
        assert_eq!((told.attempts.len(), told.changes.len()), (MAX_TRIES, NOTES));
        assert_eq!(told.reason.len(), MAX_REASON);
    }
}
