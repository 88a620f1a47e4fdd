//! Starting processes: in the container, or plainly on this host.

use std::fmt;
use std::os::fd::OwnedFd;
use std::time::Duration;

use sprite_container::{Launcher, SpawnError, SpawnSpec, User};
use tokio::sync::oneshot;

use crate::plain::PlainSpawner;

/// How long a start may take: entering a directory on a file system that hangs never ends.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// A process to start.
#[derive(Clone, Debug)]
pub struct SpawnRequest {
    /// The command line, `argv[0]` included.
    pub argv: Vec<String>,
    /// Program to run, if not `argv[0]`; without a `/` it is looked up in `env`'s `PATH`.
    pub path: Option<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Working directory; absent: the user's home.
    pub dir: Option<String>,
    /// What the process talks to.
    pub stdio: Stdio,
    /// Name of the cgroup leaf it runs in.
    pub leaf: String,
}

/// A process's standard streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdio {
    /// A new terminal of this size in characters.
    Terminal { cols: u16, rows: u16 },
    /// Pipes; without `stdin` the input is the null device.
    Pipes { stdin: bool },
}

/// A process that runs.
#[derive(Debug)]
pub struct Spawned {
    /// Process id on the host, also of its process group and session.
    pub pid: i32,
    /// Path of the program that was found.
    pub program: String,
    /// Working directory.
    pub dir: String,
    /// Write end of its input, unless it is a terminal or the null device.
    pub stdin: Option<OwnedFd>,
    /// Read end of its output, or the terminal.
    pub stdout: OwnedFd,
    /// Read end of its error output.
    pub stderr: Option<OwnedFd>,
    /// Its exit code, 0 to 255, 128 + n for signal n.
    pub exit: oneshot::Receiver<i32>,
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpawnFailure {
    /// The command is at fault. Report it as its exit.
    #[error("{message}")]
    Command {
        /// 127 not found, 126 not executable or too long, 1 bad directory.
        exit_code: u8,
        /// As a shell would say it.
        message: String,
    },
    /// There is no container to run it in (yet, or any more).
    #[error("the container is not running")]
    Gone,
    /// The host could not do it.
    #[error("start process: {detail}")]
    Internal {
        /// What failed.
        detail: String,
    },
}

impl SpawnFailure {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> sprite_types::ErrorKind {
        match self {
            Self::Command { .. } => sprite_types::ErrorKind::Invalid,
            Self::Gone => sprite_types::ErrorKind::Unavailable,
            Self::Internal { .. } => sprite_types::ErrorKind::Internal,
        }
    }
}

impl From<SpawnError> for SpawnFailure {
    fn from(error: SpawnError) -> Self {
        match (error.exit_code(), error) {
            (Some(exit_code), error) => Self::Command { exit_code, message: error.message() },
            (None, SpawnError::Gone) => Self::Gone,
            (None, error) => Self::Internal { detail: error.message() },
        }
    }
}

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every process of the group that the process leads.
    Group,
    /// Every process of another group in its session, by number: a terminal's foreground.
    SessionGroup(i32),
}

/// Where processes are started.
#[derive(Clone)]
pub enum Spawner {
    /// In the container, as its default user.
    Container(Launcher),
    /// On this host, as the current user: for tests and the fake substrate.
    Plain(PlainSpawner),
}

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Container(_) => "Container",
            Self::Plain(_) => "Plain",
        })
    }
}

impl Spawner {
    /// Starts a process.
    ///
    /// # Errors
    /// See [`SpawnFailure`].
    pub async fn spawn(&self, request: SpawnRequest) -> Result<Spawned, SpawnFailure> {
        match self {
            Self::Plain(plain) => plain.spawn(request),
            Self::Container(launcher) => {
                let SpawnRequest { argv, path, env, dir, stdio, leaf } = request;
                let stdio = match stdio {
                    Stdio::Terminal { cols, rows } => {
                        sprite_container::Stdio::Terminal { cols, rows }
                    }
                    Stdio::Pipes { stdin } => sprite_container::Stdio::Pipes { stdin },
                };
                let spec = SpawnSpec { argv, path, env, dir, user: User::Sprite, stdio, leaf };
                let spawned = tokio::time::timeout(START_PATIENCE, launcher.spawn(spec)).await;
                let process = spawned.map_err(|_| SpawnFailure::Internal {
                    detail: format!("no answer for {} s", START_PATIENCE.as_secs()),
                })??;
                Ok(Spawned {
                    pid: process.pid,
                    program: process.program,
                    dir: process.dir,
                    stdin: process.stdin,
                    stdout: process.stdout,
                    stderr: process.stderr,
                    exit: process.exit,
                })
            }
        }
    }

    /// Sends a signal to a process that was started here. One that finds nobody is no error: the
    /// process may just have ended.
    pub async fn signal(&self, pid: i32, signal: i32, target: Target) {
        match self {
            Self::Plain(_) => crate::sys::signal(pid, signal, target),
            Self::Container(launcher) => {
                let target = match target {
                    Target::Group => sprite_container::Target::Group,
                    Target::SessionGroup(group) => sprite_container::Target::SessionGroup(group),
                };
                if let Err(error) = launcher.signal(pid, signal, target).await {
                    tracing::debug!(%error, signal, "signal not sent");
                }
            }
        }
    }
}
