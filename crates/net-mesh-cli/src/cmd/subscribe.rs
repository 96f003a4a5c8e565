//! `subscribe`: the events of a channel, as they come.

use anyhow::bail;
use bytes::{Bytes, BytesMut};
use clap::Args;
use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::admin::client::Client;
use crate::admin::frames;
use crate::home::Home;
use crate::{stdout, text};

/// How much is collected before it is written although more is there.
const FULL: usize = 64 * 1024;

/// Print the events of a channel: their payloads, one a line
#[derive(Debug, Args)]
pub(super) struct Subscribe {
    /// The channel
    #[arg(value_parser = text::parse_channel)]
    channel: String,
    /// End after this many events [default: go on until interrupted]
    #[arg(short = 'n', long = "count", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print JSON, one object a line, with sender, sequence number and time
    #[arg(long)]
    json: bool,
}

/// What is left to print, and what is ready to be written.
struct Printer {
    json: bool,
    left: Option<u64>,
    input: BytesMut,
    output: Vec<u8>,
}

impl Subscribe {
    pub(super) fn run(self, home: &Home) -> anyhow::Result<()> {
        super::block_on(async {
            let body = Client::new(home).subscribe(&self.channel, self.json).await?;
            let mut printer = Printer {
                json: self.json,
                left: self.count,
                input: BytesMut::new(),
                output: Vec::with_capacity(2 * FULL),
            };
            tokio::select! {
                result = printer.print(body, home) => result,
                _ = tokio::signal::ctrl_c() => printer.flush(),
            }
        })
    }
}

impl Printer {
    async fn print(&mut self, mut body: Incoming, home: &Home) -> anyhow::Result<()> {
        loop {
            let frame = match body.frame().now_or_never() {
                Some(frame) => frame,
                None => {
                    // Nothing more is here: let the reader have what there is.
                    self.flush()?;
                    body.frame().await
                }
            };
            let Some(Ok(frame)) = frame else {
                self.flush()?;
                bail!("the node has stopped: start it with `{}` and subscribe again", home.command("up"));
            };
            if let Ok(data) = frame.into_data() {
                self.take(&data);
            }
            if self.left == Some(0) {
                return self.flush();
            }
            if self.output.len() >= FULL {
                self.flush()?;
            }
        }
    }

    fn take(&mut self, data: &Bytes) {
        self.input.extend_from_slice(data);
        while self.left != Some(0) {
            if !(if self.json { self.take_line() } else { self.take_frame() }) {
                return;
            }
            if let Some(left) = &mut self.left {
                *left -= 1;
            }
        }
    }

    fn take_line(&mut self) -> bool {
        let Some(end) = memchr::memchr(b'\n', &self.input) else { return false };
        self.output.extend_from_slice(&self.input.split_to(end + 1));
        true
    }

    fn take_frame(&mut self) -> bool {
        let Some(frame) = frames::decode(&mut self.input) else { return false };
        if frame.restarted {
            eprintln!("net-mesh: a publisher has restarted; what it had not delivered before is lost");
        }
        if frame.missed > 0 {
            eprintln!("net-mesh: {} events were lost before the next one", frame.missed);
        }
        self.output.extend_from_slice(&frame.payload);
        self.output.push(b'\n');
        true
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let result = stdout::write(&self.output);
        self.output.clear();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printer(json: bool, left: Option<u64>) -> Printer {
        Printer { json, left, input: BytesMut::new(), output: Vec::new() }
    }

    #[test]
    fn payloads_come_one_a_line_wherever_the_stream_is_cut() {
        let stream = b"\0\0\0\x03\0\0\0\0one\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\0\xff\n";
        for cut in 0..stream.len() {
            let mut printer = printer(false, None);
            printer.take(&Bytes::copy_from_slice(&stream[..cut]));
            printer.take(&Bytes::copy_from_slice(&stream[cut..]));
            assert_eq!(printer.output, b"one\n\n\xff\n\n", "{cut}");
        }
    }

    #[test]
    fn json_is_passed_on_and_ends_after_as_many_as_were_asked_for() {
        let mut printer = printer(true, Some(2));
        printer.take(&Bytes::from_static(b"{\"a\":1}\n{\"b\""));
        assert_eq!(printer.left, Some(1));
        printer.take(&Bytes::from_static(b":2}\n{\"c\":3}\n"));
        assert_eq!((printer.left, printer.output.as_slice()), (Some(0), &b"{\"a\":1}\n{\"b\":2}\n"[..]));
    }
}
