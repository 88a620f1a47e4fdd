//! The process's own stdin, stdout and stderr, each served by a thread: they may be files,
//! which no event loop can wait for, and may block for as long as they like.

use std::io;
use std::os::fd::AsFd;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, write};
use tokio::sync::{mpsc, oneshot};

/// How much is read at once, in bytes.
const READ_BYTES: usize = 64 * 1024;
/// Pieces of output waiting at most; with pieces of 64 KiB some MiB.
const QUEUE: usize = 32;

/// Reads stdin. The channel ends with it.
pub(crate) fn read_stdin() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(2);
    std::thread::spawn(move || {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let count = match read(io::stdin(), &mut buffer) {
                Ok(0) => return,
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    wait(io::stdin(), PollFlags::IN);
                    continue;
                }
                // A terminal that is gone ends like a file.
                Err(_) => return,
            };
            if sender.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Where output goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Writes stdout and stderr in the order given.
pub(crate) struct Output {
    sender: mpsc::Sender<(Stream, Bytes)>,
    done: oneshot::Receiver<io::Result<()>>,
}

impl Output {
    pub(crate) fn start() -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (report, done) = oneshot::channel();
        std::thread::spawn(move || {
            let _ = report.send(write_all(receiver));
        });
        Self { sender, done }
    }

    /// Waits until there is room for a piece.
    ///
    /// # Errors
    /// Stdout's reader is gone; [`finish`](Self::finish) tells.
    pub(crate) async fn room(
        &self,
    ) -> Result<mpsc::Permit<'_, (Stream, Bytes)>, mpsc::error::SendError<()>> {
        self.sender.reserve().await
    }

    /// Writes a piece now.
    pub(crate) async fn put(&self, stream: Stream, data: Bytes) {
        // Whether it worked, `finish` tells.
        let _ = self.sender.send((stream, data)).await;
    }

    /// Waits until stdout fails.
    pub(crate) async fn broken(&self) {
        self.sender.closed().await;
    }

    /// Waits until everything is written.
    pub(crate) async fn finish(self) -> io::Result<()> {
        drop(self.sender);
        self.done.await.unwrap_or_else(|_| Err(io::Error::other("the output thread died")))
    }
}

fn write_all(mut pieces: mpsc::Receiver<(Stream, Bytes)>) -> io::Result<()> {
    while let Some((stream, data)) = pieces.blocking_recv() {
        match stream {
            Stream::Stdout => write_piece(io::stdout(), &data)?,
            // Without a reader of stderr the command goes on.
            Stream::Stderr => drop(write_piece(io::stderr(), &data)),
        }
    }
    Ok(())
}

fn write_piece(target: impl AsFd, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match write(&target, data) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => data = &data[count..],
            Err(Errno::INTR) => {}
            // Somebody who shares the terminal made it non-blocking.
            Err(Errno::AGAIN) => wait(&target, PollFlags::OUT),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn wait(target: impl AsFd, flags: PollFlags) {
    let mut targets = [PollFd::new(&target, flags)];
    // Too early is no harm: the caller tries again.
    let _ = poll(&mut targets, None);
}
