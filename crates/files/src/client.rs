//! The agent's side of a call: starts a helper, and passes bodies on in bounded memory.

use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::error::FsError;
use crate::request::Request;
use crate::wire::{ALIVE, DATA, END, HEAD, HEADER_LEN, Head, PAYLOAD_MAX, REQUEST};
use crate::wire::{header, parse_header};

/// How long a helper may show no sign of life, while something is expected of it, before it is
/// killed: a file system in user space may never answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where helpers run.
#[derive(Clone, Debug)]
pub enum Runner {
    /// In threads of this process, as its user, on its files. A thread cannot be killed, so a
    /// file system that hangs keeps it.
    Plain,
}

/// Carries out filesystem calls. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Files {
    runner: Runner,
    patience: Duration,
}

impl Files {
    /// Makes calls that run where `runner` says.
    #[must_use]
    pub const fn new(runner: Runner) -> Self {
        Self { runner, patience: PATIENCE }
    }

    /// Changes how long a helper may show no sign of life; for tests.
    #[must_use]
    pub const fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Begins a call.
    ///
    /// # Errors
    /// No helper could be started.
    pub async fn start(&self, request: &Request) -> Result<Call, FsError> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(|e| internal(&e))?;
        ours.set_nonblocking(true).map_err(|e| internal(&e))?;
        let stream = UnixStream::from_std(ours).map_err(|e| internal(&e))?;
        let helper = self.run_helper(OwnedFd::from(theirs), request.as_root).await?;
        let (read, write) = stream.into_split();
        let write = Sender { write, patience: self.patience };
        let mut call = Call {
            read,
            buffer: BytesMut::new(),
            sender: Some(write),
            patience: self.patience,
            ended: false,
            _helper: helper,
        };
        let json = serde_json::to_vec(request).map_err(|e| internal(&e.into()))?;
        if json.len() > PAYLOAD_MAX {
            return Err(FsError::invalid("", "the request is too long"));
        }
        if let Some(sender) = &mut call.sender {
            sender.frame(REQUEST, Bytes::from(json)).await?;
        }
        Ok(call)
    }

    async fn run_helper(&self, socket: OwnedFd, _as_root: bool) -> Result<Helper, FsError> {
        match &self.runner {
            Runner::Plain => {
                let thread = std::thread::Builder::new()
                    .name("files".to_owned())
                    // Deep trees are walked by recursion.
                    .stack_size(8 * 1024 * 1024)
                    // The agent's side sees what went wrong.
                    .spawn(move || drop(crate::helper::serve(socket)));
                thread.map_err(|e| internal(&e))?;
                Ok(Helper::Thread)
            }
        }
    }
}

/// The helper of a call; killed when it is dropped, if it can be.
#[derive(Debug)]
enum Helper {
    Thread,
}

fn internal(error: &std::io::Error) -> FsError {
    FsError {
        status: 500,
        code: "EIO".to_owned(),
        text: format!("input/output error: start of a file helper: {error}"),
        path: String::new(),
    }
}

fn failed(what: &str) -> FsError {
    FsError {
        status: 500,
        code: "EIO".to_owned(),
        text: format!("input/output error: {what}"),
        path: String::new(),
    }
}

fn hung(patience: Duration) -> FsError {
    failed(&format!("the file system did not answer for {} s", patience.as_secs()))
}

/// The body of a write on its way to the helper.
#[derive(Debug)]
pub struct Sender {
    write: OwnedWriteHalf,
    patience: Duration,
}

impl Sender {
    async fn frame(&mut self, kind: u8, payload: Bytes) -> Result<(), FsError> {
        let head = header(kind, payload.len());
        let mut frame = Buf::chain(&head[..], payload);
        let sent = tokio::time::timeout(self.patience, self.write.write_all_buf(&mut frame)).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(failed("the file helper has ended")),
            Err(_) => Err(hung(self.patience)),
        }
    }

    /// Sends a piece of the body.
    ///
    /// # Errors
    /// The helper takes no more; if it failed, [`Call::head`] tells why.
    pub async fn send(&mut self, mut bytes: Bytes) -> Result<(), FsError> {
        while bytes.has_remaining() {
            let piece = bytes.split_to(bytes.len().min(PAYLOAD_MAX));
            self.frame(DATA, piece).await?;
        }
        Ok(())
    }

    /// Says that the body is complete. Without it nothing is written.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub async fn finish(mut self) -> Result<(), FsError> {
        self.frame(END, Bytes::new()).await
    }
}

/// A call under way. Dropping it gives it up.
#[derive(Debug)]
pub struct Call {
    read: OwnedReadHalf,
    buffer: BytesMut,
    sender: Option<Sender>,
    patience: Duration,
    ended: bool,
    _helper: Helper,
}

impl Call {
    /// Takes the way to send a body, once.
    pub fn take_sender(&mut self) -> Option<Sender> {
        self.sender.take()
    }

    async fn frame(&mut self) -> Result<(u8, Bytes), FsError> {
        let patience = self.patience;
        let frame = async {
            self.fill(HEADER_LEN).await?;
            let mut head = [0; HEADER_LEN];
            self.buffer.copy_to_slice(&mut head);
            let (kind, len) = parse_header(head).map_err(|_| failed("bad helper frame"))?;
            self.fill(len).await?;
            Ok((kind, self.buffer.split_to(len).freeze()))
        };
        tokio::time::timeout(patience, frame).await.map_err(|_| hung(patience))?
    }

    async fn fill(&mut self, len: usize) -> Result<(), FsError> {
        while self.buffer.len() < len {
            self.buffer.reserve(PAYLOAD_MAX.min(len.max(4096)));
            match self.read.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Err(failed("the file helper ended early")),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// Waits for the answer's beginning.
    ///
    /// # Errors
    /// The helper ended, or showed no sign of life for too long. Errors of the call itself are
    /// heads with their status.
    pub async fn head(&mut self) -> Result<Head, FsError> {
        loop {
            match self.frame().await? {
                (ALIVE, _) => {}
                (HEAD, json) => {
                    return serde_json::from_slice(&json).map_err(|_| failed("bad helper answer"));
                }
                _ => return Err(failed("bad helper answer")),
            }
        }
    }

    /// Returns the next piece of the answer's body, `None` after the last.
    ///
    /// # Errors
    /// The body is incomplete: the file became shorter, or the helper hangs or is gone.
    pub async fn data(&mut self) -> Result<Option<Bytes>, FsError> {
        while !self.ended {
            match self.frame().await? {
                (ALIVE, _) => {}
                (DATA, bytes) => return Ok(Some(bytes)),
                (END, _) => self.ended = true,
                _ => return Err(failed("bad helper answer")),
            }
        }
        Ok(None)
    }
}
