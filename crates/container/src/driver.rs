//! The task that serves the launcher's socket on the agent's side.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, WaitOptions};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

use crate::channel::{Inbox, Outbox};
use crate::error::{LauncherError, SpawnError};
use crate::handle::ContainerExit;
use crate::message::{Answer, Call, Event, Request, Spawned};
use crate::spec::Target;

/// To the driver. The channel is as long as there are calls in flight, which callers bound.
pub(crate) enum Message {
    Call {
        request: Request,
        fds: Vec<OwnedFd>,
        reply: oneshot::Sender<Result<Reply, LauncherError>>,
    },
    Cancel {
        id: u64,
    },
    /// Nobody took the answer that named this process.
    Abandon {
        pid: i32,
    },
}

/// From the driver.
pub(crate) struct Reply {
    pub(crate) answer: Answer,
    pub(crate) fds: Vec<OwnedFd>,
    /// For processes.
    process: Option<NewProcess>,
}

/// A process that nobody has taken yet. Dropped, it is killed: the caller gave up between the
/// answer's arrival and its own next turn.
struct NewProcess {
    pid: i32,
    exit: Option<oneshot::Receiver<i32>>,
    calls: Option<mpsc::UnboundedSender<Message>>,
}

impl Drop for NewProcess {
    fn drop(&mut self) {
        if let (Some(_), Some(calls)) = (&self.exit, &self.calls) {
            let _ = calls.send(Message::Abandon { pid: self.pid });
        }
    }
}

impl Reply {
    fn new(answer: Answer, fds: Vec<OwnedFd>) -> Self {
        Self { answer, fds, process: None }
    }

    /// Takes the new process.
    pub(crate) fn spawned(self) -> Result<(Spawned, oneshot::Receiver<i32>), SpawnError> {
        let exit = self.process.and_then(|mut process| process.exit.take());
        match (self.answer, exit) {
            (Answer::Spawned(spawned), Some(exit)) => Ok((spawned, exit)),
            (Answer::SpawnFailed(error), _) => Err(error),
            (Answer::Failed { message }, _) => Err(SpawnError::Internal { message }),
            _ => Err(SpawnError::Internal { message: "not an answer to a spawn".to_owned() }),
        }
    }
}

/// Serves the socket; one task.
pub(crate) struct Driver {
    launcher: Pid,
    calls: mpsc::UnboundedReceiver<Message>,
    /// The other end, without keeping it open.
    callers: mpsc::WeakUnboundedSender<Message>,
    exit: watch::Sender<Option<ContainerExit>>,
    inbox: Inbox,
    outbox: Outbox,
    waiting: HashMap<u64, oneshot::Sender<Result<Reply, LauncherError>>>,
    running: HashMap<i32, oneshot::Sender<i32>>,
}

impl Driver {
    pub(crate) fn new(
        launcher: Pid,
        calls: mpsc::UnboundedReceiver<Message>,
        callers: mpsc::WeakUnboundedSender<Message>,
        exit: watch::Sender<Option<ContainerExit>>,
    ) -> Self {
        Self {
            launcher,
            calls,
            callers,
            exit,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            waiting: HashMap::new(),
            running: HashMap::new(),
        }
    }

    /// Serves until the last handle or the launcher is gone, and reaps the launcher.
    pub(crate) async fn run(mut self, socket: OwnedFd) {
        let served = match UnixStream::from_std(socket.into()) {
            // The launcher ends with its socket.
            Ok(socket) => self.serve(&socket).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::warn!(%error, "container launcher lost");
        }
        self.exit.send_if_modified(|exit| {
            let lost = exit.is_none();
            exit.get_or_insert(ContainerExit::LauncherLost);
            lost
        });
        let launcher = self.launcher;
        let reaped = tokio::task::spawn_blocking(move || {
            let _ = rustix::process::waitpid(Some(launcher), WaitOptions::empty());
        });
        let _ = reaped.await;
    }

    /// Serves until the last handle is gone.
    async fn serve(&mut self, socket: &UnixStream) -> io::Result<()> {
        loop {
            tokio::select! {
                message = self.calls.recv() => match message {
                    None => return Ok(()),
                    Some(message) => self.accept(message),
                },
                ready = socket.readable() => {
                    ready?;
                    let open = self.read(socket)?;
                    while let Some((event, fds)) = self.inbox.next::<Event>()? {
                        self.deliver(event, fds);
                    }
                    if !open {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                ready = socket.writable(), if !self.outbox.is_empty() => ready?,
            }
            self.write(socket)?;
        }
    }

    /// Reads all that is there. Returns false at the end of the stream.
    fn read(&mut self, socket: &UnixStream) -> io::Result<bool> {
        let result = socket.try_io(Interest::READABLE, || match self.inbox.fill(socket)? {
            // Tells the runtime to wait for more.
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => Ok(()),
        });
        match result {
            Ok(()) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Writes as much as the socket takes.
    fn write(&mut self, socket: &UnixStream) -> io::Result<()> {
        let result = socket.try_io(Interest::WRITABLE, || {
            self.outbox.flush(socket)?;
            // What is left found the socket full.
            if self.outbox.is_empty() { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
        });
        match result {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    fn accept(&mut self, message: Message) {
        match message {
            Message::Call { request, fds, reply } => match self.outbox.push(&request, fds) {
                Ok(()) => drop(self.waiting.insert(request.id, reply)),
                Err(_) => {
                    let message = "Argument list too long".to_owned();
                    let answer = Answer::SpawnFailed(SpawnError::TooLong { message });
                    let _ = reply.send(Ok(Reply::new(answer, Vec::new())));
                }
            },
            Message::Cancel { id } => {
                self.waiting.remove(&id);
                self.tell(Call::Cancel { id });
            }
            Message::Abandon { pid } => self.tell(kill(pid)),
        }
    }

    /// Sends a call whose answer is of no interest.
    fn tell(&mut self, call: Call) {
        let _ = self.outbox.push(&Request { id: 0, call }, Vec::new());
    }

    fn deliver(&mut self, event: Event, fds: Vec<OwnedFd>) {
        match event {
            Event::Answer { id, answer } => {
                let mut reply = Reply::new(answer, fds);
                if let Answer::Spawned(spawned) = &reply.answer {
                    let (sender, receiver) = oneshot::channel();
                    self.running.insert(spawned.pid, sender);
                    let calls = self.callers.upgrade();
                    reply.process =
                        Some(NewProcess { pid: spawned.pid, exit: Some(receiver), calls });
                }
                // What nobody waits for is dropped here, and a process in it killed.
                if let Some(waiting) = self.waiting.remove(&id) {
                    let _ = waiting.send(Ok(reply));
                }
            }
            Event::Exited { pid, code } => {
                if let Some(running) = self.running.remove(&pid) {
                    let _ = running.send(code);
                }
            }
            Event::ContainerExited { code, signal } => {
                self.exit.send_replace(Some(ContainerExit::Init { code, signal }));
            }
        }
    }
}

fn kill(pid: i32) -> Call {
    Call::Signal { pid, signal: libc::SIGKILL, target: Target::Group }
}
