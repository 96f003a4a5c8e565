//! `publish`: one event, or one per line of standard input.

use std::io::Read as _;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use clap::Args;
use futures_util::Stream;

use crate::admin::client::Client;
use crate::home::Home;
use crate::text;

/// Bytes read from standard input at a time.
const PIECE: usize = 64 * 1024;

/// Pieces read ahead of what the node has taken.
const AHEAD: usize = 4;

/// Publish a message, or one message per line of standard input
///
/// Ends with 0 once the node has taken every one of them.
#[derive(Debug, Args)]
pub(super) struct Publish {
    /// The channel
    #[arg(value_parser = text::parse_channel)]
    channel: String,
    /// The message [default: one per line of standard input]
    message: Option<String>,
}

impl Publish {
    pub(super) fn run(self, home: &Home) -> anyhow::Result<()> {
        super::block_on(async {
            let client = Client::new(home);
            match self.message {
                Some(message) => client.publish(&self.channel, message.into()).await?,
                None => {
                    let (failed, mut failure) = tokio::sync::oneshot::channel();
                    let sent = client.publish_lines(&self.channel, stdin(failed)).await;
                    // The cause is known before the request breaks off because of it.
                    match failure.try_recv() {
                        Ok(error) => return Err(error).context("cannot read standard input"),
                        Err(_) => sent?,
                    }
                }
            };
            Ok(())
        })
    }
}

/// Standard input in pieces. A thread reads it, because a read cannot be interrupted and must not keep
/// the process when the node refuses early; it ends with the process.
fn stdin(
    failed: tokio::sync::oneshot::Sender<std::io::Error>,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + Sync {
    let (sender, receiver) = tokio::sync::mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut buffer = BytesMut::new();
        loop {
            buffer.resize(PIECE, 0);
            let piece = match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => Ok(buffer.split_to(read).freeze()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let kind = error.kind();
                    // The body must break off, or the node would take half a line for a whole one.
                    let _ = failed.send(error);
                    let _ = sender.blocking_send(Err(kind.into()));
                    return;
                }
            };
            if sender.blocking_send(piece).is_err() {
                return;
            }
        }
    });
    futures_util::stream::unfold(receiver, async |mut receiver| {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    })
}
