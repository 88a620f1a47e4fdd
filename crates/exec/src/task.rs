//! The task that owns one session: moves bytes between the process and the streams, and does
//! what [`Core`] decides.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sprite_link::guest::Attached;
use sprite_link::session::{AttachQuery, Output, SessionFrame};
use sprite_types::Clock;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::attachment::CREDITS;
use crate::batch::Batch;
use crate::connection::{Connection, Counted};
use crate::core::{AttachError, Core, Effect};
use crate::info::SessionInfo;
use crate::memory::MemoryShare;
use crate::spawn::{Spawner, Target};

/// Bytes read from the process at a time.
const READ_BYTES: usize = 64 * 1024;
/// Reads before the streams are served again.
const READS_PER_TURN: usize = 4;

/// How often a terminal is looked at that no process has open.
const REOPEN_CHECK: Duration = Duration::from_millis(100);

/// A request to the session's task.
#[derive(Debug)]
pub(crate) enum Command {
    Attach {
        query: AttachQuery,
        reply: oneshot::Sender<Result<Connection, AttachError>>,
    },
    Frame {
        stream: u64,
        frame: SessionFrame,
    },
    /// The stream has written a batch.
    Wants {
        stream: u64,
    },
    /// The stream is gone.
    Broken {
        stream: u64,
    },
    /// Signal the process group; answers whether the process still ran.
    Signal {
        number: i32,
        reply: oneshot::Sender<bool>,
    },
    Port {
        event: Bytes,
    },
}

/// The session's end of a stream. Dropping it ends the stream.
#[derive(Debug)]
struct StreamHandle {
    batches: mpsc::Sender<Batch>,
    _cut: oneshot::Sender<()>,
}

/// The process's ends of its standard streams.
#[derive(Debug)]
pub(crate) struct ProcessIo {
    pub(crate) stdin: Option<AsyncFd<OwnedFd>>,
    pub(crate) stdout: Option<AsyncFd<OwnedFd>>,
    pub(crate) stderr: Option<AsyncFd<OwnedFd>>,
}

impl ProcessIo {
    /// Takes over the descriptors of a new process.
    pub(crate) fn new(
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: Option<OwnedFd>,
    ) -> std::io::Result<Self> {
        let register = |fd: OwnedFd| {
            rustix::io::ioctl_fionbio(&fd, true)?;
            crate::sys::watch(fd)
        };
        Ok(Self {
            stdin: stdin.map(register).transpose()?,
            stdout: Some(register(stdout)?),
            stderr: stderr.map(register).transpose()?,
        })
    }
}

pub(crate) struct SessionTask {
    pub(crate) core: Core,
    pub(crate) info: Arc<SessionInfo>,
    pub(crate) io: ProcessIo,
    pub(crate) exit: oneshot::Receiver<i32>,
    pub(crate) exited: watch::Sender<Option<i32>>,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// For the connections it makes.
    pub(crate) sender: mpsc::Sender<Command>,
    pub(crate) spawner: Spawner,
    pub(crate) clock: Arc<dyn Clock>,
    /// How many streams there are, of all sessions.
    attached: watch::Sender<usize>,
    memory: MemoryShare,
    streams: HashMap<u64, StreamHandle>,
    /// When to read the terminal again; it was found closed by everybody inside.
    unopened_until: Option<Instant>,
}

enum Event {
    Command(Option<Command>),
    Readable(Output),
    Writable,
    Exit(i32),
    Deadline,
}

impl SessionTask {
    #[expect(clippy::too_many_arguments, reason = "called once, all of it is needed")]
    pub(crate) fn new(
        core: Core,
        info: Arc<SessionInfo>,
        io: ProcessIo,
        exit: oneshot::Receiver<i32>,
        exited: watch::Sender<Option<i32>>,
        commands: (mpsc::Sender<Command>, mpsc::Receiver<Command>),
        spawner: Spawner,
        clock: Arc<dyn Clock>,
        attached: watch::Sender<usize>,
        memory: MemoryShare,
    ) -> Self {
        let (sender, commands) = commands;
        let streams = HashMap::new();
        Self {
            core,
            info,
            io,
            exit,
            exited,
            commands,
            sender,
            spawner,
            clock,
            attached,
            memory,
            streams,
            unopened_until: None,
        }
    }

    /// Runs until nobody needs the session any more.
    pub(crate) async fn run(mut self) {
        loop {
            self.serve_streams();
            self.core.set_window(self.memory.update(self.core.memory()));
            if self.core.is_finished(Instant::now()) {
                return;
            }
            match self.next_event().await {
                // We hold a sender ourselves, so `None` does not happen.
                Event::Command(None) => return,
                Event::Command(Some(command)) => self.command(command).await,
                Event::Readable(output) => self.read(output),
                Event::Writable => self.write_input(),
                Event::Exit(code) => self.process_exited(code),
                Event::Deadline => self.deadline().await,
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let may_read = self.core.may_read();
        let input = if self.info.tty { &self.io.stdout } else { &self.io.stdin };
        let has_input = self.core.input_front().is_some();
        let deadline = self.core.deadline();
        let running = self.core.is_running();
        tokio::select! {
            command = self.commands.recv() => Event::Command(command),
            () = readable(&self.io.stdout), if may_read && self.unopened_until.is_none() => {
                Event::Readable(Output::Stdout)
            }
            () = sleep_until(self.unopened_until), if may_read => Event::Readable(Output::Stdout),
            () = readable(&self.io.stderr), if may_read => Event::Readable(Output::Stderr),
            () = writable(input), if has_input => Event::Writable,
            // Without its starter the process cannot have survived either.
            code = &mut self.exit, if running => Event::Exit(code.unwrap_or(128 + 9)),
            () = sleep_until(deadline) => Event::Deadline,
        }
    }

    async fn command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Attach { query, reply } => {
                let result = self.attach(&query, now);
                if let (Ok(_), Some(cols), Some(rows), true) =
                    (&result, query.cols, query.rows, self.info.tty)
                {
                    self.resize(cols, rows);
                }
                // An attacher that has left drops its connection, which counts as broken.
                let _ = reply.send(result);
            }
            Command::Frame { stream, frame } => match self.core.frame(stream, frame, now) {
                Ok(effect) => {
                    if let Some(effect) = effect {
                        self.perform(effect).await;
                    }
                    self.write_input();
                }
                Err(error) => {
                    tracing::debug!(session_id = %self.info.id, %error, "stream given up");
                    self.core.broken(stream, now);
                    self.streams.remove(&stream);
                }
            },
            Command::Wants { stream } => self.core.wants(stream, now),
            Command::Broken { stream } => {
                self.core.broken(stream, now);
                self.streams.remove(&stream);
            }
            Command::Signal { number, reply } => {
                let running = self.core.is_running();
                if running {
                    self.spawner.signal(self.info.pid, number, Target::Group).await;
                }
                let _ = reply.send(running);
            }
            Command::Port { event } => self.core.port(&event),
        }
    }

    fn attach(&mut self, query: &AttachQuery, now: Instant) -> Result<Connection, AttachError> {
        let view = self.info.view(&*self.clock);
        let greet = |output_from, input_from| {
            let attached =
                Attached { session: view, output_from, input_from, is_owner: query.owner };
            Bytes::from(serde_json::to_vec(&attached).expect("a greeting is plain data"))
        };
        let (stream, replaced) = self.core.attach(query, greet, now)?;
        if let Some(Effect::Close { stream, .. }) = replaced {
            self.streams.remove(&stream);
        }
        let (batch_sender, batches) = mpsc::channel(usize::from(CREDITS) + 1);
        let (cut_sender, cut) = oneshot::channel();
        let handle = StreamHandle { batches: batch_sender, _cut: cut_sender };
        self.streams.insert(stream, handle);
        let counted = Counted::new(self.attached.clone());
        let commands = self.sender.clone();
        Ok(Connection { stream, commands, batches, cut, _counted: counted })
    }

    async fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Resize { cols, rows } if self.info.tty => self.resize(cols, rows),
            Effect::Resize { .. } => {}
            Effect::Signal { number } => {
                let group = self.foreground_group();
                let target = group.map_or(Target::Group, Target::SessionGroup);
                self.spawner.signal(self.info.pid, number, target).await;
            }
            Effect::Terminate => {
                let signal = if self.info.tty { libc::SIGHUP } else { libc::SIGTERM };
                tracing::info!(session_id = %self.info.id, "ending an abandoned command");
                self.spawner.signal(self.info.pid, signal, Target::Group).await;
            }
            Effect::Kill => {
                self.spawner.signal(self.info.pid, libc::SIGKILL, Target::Group).await;
            }
            Effect::Close { stream, last } => {
                if let Some(handle) = self.streams.remove(&stream)
                    && let Some(bytes) = last
                {
                    // The channel has room for one more than the credits.
                    let _ = handle.batches.try_send(Batch { stream, bytes, last: true });
                }
            }
        }
    }

    /// The group that the terminal's signals go to. The kernel translates the number for us.
    fn foreground_group(&self) -> Option<i32> {
        if !self.info.tty {
            return None;
        }
        let terminal = self.io.stdout.as_ref()?;
        let group = rustix::termios::tcgetpgrp(terminal.get_ref()).ok()?;
        Some(group.as_raw_nonzero().get())
    }

    fn resize(&mut self, cols: u16, rows: u16) {
        if let Some(terminal) = &self.io.stdout {
            // A terminal whose process just ended cannot be resized, and need not be.
            if crate::plain::set_size(terminal.get_ref(), cols, rows).is_ok() {
                self.info.set_size(cols, rows);
            }
        }
    }

    fn serve_streams(&mut self) {
        while let Some(batch) = self.core.next_batch() {
            if let Some(handle) = self.streams.get(&batch.stream) {
                // Never full: the core counts credits. Closed: its connection will tell.
                let _ = handle.batches.try_send(batch);
            }
        }
    }

    fn read(&mut self, output: Output) {
        if output == Output::Stdout {
            self.unopened_until = None;
        }
        for _ in 0..READS_PER_TURN {
            if !self.core.may_read() {
                return;
            }
            let slot = match output {
                Output::Stdout => &mut self.io.stdout,
                Output::Stderr => &mut self.io.stderr,
            };
            let Some(fd) = slot else { return };
            let mut room = [const { MaybeUninit::<u8>::uninit() }; READ_BYTES];
            let result = fd.try_io(Interest::READABLE, |fd| {
                let (bytes, _) = rustix::io::read(fd, &mut room[..])?;
                Ok(&*bytes)
            });
            match result {
                Ok(bytes) if !bytes.is_empty() => {
                    self.core.append(output, bytes, Instant::now());
                    self.info.wrote(bytes.len(), &*self.clock);
                    if bytes.len() < READ_BYTES / 16 {
                        return;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // Programs close all they have before they end (`cat` does), and some open their
                // terminal again. To close our end now would hang it up, and so kill them.
                Ok(_) | Err(_) if self.info.tty && self.core.is_running() => {
                    self.unopened_until = Some(Instant::now() + REOPEN_CHECK);
                    return;
                }
                // End of file, or a terminal without a process (EIO).
                Ok(_) | Err(_) => {
                    *slot = None;
                    self.check_output_complete();
                    return;
                }
            }
        }
    }

    fn check_output_complete(&mut self) {
        if !self.core.is_running() && self.io.stdout.is_none() && self.io.stderr.is_none() {
            self.core.output_complete(Instant::now());
        }
    }

    fn write_input(&mut self) {
        if !self.info.tty && self.io.stdin.is_none() {
            self.core.input_closed();
            return;
        }
        while let Some(bytes) = self.core.input_front() {
            let fd = if self.info.tty { &self.io.stdout } else { &self.io.stdin };
            let Some(fd) = fd else { return self.core.input_closed() };
            let result = fd.try_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?));
            match result {
                Ok(len) => self.core.input_written(len),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => {
                    // The process closed its input (EPIPE) or its terminal is gone (EIO).
                    self.io.stdin = None;
                    return self.core.input_closed();
                }
            }
        }
        if self.core.input_at_eof() && !self.info.tty {
            self.io.stdin = None;
            self.core.input_closed();
        }
    }

    fn process_exited(&mut self, code: i32) {
        self.core.exited(code, Instant::now());
        self.core.input_closed();
        self.io.stdin = None;
        self.exited.send_replace(Some(code));
        self.read(Output::Stdout);
        self.read(Output::Stderr);
        self.check_output_complete();
    }

    async fn deadline(&mut self) {
        if self.core.drain_is_due(Instant::now()) {
            // The timer may have won a race against output that is there already.
            self.read(Output::Stdout);
            self.read(Output::Stderr);
            if self.core.drain_is_due(Instant::now()) {
                self.core.output_complete(Instant::now());
                self.discard_rest();
            }
        }
        for effect in self.core.tick(Instant::now()) {
            self.perform(effect).await;
        }
    }

    /// Goes on reading for descendants that outlive the command: a daemon must not be stopped
    /// by a full pipe, nor killed by SIGPIPE.
    fn discard_rest(&mut self) {
        for fd in [self.io.stdout.take(), self.io.stderr.take()].into_iter().flatten() {
            if !self.info.tty {
                tokio::spawn(discard(fd));
            }
        }
    }
}

async fn discard(fd: AsyncFd<OwnedFd>) {
    loop {
        let Ok(mut guard) = fd.readable().await else { return };
        let mut room = [const { MaybeUninit::<u8>::uninit() }; 8 * 1024];
        let result = guard.try_io(|fd| Ok(rustix::io::read(fd, &mut room[..])?.0.len()));
        match result {
            Ok(Ok(0)) => return,
            Ok(Err(error)) if error.kind() != std::io::ErrorKind::Interrupted => return,
            _ => {}
        }
    }
}

async fn readable(fd: &Option<AsyncFd<OwnedFd>>) {
    match fd {
        // An error would show again in the read itself.
        Some(fd) => drop(fd.readable().await),
        None => std::future::pending().await,
    }
}

async fn writable(fd: &Option<AsyncFd<OwnedFd>>) {
    match fd {
        Some(fd) => drop(fd.writable().await),
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
