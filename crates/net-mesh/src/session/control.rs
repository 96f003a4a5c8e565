//! Control messages on a stream: a 32-bit length, then the message.

use quinn::{ReadExactError, RecvStream, SendStream, WriteError};
use tokio::sync::mpsc;

/// Longest control message, in bytes. The largest, a batch of records, is kept below 48 KiB.
const MAX_MESSAGE: usize = 64 << 10;

/// Writes messages until the queue closes.
pub(super) async fn write(mut to: SendStream, mut queue: mpsc::Receiver<Vec<u8>>) -> Result<(), WriteError> {
    while let Some(message) = queue.recv().await {
        let Ok(length) = u32::try_from(message.len()) else { continue };
        to.write_all(&length.to_be_bytes()).await?;
        to.write_all(&message).await?;
    }
    Ok(())
}

/// The next message. `None` at the end of the stream, or where a message is longer than any may be.
pub(super) async fn read(from: &mut RecvStream) -> Result<Option<Vec<u8>>, ReadExactError> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE {
        return Ok(None);
    }
    let mut message = vec![0; length];
    from.read_exact(&mut message).await?;
    Ok(Some(message))
}
