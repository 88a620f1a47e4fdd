//! The launcher's loop: one poll over the agent's socket and everything it started.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::UnmountFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, pidfd_send_signal};

use super::children::{Child, Outcome, Stage};
use super::enter::{self, Entrance};
use super::start::{self, Started};
use super::{HelperFn, Helpers};
use crate::cgroup::Leaves;
use crate::channel::{Inbox, Outbox};
use crate::error::SpawnError;
use crate::message::{Answer, Call, Event, Request, Spawned, StartFailure};
use crate::spec::{ContainerSpec, Target, is_leaf_name};
use crate::sys::{self, Cloned, Instruction};

/// How often leaves that outlived their command are looked at.
const LEAF_RETRY: Duration = Duration::from_secs(2);

/// The launcher's state.
pub(super) struct Server {
    socket: OwnedFd,
    inbox: Inbox,
    outbox: Outbox,
    helpers: Helpers,
    started: bool,
    container: Option<Running>,
    children: Vec<Child>,
    /// Leaves whose command has ended; daemons it left may still be there.
    old_leaves: Vec<String>,
    next_leaf_check: Option<Instant>,
    stop: Stop,
}

/// The container while its init lives.
struct Running {
    init: Child,
    leaves: Leaves,
    filter: Vec<Instruction>,
    owns_root: bool,
}

/// How far stopping is.
enum Stop {
    No,
    /// A process inside asks everyone to end.
    Asking {
        request: u64,
        stopper: Pid,
    },
    /// The init was killed.
    Killing {
        request: u64,
    },
}

/// One thing that poll waits for.
enum Source {
    Socket,
    Init,
    Exit(Pid),
    Report(Pid),
}

impl Server {
    pub(super) fn new(socket: OwnedFd, helpers: Helpers) -> Self {
        Self {
            socket,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            helpers,
            started: false,
            container: None,
            children: Vec::new(),
            old_leaves: Vec::new(),
            next_leaf_check: None,
            stop: Stop::No,
        }
    }

    /// Serves until the agent closes the socket. The container's init dies with this process.
    pub(super) fn run(mut self) {
        while self.turn().is_ok() {}
    }

    /// Waits for something to happen and handles it. Fails when the agent is gone.
    fn turn(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let mut timer = self.next_leaf_check;
        let mut sources = vec![Source::Socket];
        let mut out = PollFlags::IN;
        if !self.outbox.is_empty() {
            out |= PollFlags::OUT;
        }
        let mut fds = vec![PollFd::new(&self.socket, out)];
        let init = self.container.as_ref().map(|running| &running.init);
        for (child, is_init) in init
            .map(|init| (init, true))
            .into_iter()
            .chain(self.children.iter().map(|c| (c, false)))
        {
            if let Stage::Entering { report, .. } = &child.stage {
                sources.push(Source::Report(child.pid));
                fds.push(PollFd::new(report, PollFlags::IN));
            }
            match child.retry_at.filter(|at| *at > now) {
                Some(at) => timer = Some(timer.map_or(at, |timer| timer.min(at))),
                None => {
                    sources.push(if is_init { Source::Init } else { Source::Exit(child.pid) });
                    fds.push(PollFd::new(&child.pidfd, PollFlags::IN));
                }
            }
        }
        let timeout = timer.map(|at| {
            let left = at.saturating_duration_since(now);
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);

        let now = Instant::now();
        if self.next_leaf_check.is_some_and(|at| at <= now) {
            self.sweep_leaves(now);
        }
        // Reports come before exits in `sources`, and so an answer before its process's end.
        for (source, _) in sources.into_iter().zip(ready).filter(|(_, ready)| *ready) {
            match source {
                Source::Socket => self.read_requests()?,
                Source::Init => self.init_ended(now),
                Source::Exit(pid) => self.child_ended(pid, now),
                Source::Report(pid) => self.child_reported(pid),
            }
        }
        self.outbox.flush(&self.socket)
    }

    fn read_requests(&mut self) -> io::Result<()> {
        let open = self.inbox.fill(&self.socket)?;
        while let Some((request, fds)) = self.inbox.next::<Request>()? {
            self.handle(request, fds);
        }
        if open { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn handle(&mut self, request: Request, fds: Vec<OwnedFd>) {
        let Request { id, call } = request;
        match call {
            Call::Start(spec) => self.start(id, &spec),
            Call::Spawn(call) => {
                let (leaf, terminal) = (call.leaf.clone(), call.terminal);
                self.launch(id, &leaf, terminal, |entrance| enter::command(entrance, &call, fds));
            }
            Call::Helper { user, name, leaf } => {
                let found: Option<HelperFn> =
                    self.helpers.iter().find(|(known, _)| *known == name).map(|(_, f)| *f);
                match (found, fds.into_iter().next()) {
                    (Some(function), Some(argument)) => self.launch(id, &leaf, false, |entrance| {
                        enter::helper(entrance, user, function, argument)
                    }),
                    _ => {
                        let message = format!("no helper is called `{name}`");
                        self.answer(id, Answer::Failed { message });
                    }
                }
            }
            Call::Signal { pid, signal, target } => {
                let answer = self.signal(pid, signal, target);
                self.answer(id, answer);
            }
            Call::KillLeaf { leaf } => {
                let answer = match &self.container {
                    Some(running) if is_leaf_name(&leaf) => match running.leaves.kill(&leaf) {
                        Ok(()) => Answer::Done,
                        Err(error) => Answer::Failed { message: error.to_string() },
                    },
                    _ => Answer::NoProcess,
                };
                self.answer(id, answer);
            }
            Call::Stop { timeout_ms } => self.begin_stop(id, timeout_ms),
            Call::Cancel { id } => self.cancel(id),
        }
    }

    fn start(&mut self, id: u64, spec: &ContainerSpec) {
        if self.started {
            return self.answer(id, Answer::StartFailed(StartFailure::AlreadyStarted));
        }
        match start::start(spec) {
            Ok(started) => {
                let Started { init, init_pidfd, leaves, filter, owns_root, .. } = started;
                let init = Child {
                    pid: init,
                    pidfd: init_pidfd,
                    leaf: "init".to_owned(),
                    terminal: false,
                    stage: Stage::Running,
                    retry_at: None,
                };
                let init_pid = init.number();
                self.started = true;
                self.container = Some(Running { init, leaves, filter, owns_root });
                let answer = Answer::Started { init_pid, warnings: started.warnings };
                let fds = vec![started.devpts, started.network];
                let _ = self.outbox.push(&Event::Answer { id, answer }, fds);
            }
            Err(failure) => self.answer(id, Answer::StartFailed(failure)),
        }
    }

    /// Makes a process that enters the container; `become_it` runs in it.
    fn launch(&mut self, id: u64, leaf: &str, terminal: bool, become_it: impl FnOnce(Entrance)) {
        match self.try_launch(id, leaf, become_it) {
            Ok(child) => self.children.push(Child { terminal, ..child }),
            Err(error) => self.answer(id, Answer::SpawnFailed(error)),
        }
    }

    fn try_launch(
        &self,
        request: u64,
        name: &str,
        become_it: impl FnOnce(Entrance),
    ) -> Result<Child, SpawnError> {
        let internal = |what: &str, error: &dyn std::fmt::Display| SpawnError::Internal {
            message: format!("{what}: {error}"),
        };
        let Some(running) = &self.container else { return Err(SpawnError::Gone) };
        if !is_leaf_name(name) {
            return Err(SpawnError::Internal { message: format!("`{name}` cannot name a leaf") });
        }
        let leaf = running.leaves.open(name).map_err(|error| internal("open a leaf", &error))?;
        let (report, write) = pipe_with(PipeFlags::CLOEXEC)
            .and_then(|(read, write)| {
                rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK)?;
                Ok((read, write))
            })
            .map_err(|error| internal("make a pipe", &error))?;
        // Born in its group, it costs no migration. Where that does not work (a full process
        // limit above all), it is born in ours and moves.
        let (cloned, born_in_leaf) = match leaf.directory() {
            Some(directory) => match sys::clone_process(0, Some(directory)) {
                Ok(cloned) => (Ok(cloned), true),
                Err(_) => (sys::clone_process(0, None), false),
            },
            None => (sys::clone_process(0, None), false),
        };
        match cloned {
            Ok(Cloned::Child) => {
                become_it(Entrance {
                    init: &running.init.pidfd,
                    leaf: &leaf,
                    born_in_leaf,
                    filter: &running.filter,
                    report: write,
                });
                sys::exit(112)
            }
            Ok(Cloned::Parent { pid, pidfd }) => Ok(Child {
                pid,
                pidfd,
                leaf: name.to_owned(),
                terminal: false,
                stage: Stage::Entering { request, report, bytes: Vec::new() },
                retry_at: None,
            }),
            // The pid namespace is dead.
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => Err(SpawnError::Gone),
            Err(error) => Err(internal("fork", &error)),
        }
    }

    fn signal(&self, pid: i32, signal: i32, target: Target) -> Answer {
        let Some(signal) = sys::parse_signal(signal) else {
            return Answer::Failed { message: format!("no signal {signal}") };
        };
        let child = self.children.iter().find(|child| child.number() == pid);
        match child.map(|child| child.signal(signal, target)) {
            Some(Ok(())) => Answer::Done,
            Some(Err(rustix::io::Errno::SRCH)) | None => Answer::NoProcess,
            Some(Err(error)) => Answer::Failed { message: error.to_string() },
        }
    }

    fn cancel(&mut self, id: u64) {
        for child in &mut self.children {
            if matches!(child.stage, Stage::Entering { request, .. } if request == id) {
                let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
                child.stage = Stage::Forgotten;
            }
        }
    }

    fn child_reported(&mut self, pid: Pid) {
        let Some(child) = self.children.iter_mut().find(|child| child.pid == pid) else { return };
        let Stage::Entering { request, .. } = child.stage else { return };
        let answer = match child.read_report() {
            None => return,
            Some(Outcome::Entered(entered)) => {
                child.stage = Stage::Running;
                Answer::Spawned(Spawned { pid: child.number(), entered })
            }
            Some(Outcome::Failed(error)) => {
                child.stage = Stage::Forgotten;
                Answer::SpawnFailed(error)
            }
        };
        self.answer(request, answer);
    }

    fn child_ended(&mut self, pid: Pid, now: Instant) {
        let Some(index) = self.children.iter().position(|child| child.pid == pid) else { return };
        let Some(code) = self.children[index].reap(now) else { return };
        // The pipe has ended with the process, unless this turn has read it already.
        self.child_reported(pid);
        let child = self.children.swap_remove(index);
        if matches!(child.stage, Stage::Running) {
            self.send(&Event::Exited { pid: child.number(), code });
        }
        if let Stop::Asking { request, stopper } = self.stop
            && stopper == pid
        {
            self.stop = Stop::Killing { request };
            match &self.container {
                Some(running) => drop(pidfd_send_signal(&running.init.pidfd, Signal::KILL)),
                None => self.finish_stop(),
            }
        }
        self.leave(child.leaf, now);
    }

    fn init_ended(&mut self, now: Instant) {
        let Some(running) = &mut self.container else { return };
        let Some(code) = running.init.reap(now) else { return };
        let owns_root = running.owns_root;
        self.container = None;
        self.old_leaves.clear();
        self.next_leaf_check = None;
        if owns_root {
            release_root();
        }
        self.send(&Event::ContainerExited { code, signal: (code > 128).then(|| code - 128) });
        self.finish_stop();
    }

    fn begin_stop(&mut self, request: u64, timeout_ms: u64) {
        if !matches!(self.stop, Stop::No) {
            let message = "the container is stopping already".to_owned();
            return self.answer(request, Answer::Failed { message });
        }
        self.stop = Stop::Killing { request };
        let Some(running) = &self.container else { return self.finish_stop() };
        // It is born in the container's pid namespace, and sees nothing outside of it.
        match sys::clone_process(0, None) {
            Ok(Cloned::Child) => ask_everyone_to_end(Duration::from_millis(timeout_ms)),
            Ok(Cloned::Parent { pid, pidfd }) => {
                self.stop = Stop::Asking { request, stopper: pid };
                let (leaf, stage) = (String::new(), Stage::Forgotten);
                let stopper = Child { pid, pidfd, leaf, terminal: false, stage, retry_at: None };
                self.children.push(stopper);
            }
            Err(_) => drop(pidfd_send_signal(&running.init.pidfd, Signal::KILL)),
        }
        // Interactive shells ignore SIGTERM and take this for the end of their terminal.
        for child in self.children.iter().filter(|child| child.terminal) {
            let _ = child.signal(Signal::HUP, Target::Group);
        }
    }

    fn finish_stop(&mut self) {
        let request = match std::mem::replace(&mut self.stop, Stop::No) {
            Stop::No => return,
            Stop::Asking { request, .. } | Stop::Killing { request } => request,
        };
        self.answer(request, Answer::Done);
    }

    /// Removes a leaf once nothing is left in it.
    fn leave(&mut self, leaf: String, now: Instant) {
        let in_use = self.children.iter().any(|child| child.leaf == leaf);
        if leaf.is_empty() || in_use || self.old_leaves.contains(&leaf) {
            return;
        }
        if let Some(running) = &self.container
            && !running.leaves.remove(&leaf)
        {
            self.old_leaves.push(leaf);
            self.next_leaf_check.get_or_insert(now + LEAF_RETRY);
        }
    }

    fn sweep_leaves(&mut self, now: Instant) {
        self.next_leaf_check = None;
        for leaf in std::mem::take(&mut self.old_leaves) {
            self.leave(leaf, now);
        }
    }

    fn answer(&mut self, id: u64, answer: Answer) {
        self.send(&Event::Answer { id, answer });
    }

    fn send(&mut self, event: &Event) {
        self.outbox.push(event, Vec::new()).expect("events are small");
    }
}

/// Writes the root disk out and unmounts it, so that it can be attached elsewhere.
fn release_root() {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(root) = rustix::fs::openat(CWD, "root", flags, Mode::empty()) {
        let _ = rustix::fs::syncfs(root.as_fd());
    }
    let _ = rustix::mount::unmount("root", UnmountFlags::DETACH);
}

/// Asks every process inside to end, and waits until they have or the time is over.
fn ask_everyone_to_end(timeout: Duration) -> ! {
    let deadline = Instant::now() + timeout;
    // Stopped processes hear the first only with the second.
    sys::kill_all_visible(libc::SIGTERM);
    sys::kill_all_visible(libc::SIGCONT);
    while sys::kill_all_visible(0) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    sys::exit(0)
}
