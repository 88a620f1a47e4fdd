//! The agent's handle to its launcher process.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Pid;
use tokio::sync::{mpsc, oneshot, watch};

use crate::driver::{Driver, Message, Reply};
use crate::error::{ForkError, LauncherError, SignalError, SpawnError, StartError};
use crate::launcher::{self, HelperFn};
use crate::message::{Answer, Call, Request, SpawnCall, StartFailure};
use crate::spec::{ContainerSpec, SpawnSpec, Target, User};
use crate::stdio::Streams;
use crate::sys;

/// Leaf that helpers run in.
const HELPER_LEAF: &str = "helpers";
/// What stopping may take beyond the time that processes are given.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// A handle to the launcher process; cheap to clone. When the last clone is dropped the launcher
/// ends, and the container with it.
#[derive(Clone)]
pub struct Launcher {
    inner: Arc<Inner>,
}

struct Inner {
    /// Until the first call needs the runtime.
    idle: Mutex<Option<(Driver, OwnedFd)>>,
    launcher: Pid,
    calls: mpsc::UnboundedSender<Message>,
    ids: AtomicU64,
    /// Set by a successful start.
    container: OnceLock<Facts>,
    exit: watch::Receiver<Option<ContainerExit>>,
}

/// What spawning needs to know about the container.
struct Facts {
    devpts: OwnedFd,
    id_base: u32,
}

/// A container that runs.
#[derive(Debug)]
pub struct Container {
    /// Its init, as a pid of the host. Valid while [`Launcher::container_exited`] is empty.
    pub init_pid: i32,
    /// Its network namespace.
    pub network: OwnedFd,
    /// What is not as it should be, in words: tools that could not be placed and the like.
    pub warnings: Vec<String>,
}

/// How the container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerExit {
    /// Its init ended. Signals: 1 after a `reboot` inside, 2 after a `poweroff` inside, 9 after
    /// [`Launcher::stop`] or when the launcher ended.
    Init {
        /// Exit code, 128 + n for signals.
        code: i32,
        /// The signal that ended it.
        signal: Option<i32>,
    },
    /// The launcher process ended, which ends the container.
    LauncherLost,
}

/// A command that runs.
#[derive(Debug)]
pub struct Process {
    /// Pid as the host sees it; also its process group and session.
    pub pid: i32,
    /// Pid as seen inside.
    pub inner_pid: i32,
    /// Resolved path of the program.
    pub program: String,
    /// Working directory.
    pub dir: String,
    /// Where to write its input, if it has piped input. Does not block.
    pub stdin: Option<OwnedFd>,
    /// Where to read its output. With a terminal this is the terminal's other end, also for
    /// input. Does not block.
    pub stdout: OwnedFd,
    /// Where to read its errors, without a terminal. Does not block.
    pub stderr: Option<OwnedFd>,
    /// Gives the exit code, 0 to 255 and 128 + n for signals; fails if the launcher ends first.
    pub exit: oneshot::Receiver<i32>,
}

/// A helper function that runs in a process of its own.
#[derive(Debug)]
pub struct HelperProcess {
    /// Pid as the host sees it; also its process group and session.
    pub pid: i32,
    /// Gives the function's result; 128 + n for signals; fails if the launcher ends first.
    pub exit: oneshot::Receiver<i32>,
}

impl Launcher {
    /// Forks the launcher process and registers the functions that [`Launcher::helper`] can
    /// call.
    ///
    /// Moves the calling thread into a mount namespace of its own first, private, which it then
    /// shares with the launcher. Call it first thing in `main`: before there are other threads,
    /// whose locks the child would inherit, and before secrets are read, which it would too.
    /// The launcher is killed when the *thread* that called this ends.
    ///
    /// # Errors
    /// The kernel refused, most likely for want of root.
    pub fn fork(helpers: &[(&'static str, HelperFn)]) -> Result<Self, ForkError> {
        for (index, (name, _)) in helpers.iter().enumerate() {
            if helpers[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(ForkError::DuplicateHelper { name: (*name).to_owned() });
            }
        }
        let os = |step| move |source: io::Error| ForkError::Os { step, source };
        sys::new_mount_namespace().map_err(os("unshare the mount namespace"))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|error| os("make a socket pair")(error.into()))?;
        let agent = rustix::process::getpid();
        let pid = match sys::fork().map_err(os("fork the launcher"))? {
            None => {
                drop(ours);
                launcher::run(theirs, helpers.to_vec(), agent)
            }
            Some(pid) => pid,
        };
        let (calls, receiver) = mpsc::unbounded_channel();
        let (exit_sender, exit) = watch::channel(None);
        let driver = Driver::new(pid, receiver, calls.downgrade(), exit_sender);
        let inner = Inner {
            idle: Mutex::new(Some((driver, ours))),
            launcher: pid,
            calls,
            ids: AtomicU64::new(1),
            container: OnceLock::new(),
            exit,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Starts the container. Works once per launcher.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing is left behind, but start again with a new launcher.
    pub async fn start(&self, spec: ContainerSpec) -> Result<Container, StartError> {
        let id_base = spec.id_base;
        let mut reply = self.call(Call::Start(spec), Vec::new()).await?;
        match reply.answer {
            Answer::Started { init_pid, warnings } => {
                let [devpts, network] = <[OwnedFd; 2]>::try_from(std::mem::take(&mut reply.fds))
                    .map_err(|_| unexpected("descriptors are missing"))?;
                let _ = self.inner.container.set(Facts { devpts, id_base });
                Ok(Container { init_pid, network, warnings })
            }
            Answer::StartFailed(StartFailure::Refused { detail }) => {
                Err(StartError::Refused { detail })
            }
            Answer::StartFailed(StartFailure::Setup { step, errno, hint }) => {
                let source = io::Error::from_raw_os_error(errno);
                Err(StartError::Setup { step, source, hint })
            }
            Answer::StartFailed(StartFailure::AlreadyStarted) => Err(StartError::AlreadyStarted),
            _ => Err(unexpected("not an answer to a start").into()),
        }
    }

    /// Runs a command in the container. Returns when it runs.
    ///
    /// # Errors
    /// See [`SpawnError`]; those with an exit code are the command's own failures.
    ///
    /// # Cancel safety
    /// A process that was about to start, or has just started, is killed.
    pub async fn spawn(&self, spec: SpawnSpec) -> Result<Process, SpawnError> {
        let facts = self.inner.container.get().ok_or(SpawnError::Gone)?;
        let streams = Streams::open(spec.stdio, &facts.devpts, facts.id_base).map_err(|error| {
            SpawnError::Internal { message: format!("make standard streams: {error}") }
        })?;
        let (terminal, stdin) = match spec.stdio {
            crate::Stdio::Terminal { .. } => (true, false),
            crate::Stdio::Pipes { stdin } => (false, stdin),
        };
        let SpawnSpec { argv, path, env, dir, user, stdio: _, leaf } = spec;
        let call = SpawnCall { argv, path, env, dir, user, terminal, stdin, leaf };
        let reply = self.call(Call::Spawn(call), streams.theirs).await.map_err(spawn_error)?;
        let (spawned, exit) = reply.spawned()?;
        Ok(Process {
            pid: spawned.pid,
            inner_pid: spawned.entered.inner_pid,
            program: spawned.entered.program,
            dir: spawned.entered.dir,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            exit,
        })
    }

    /// Calls a registered function in a new process inside the container, with `argument`. The
    /// process starts in the user's home, or in `/`.
    ///
    /// # Errors
    /// See [`SpawnError`].
    ///
    /// # Cancel safety
    /// As for [`Launcher::spawn`].
    pub async fn helper(
        &self,
        user: User,
        name: &str,
        argument: OwnedFd,
    ) -> Result<HelperProcess, SpawnError> {
        let (name, leaf) = (name.to_owned(), HELPER_LEAF.to_owned());
        let call = Call::Helper { user, name, leaf };
        let reply = self.call(call, vec![argument]).await.map_err(spawn_error)?;
        let (spawned, exit) = reply.spawned()?;
        Ok(HelperProcess { pid: spawned.pid, exit })
    }

    /// Signals a process that [`Launcher::spawn`] or [`Launcher::helper`] returned.
    ///
    /// # Errors
    /// It has ended already, or there is no such signal.
    pub async fn signal(&self, pid: i32, signal: i32, target: Target) -> Result<(), SignalError> {
        if sys::parse_signal(signal).is_none() {
            return Err(SignalError::NoSignal { signal });
        }
        let reply = self.call(Call::Signal { pid, signal, target }, Vec::new()).await?;
        match reply.answer {
            Answer::Done => Ok(()),
            Answer::NoProcess => Err(SignalError::NoProcess { pid }),
            Answer::Failed { message } => Err(LauncherError::Failed { message }.into()),
            _ => Err(unexpected("not an answer to a signal").into()),
        }
    }

    /// Kills every process in a cgroup leaf, whatever session or group it has moved to. A leaf
    /// without processes is fine.
    ///
    /// # Errors
    /// The launcher is gone, or the kernel refused.
    pub async fn kill_leaf(&self, leaf: &str) -> Result<(), LauncherError> {
        let call = Call::KillLeaf { leaf: leaf.to_owned() };
        match self.call(call, Vec::new()).await?.answer {
            Answer::Done | Answer::NoProcess => Ok(()),
            Answer::Failed { message } => Err(LauncherError::Failed { message }),
            _ => Err(unexpected("not an answer to a kill")),
        }
    }

    /// Ends the container: asks every process to end, waits up to `timeout`, kills the rest, and
    /// writes the root disk out. A container that has ended is fine.
    ///
    /// # Errors
    /// It did not end in time, or the launcher is gone. Ending the launcher is what is left.
    pub async fn stop(&self, timeout: Duration) -> Result<(), LauncherError> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let call = self.call(Call::Stop { timeout_ms }, Vec::new());
        let reply = tokio::time::timeout(timeout.saturating_add(STOP_MARGIN), call).await;
        let reply = reply.map_err(|_| LauncherError::Failed {
            message: "the container does not end".to_owned(),
        })??;
        match reply.answer {
            Answer::Done => Ok(()),
            Answer::Failed { message } => Err(LauncherError::Failed { message }),
            _ => Err(unexpected("not an answer to a stop")),
        }
    }

    /// Returns the launcher process's pid. It is reaped once the last handle is gone.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.inner.launcher.as_raw_nonzero().get()
    }

    /// Returns where it will be said that the container has ended, and how.
    #[must_use]
    pub fn container_exited(&self) -> watch::Receiver<Option<ContainerExit>> {
        self.inner.exit.clone()
    }

    /// Sends a call and waits for its answer. Dropped before, it takes the call back.
    async fn call(&self, call: Call, fds: Vec<OwnedFd>) -> Result<Reply, LauncherError> {
        self.attach();
        let id = self.inner.ids.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let message = Message::Call { request: Request { id, call }, fds, reply: sender };
        self.inner.calls.send(message).map_err(|_| LauncherError::Gone)?;
        let mut guard = Cancel { calls: Some(&self.inner.calls), id };
        let reply = receiver.await;
        guard.calls = None;
        reply.unwrap_or(Err(LauncherError::Gone))
    }

    /// Hands the socket to a task, at the first call: at the fork there was no runtime.
    fn attach(&self) {
        let idle = self.inner.idle.lock().expect("nothing panics while holding it").take();
        if let Some((driver, socket)) = idle {
            tokio::spawn(driver.run(socket));
        }
    }
}

fn unexpected(message: &str) -> LauncherError {
    LauncherError::Failed { message: message.to_owned() }
}

fn spawn_error(error: LauncherError) -> SpawnError {
    match error {
        LauncherError::Gone => SpawnError::Gone,
        LauncherError::Failed { message } => SpawnError::Internal { message },
    }
}

/// Takes a call back unless it was answered.
struct Cancel<'handle> {
    calls: Option<&'handle mpsc::UnboundedSender<Message>>,
    id: u64,
}

impl Drop for Cancel<'_> {
    fn drop(&mut self) {
        if let Some(calls) = self.calls {
            let _ = calls.send(Message::Cancel { id: self.id });
        }
    }
}
