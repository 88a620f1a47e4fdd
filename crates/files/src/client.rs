//! The agent's side of a call: starts a helper, and passes bodies on in bounded memory.

use std::fmt;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use sprite_container::{HelperProcess, Launcher, SpawnError, Target, User};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot::error::TryRecvError;

use crate::error::FsError;
use crate::request::Request;
use crate::wire::{ALIVE, DATA, END, HEAD, HEADER_LEN, Head, PAYLOAD_MAX, REQUEST};
use crate::wire::{header, parse_header};

/// Name under which the launcher knows the helper.
pub const HELPER: &str = "files";
/// How long a helper may show no sign of life, while something is expected of it, before it is
/// killed: a file system in user space may never answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a helper whose call is over has to end by itself.
const END_GRACE: Duration = Duration::from_secs(5);

/// Where helpers run.
#[derive(Clone)]
pub enum Runner {
    /// In processes inside the container. [`crate::helper_main`] must be registered with the
    /// launcher as [`HELPER`].
    Container(Launcher),
    /// In threads of this process, as its user, on its files. A thread cannot be killed, so a
    /// file system that hangs keeps it.
    Plain,
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Container(_) => "Container",
            Self::Plain => "Plain",
        })
    }
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

    async fn run_helper(&self, socket: OwnedFd, as_root: bool) -> Result<Helper, FsError> {
        match &self.runner {
            Runner::Container(launcher) => {
                let user = if as_root { User::Root } else { User::Sprite };
                let process = launcher.helper(user, HELPER, socket);
                let process = tokio::time::timeout(self.patience, process).await;
                let process = process.map_err(|_| hung(self.patience))?.map_err(|error| {
                    let status = if error == SpawnError::Gone { 503 } else { 500 };
                    let what = format!("start of a file helper: {error}");
                    FsError { status, ..failed(&what) }
                })?;
                Ok(Helper::Process { launcher: launcher.clone(), process })
            }
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
enum Helper {
    Thread,
    Process { launcher: Launcher, process: HelperProcess },
}

impl fmt::Debug for Helper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Helper")
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let Self::Process { launcher, process } = self else { return };
        if process.exit.try_recv() != Err(TryRecvError::Empty) {
            return;
        }
        // With its socket gone it ends by itself, unless the file system holds it. An upload
        // that broke off still has its temporary file to remove, hence not at once.
        let (launcher, pid) = (launcher.clone(), process.pid);
        let (_, exit) = tokio::sync::oneshot::channel();
        let exit = std::mem::replace(&mut process.exit, exit);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if tokio::time::timeout(END_GRACE, exit).await.is_err()
                    && let Err(error) = launcher.signal(pid, libc::SIGKILL, Target::Process).await
                {
                    tracing::debug!(%error, "file helper not killed");
                }
            });
        }
    }
}

fn internal(error: &std::io::Error) -> FsError {
    failed(&format!("start of a file helper: {error}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A call whose helper is the test.
    fn call() -> (Call, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (read, write) = ours.into_split();
        let patience = Duration::from_millis(100);
        let sender = Some(Sender { write, patience });
        let buffer = BytesMut::new();
        (Call { read, buffer, sender, patience, ended: false, _helper: Helper::Thread }, theirs)
    }

    async fn send(helper: &mut UnixStream, kind: u8, payload: &[u8]) {
        helper.write_all(&header(kind, payload.len())).await.unwrap();
        helper.write_all(payload).await.unwrap();
    }

    #[tokio::test]
    async fn a_helper_that_hangs_is_given_up_in_words() {
        let (mut call, mut helper) = call();
        let error = call.head().await.unwrap_err();
        assert_eq!((error.status, &error.code[..]), (500, "EIO"));
        assert!(error.text.contains("did not answer"), "{error}");
        // One that takes no input any more, likewise.
        let mut sender = call.take_sender().unwrap();
        let chunk = Bytes::from(vec![0; PAYLOAD_MAX]);
        let mut sent = Ok(());
        for _ in 0..100 {
            sent = sender.send(chunk.clone()).await;
            if sent.is_err() {
                break;
            }
        }
        assert!(sent.unwrap_err().text.contains("did not answer"));
        send(&mut helper, ALIVE, &[]).await;
    }

    #[tokio::test]
    async fn signs_of_life_buy_time() {
        let (mut call, mut helper) = call();
        let head = Head { status: 200, json: false, length: None, range: None };
        let json = serde_json::to_vec(&head).unwrap();
        let work = async {
            for _ in 0..6 {
                tokio::time::sleep(Duration::from_millis(40)).await;
                send(&mut helper, ALIVE, &[]).await;
            }
            send(&mut helper, HEAD, &json).await;
            send(&mut helper, DATA, b"part").await;
            send(&mut helper, END, &[]).await;
        };
        let (answer, ()) = tokio::join!(call.head(), work);
        assert_eq!(answer.unwrap(), head);
        assert_eq!(call.data().await.unwrap().unwrap(), "part");
        assert_eq!(call.data().await, Ok(None));
    }

    #[tokio::test]
    async fn what_a_helper_says_is_not_believed_blindly() {
        for bytes in [
            &[DATA, 0, 0, 0, 0][..],
            &[HEAD, 2, 0, 0, 0, b'{', b'}'],
            &[HEAD, 255, 255, 255, 255],
            &[99, 0, 0, 0, 0],
            &[],
        ] {
            let (mut call, mut helper) = call();
            helper.write_all(bytes).await.unwrap();
            drop(helper);
            assert_eq!(call.head().await.unwrap_err().code, "EIO", "{bytes:?}");
        }
        let (mut call, mut helper) = call();
        send(&mut helper, DATA, b"half").await;
        drop(helper);
        assert!(call.data().await.unwrap().is_some());
        assert!(call.data().await.is_err(), "a body without its end is incomplete");
    }
}
