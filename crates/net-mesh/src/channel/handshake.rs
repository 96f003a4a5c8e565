//! How a stream of events begins.
//!
//! A stream that the *subscriber* opens: it sends a [`Request`], the publisher answers with its run and the
//! sequence number it starts from. A stream that the *publisher* opens: it sends a [`Push`], and the
//! subscriber answers [`Taken`], or refuses by resetting the stream with [`REFUSED`]. From then on it is
//! one and the same: segments go one way, in the second case without waiting for the answer, and
//! acknowledgements the other: the sequence number of the first event that the application has not taken,
//! as 64 bits; all ones ends the subscription.
//!
//! | message | fields |
//! |---|---|
//! | [`Request`] | length of what follows (16 bits), version (8), subscription (64), attempt (64), channel (length and text), whether it goes on from somewhere (0, or 1 with the publisher's run, the first event not taken and the first not held, 64 bits each) |
//! | answer | run (64), first event (64) |
//! | [`Push`] | length of what follows (16), version (8), channel (length and text), run (64), first event (64), whether it is for one subscription (0, or 1 with the subscription, 64) |
//! | [`Taken`] | how many subscriptions (16), attempt (64), the subscriptions (64 each): the stream feeds the first one |
//!
//! The *attempt* numbers what one subscription asks for and takes, over all streams and connections.

use net_mesh_proto::wire::{Malformed, Reader, Writer};
use quinn::{ReadExactError, RecvStream, VarInt};

use super::MAX_CHANNEL_NAME;
use super::hub::MAX_SUBSCRIPTIONS;
use super::log::Resume;

const VERSION: u8 = 2;

/// Longest request, in bytes; a push is shorter.
const MAX_REQUEST: usize = 1 + 8 + 8 + 2 + MAX_CHANNEL_NAME + 1 + 24;

/// An acknowledgement that ends the subscription.
pub(super) const GOODBYE: u64 = u64::MAX;

/// Length of the publisher's answer, in bytes.
pub(super) const ANSWER: usize = 16;

/// A push is not taken, or broken off: what it brings is asked for in another way, or not wanted.
pub(super) const REFUSED: VarInt = VarInt::from_u32(1);

/// What a subscriber asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Tells this subscription from the subscriber's others.
    pub(super) subscription: u64,
    /// Which of the subscription's streams this is; higher ones replace lower ones.
    pub(super) attempt: u64,
    /// The channel.
    pub(super) channel: String,
    /// The publisher's run, and where the subscription goes on in it.
    pub(super) resume: Option<(u64, Resume)>,
}

impl Request {
    /// The request with its length before it.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = Writer::new();
        body.u8(VERSION).u64(self.subscription).u64(self.attempt);
        body.text(&self.channel).bool(self.resume.is_some());
        if let Some((boot, resume)) = self.resume {
            body.u64(boot).u64(resume.taken).u64(resume.next);
        }
        with_length(body)
    }

    /// Parses a request without its length.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        version(&mut from)?;
        let (subscription, attempt) = (from.u64()?, from.u64()?);
        let channel = channel(&mut from)?;
        let resume = if from.bool()? {
            Some((from.u64()?, Resume { taken: from.u64()?, next: from.u64()? }))
        } else {
            None
        };
        from.finish()?;
        if resume.is_some_and(|(_, r)| r.taken > r.next) {
            return Err(Malformed::Invalid("a place"));
        }
        Ok(Self { subscription, attempt, channel, resume })
    }

    /// Reads a request. `Ok(None)` where it is not one.
    pub(super) async fn read(from: &mut RecvStream) -> Result<Option<Self>, ReadExactError> {
        Ok(read_body(from).await?.and_then(|body| Self::parse(&body).ok()))
    }
}

/// What a publisher sends without being asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Push {
    /// The channel.
    pub(super) channel: String,
    /// The publisher's run.
    pub(super) boot: u64,
    /// The first event that follows.
    pub(super) first: u64,
    /// The subscription that it continues. Where there is none, any may take it to begin with.
    pub(super) subscription: Option<u64>,
}

impl Push {
    /// The push with its length before it.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = Writer::new();
        body.u8(VERSION).text(&self.channel).u64(self.boot).u64(self.first);
        body.bool(self.subscription.is_some());
        if let Some(subscription) = self.subscription {
            body.u64(subscription);
        }
        with_length(body)
    }

    /// Parses a push without its length.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        version(&mut from)?;
        let (channel, boot, first) = (channel(&mut from)?, from.u64()?, from.u64()?);
        let subscription = if from.bool()? { Some(from.u64()?) } else { None };
        from.finish()?;
        if first == 0 {
            return Err(Malformed::Invalid("a sequence number"));
        }
        Ok(Self { channel, boot, first, subscription })
    }

    /// Reads the start of a push. `Ok(None)` where it is not one.
    pub(super) async fn read(from: &mut RecvStream) -> Result<Option<Self>, ReadExactError> {
        Ok(read_body(from).await?.and_then(|body| Self::parse(&body).ok()))
    }
}

/// What a subscriber answers to a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// As in [`Request`].
    pub(super) attempt: u64,
    /// The subscription that is fed by the stream, then the peer's others to the same channel, which will
    /// ask and are owed the same events. At least one.
    pub(super) subscriptions: Vec<u64>,
}

impl Taken {
    /// The whole answer.
    pub(super) fn encode(&self) -> Vec<u8> {
        let count = self.subscriptions.len().min(MAX_SUBSCRIPTIONS);
        let mut out = Writer::new();
        out.u16(u16::try_from(count).unwrap_or(u16::MAX)).u64(self.attempt);
        for subscription in &self.subscriptions[..count] {
            out.u64(*subscription);
        }
        out.finish()
    }

    /// How many bytes follow the two that say how many subscriptions there are.
    fn length(count: [u8; 2]) -> Result<usize, Malformed> {
        match usize::from(u16::from_be_bytes(count)) {
            count @ 1..=MAX_SUBSCRIPTIONS => Ok(8 + 8 * count),
            _ => Err(Malformed::Invalid("a number of subscriptions")),
        }
    }

    /// Parses a whole answer.
    fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let (count, body) = bytes.split_first_chunk().ok_or(Malformed::Truncated)?;
        let length = Self::length(*count)?;
        let mut from = Reader::new(body);
        let attempt = from.u64()?;
        let subscriptions = (1..length / 8).map(|_| from.u64()).collect::<Result<_, _>>()?;
        from.finish()?;
        Ok(Self { attempt, subscriptions })
    }

    /// Reads an answer. `Ok(None)` where it is not one.
    pub(super) async fn read(from: &mut RecvStream) -> Result<Option<Self>, ReadExactError> {
        let mut count = [0; 2];
        from.read_exact(&mut count).await?;
        let Ok(length) = Self::length(count) else { return Ok(None) };
        let mut answer = vec![0; 2 + length];
        answer[..2].copy_from_slice(&count);
        from.read_exact(&mut answer[2..]).await?;
        Ok(Self::parse(&answer).ok())
    }
}

fn version(from: &mut Reader<'_>) -> Result<(), Malformed> {
    if from.u8()? == VERSION { Ok(()) } else { Err(Malformed::Invalid("a version")) }
}

fn channel(from: &mut Reader<'_>) -> Result<String, Malformed> {
    let channel = from.text(MAX_CHANNEL_NAME, "a channel")?;
    if super::is_valid_name(channel) { Ok(channel.to_owned()) } else { Err(Malformed::Invalid("a channel")) }
}

fn with_length(body: Writer) -> Vec<u8> {
    let mut out = Writer::new();
    out.u16(u16::try_from(body.len()).unwrap_or(u16::MAX)).bytes(&body.finish());
    out.finish()
}

async fn read_body(from: &mut RecvStream) -> Result<Option<Vec<u8>>, ReadExactError> {
    let mut length = [0; 2];
    from.read_exact(&mut length).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > MAX_REQUEST {
        return Ok(None);
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).await?;
    Ok(Some(body))
}

/// The publisher's answer: its run, and where it starts.
pub(super) fn answer(boot: u64, first: u64) -> [u8; ANSWER] {
    let mut bytes = [0; ANSWER];
    bytes[..8].copy_from_slice(&boot.to_be_bytes());
    bytes[8..].copy_from_slice(&first.to_be_bytes());
    bytes
}

/// The run and the start in a publisher's answer.
pub(super) fn parse_answer(bytes: &[u8; ANSWER]) -> Result<(u64, u64), Malformed> {
    let mut from = Reader::new(bytes);
    Ok((from.u64()?, from.u64()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_these_bytes() {
        let resume = Some((6, Resume { taken: 7, next: 8 }));
        let request = Request { subscription: 5, attempt: 3, channel: "ab".into(), resume };
        #[rustfmt::skip]
        let golden = [
            0, 45, 2,  0, 0, 0, 0, 0, 0, 0, 5,  0, 0, 0, 0, 0, 0, 0, 3,  2, b'a', b'b',  1,
            0, 0, 0, 0, 0, 0, 0, 6,  0, 0, 0, 0, 0, 0, 0, 7,  0, 0, 0, 0, 0, 0, 0, 8,
        ];
        assert_eq!(request.encode(), golden);
        assert_eq!(Request::parse(&golden[2..]), Ok(request.clone()));
        for end in 2..golden.len() {
            assert!(Request::parse(&golden[2..end]).is_err(), "cut at {end}");
        }
        let fresh = Request { resume: None, ..request.clone() };
        assert_eq!(Request::parse(&fresh.encode()[2..]), Ok(fresh));
        let backwards = Request { resume: Some((6, Resume { taken: 9, next: 8 })), ..request };
        assert!(Request::parse(&backwards.encode()[2..]).is_err());
    }

    #[test]
    fn an_answer_has_these_bytes() {
        let bytes = answer(1, 2);
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(parse_answer(&bytes), Ok((1, 2)));
    }

    #[test]
    fn a_push_has_these_bytes() {
        let push = Push { channel: "ab".into(), boot: 6, first: 7, subscription: Some(5) };
        #[rustfmt::skip]
        let golden = [
            0, 29, 2,  2, b'a', b'b',  0, 0, 0, 0, 0, 0, 0, 6,  0, 0, 0, 0, 0, 0, 0, 7,
            1,  0, 0, 0, 0, 0, 0, 0, 5,
        ];
        assert_eq!(push.encode(), golden);
        assert_eq!(Push::parse(&golden[2..]), Ok(push.clone()));
        for end in 2..golden.len() {
            assert!(Push::parse(&golden[2..end]).is_err(), "cut at {end}");
        }
        let to_any = Push { subscription: None, ..push.clone() };
        assert_eq!(Push::parse(&to_any.encode()[2..]), Ok(to_any));
        assert!(Push::parse(&Push { first: 0, ..push }.encode()[2..]).is_err());
    }

    #[test]
    fn the_answer_to_a_push_has_these_bytes() {
        let taken = Taken { attempt: 3, subscriptions: vec![5, 6] };
        #[rustfmt::skip]
        let golden =
            [0, 2,  0, 0, 0, 0, 0, 0, 0, 3,  0, 0, 0, 0, 0, 0, 0, 5,  0, 0, 0, 0, 0, 0, 0, 6];
        assert_eq!(taken.encode(), golden);
        assert_eq!(Taken::parse(&golden), Ok(taken));
        for end in 0..golden.len() {
            assert!(Taken::parse(&golden[..end]).is_err(), "cut at {end}");
        }
        assert!(Taken::parse(&[&golden[..], &[0]].concat()).is_err(), "one byte more");
        assert!(Taken::length([0, 0]).is_err() && Taken::length([4, 1]).is_err());
        assert_eq!(Taken::length([4, 0]), Ok(8 + 8 * 1024));
    }
}
