//! One stream of session frames: bytes to frames and back, between a connection and the
//! session's task.

use std::time::Duration;

use bytes::BytesMut;
use sprite_link::session::SessionFrame;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};

use crate::batch::Batch;
use crate::task::Command;

/// How long a host has to take the last frames, and to say farewell after them.
const FAREWELL: Duration = Duration::from_secs(10);
/// How long a stream that the session has given up may take to write what it was handed.
const CUT_GRACE: Duration = Duration::from_secs(1);
const READ_BYTES: usize = 64 * 1024;

/// An accepted attachment that waits for its byte stream.
///
/// Dropping it unserved counts as a broken stream.
#[derive(Debug)]
pub struct Connection {
    pub(crate) stream: u64,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) batches: mpsc::Receiver<Batch>,
    /// Resolves when the session gives the stream up.
    pub(crate) cut: oneshot::Receiver<()>,
    pub(crate) _counted: Counted,
}

/// Counts for as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted(watch::Sender<usize>);

impl Counted {
    pub(crate) fn new(count: watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Connection {
    /// Carries frames until either side ends the stream.
    pub async fn serve(mut self, io: impl AsyncRead + AsyncWrite) {
        let (read, write) = tokio::io::split(io);
        let (stream, commands) = (self.stream, self.commands.clone());
        let reader = read_frames(read, stream, &commands);
        let writer = write_batches(write, stream, &mut self.batches, &commands);
        let cut = async {
            // Resolves with an error when the session drops its end.
            let _ = (&mut self.cut).await;
            tokio::time::sleep(CUT_GRACE).await;
        };
        tokio::pin!(reader);
        tokio::select! {
            () = &mut reader => {}
            finished = writer => {
                // The host may still acknowledge and say farewell, or has done so before it
                // closed the stream under our output.
                let limit = if finished { FAREWELL } else { CUT_GRACE };
                let _ = tokio::time::timeout(limit, reader).await;
            }
            () = cut => {}
        }
        // `self` is dropped here and tells the session.
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let broken = Command::Broken { stream: self.stream };
        if let Err(mpsc::error::TrySendError::Full(broken)) = self.commands.try_send(broken)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let commands = self.commands.clone();
            runtime.spawn(async move {
                // An error means that the session is over, which is just as well.
                let _ = commands.send(broken).await;
            });
        }
    }
}

async fn read_frames(
    mut read: impl AsyncRead + Unpin,
    stream: u64,
    commands: &mpsc::Sender<Command>,
) {
    let mut buffer = BytesMut::new();
    loop {
        match SessionFrame::decode(&mut buffer) {
            Ok(Some(frame)) => {
                if commands.send(Command::Frame { stream, frame }).await.is_err() {
                    return;
                }
            }
            Ok(None) => {
                if buffer.is_empty() {
                    // Do not hold on to a big buffer while nothing comes.
                    buffer = BytesMut::with_capacity(4 * 1024);
                } else {
                    buffer.reserve(READ_BYTES);
                }
                match read.read_buf(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            }
            Err(error) => {
                tracing::debug!(%error, "session stream is damaged");
                return;
            }
        }
    }
}

/// Returns true if the last frame was written, false if the stream is of no use any more.
async fn write_batches(
    mut write: impl AsyncWrite + Unpin,
    stream: u64,
    batches: &mut mpsc::Receiver<Batch>,
    commands: &mpsc::Sender<Command>,
) -> bool {
    while let Some(batch) = batches.recv().await {
        if write.write_all(&batch.bytes).await.is_err() || write.flush().await.is_err() {
            return false;
        }
        if batch.last {
            return write.shutdown().await.is_ok();
        }
        if commands.send(Command::Wants { stream }).await.is_err() {
            // The session is over, but what it sent last may still be in the channel.
            continue;
        }
    }
    false
}
