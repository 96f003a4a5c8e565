//! How a stream of events begins.
//!
//! The subscriber says: length of what follows (16 bits), version (1), subscription (64 bits), channel
//! (length and text), and whether it goes on from somewhere (0, or 1 with the publisher's run and the
//! next sequence number, 64 bits each). The publisher answers with its run and the sequence number it
//! starts from. From then on segments go one way, and acknowledgements the other: the sequence number
//! of the first event that the application has not taken, as 64 bits; all ones ends the subscription.

use net_mesh_proto::wire::{Malformed, Reader, Writer};
use quinn::{ReadExactError, RecvStream};

use super::MAX_CHANNEL_NAME;

const VERSION: u8 = 1;

/// Longest request, in bytes.
const MAX_REQUEST: usize = 1 + 8 + 2 + MAX_CHANNEL_NAME + 1 + 16;

/// An acknowledgement that ends the subscription.
pub(super) const GOODBYE: u64 = u64::MAX;

/// Length of the publisher's answer, in bytes.
pub(super) const ANSWER: usize = 16;

/// What a subscriber asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Tells this subscription from the subscriber's others.
    pub(super) subscription: u64,
    /// The channel.
    pub(super) channel: String,
    /// The publisher's run, and the first event of it that is missing.
    pub(super) resume: Option<(u64, u64)>,
}

impl Request {
    /// The request with its length before it.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = Writer::new();
        body.u8(VERSION).u64(self.subscription).text(&self.channel).bool(self.resume.is_some());
        if let Some((boot, next)) = self.resume {
            body.u64(boot).u64(next);
        }
        let mut out = Writer::new();
        out.u16(u16::try_from(body.len()).unwrap_or(u16::MAX)).bytes(&body.finish());
        out.finish()
    }

    /// Parses a request without its length.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        if from.u8()? != VERSION {
            return Err(Malformed::Invalid("a version"));
        }
        let subscription = from.u64()?;
        let channel = from.text(MAX_CHANNEL_NAME, "a channel")?.to_owned();
        let resume = if from.bool()? { Some((from.u64()?, from.u64()?)) } else { None };
        from.finish()?;
        if !super::is_valid_name(&channel) {
            return Err(Malformed::Invalid("a channel"));
        }
        Ok(Self { subscription, channel, resume })
    }

    /// Reads a request. `Ok(None)` where it is not one.
    pub(super) async fn read(from: &mut RecvStream) -> Result<Option<Self>, ReadExactError> {
        let mut length = [0; 2];
        from.read_exact(&mut length).await?;
        let length = usize::from(u16::from_be_bytes(length));
        if length > MAX_REQUEST {
            return Ok(None);
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body).await?;
        Ok(Self::parse(&body).ok())
    }
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
        let request = Request { subscription: 5, channel: "ab".into(), resume: Some((6, 7)) };
        #[rustfmt::skip]
        let golden = [
            0, 29, 1,  0, 0, 0, 0, 0, 0, 0, 5,  2, b'a', b'b',  1,
            0, 0, 0, 0, 0, 0, 0, 6,  0, 0, 0, 0, 0, 0, 0, 7,
        ];
        assert_eq!(request.encode(), golden);
        assert_eq!(Request::parse(&golden[2..]), Ok(request));
        for end in 2..golden.len() {
            assert!(Request::parse(&golden[2..end]).is_err(), "cut at {end}");
        }
        let fresh = Request { subscription: 5, channel: "ab".into(), resume: None };
        assert_eq!(Request::parse(&fresh.encode()[2..]), Ok(fresh));
    }

    #[test]
    fn an_answer_has_these_bytes() {
        let bytes = answer(1, 2);
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(parse_answer(&bytes), Ok((1, 2)));
    }
}
