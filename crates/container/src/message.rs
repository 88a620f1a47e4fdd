//! Messages between the agent and its launcher. Both are always the same build.

use serde::{Deserialize, Serialize};

use crate::error::SpawnError;
use crate::spec::{ContainerSpec, Target, User};

/// From the agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Repeated in the answer.
    pub(crate) id: u64,
    pub(crate) call: Call,
}

/// What the agent asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Call {
    /// Starts the container.
    Start(ContainerSpec),
    /// Runs a command. Descriptors: the terminal, or \[input,\] output and error.
    Spawn(SpawnCall),
    /// Runs a registered function inside. One descriptor: its argument.
    Helper { user: User, name: String, leaf: String },
    /// Signals a process that an earlier call started.
    Signal { pid: i32, signal: i32, target: Target },
    /// Kills everything in a leaf.
    KillLeaf { leaf: String },
    /// Ends the container.
    Stop { timeout_ms: u64 },
    /// Gives up on an earlier `Spawn` or `Helper`; it is not answered itself.
    Cancel { id: u64 },
}

/// See [`crate::SpawnSpec`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SpawnCall {
    pub(crate) argv: Vec<String>,
    pub(crate) path: Option<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) dir: Option<String>,
    pub(crate) user: User,
    /// One descriptor for all three streams, a terminal's; else one each.
    pub(crate) terminal: bool,
    /// Whether the first descriptor is the input.
    pub(crate) stdin: bool,
    pub(crate) leaf: String,
}

/// From the launcher.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    /// The answer to a request.
    Answer { id: u64, answer: Answer },
    /// A process that an answer named has ended. 0 to 255, 128 + n for signals.
    Exited { pid: i32, code: i32 },
    /// The container's init has ended, and with it everything inside.
    ContainerExited { code: i32, signal: Option<i32> },
}

/// Outcome of a [`Call`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Descriptors: the container's devpts mount, its network namespace.
    Started {
        init_pid: i32,
        warnings: Vec<String>,
    },
    StartFailed(StartFailure),
    Spawned(Spawned),
    SpawnFailed(SpawnError),
    Done,
    /// No such process (any more).
    NoProcess,
    Failed {
        message: String,
    },
}

/// A process that runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spawned {
    /// Host pid.
    pub(crate) pid: i32,
    #[serde(flatten)]
    pub(crate) entered: Entered,
}

/// What a process that entered the container found there.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Entered {
    /// Pid as seen inside.
    pub(crate) inner_pid: i32,
    /// Resolved program path; empty for helpers.
    pub(crate) program: String,
    /// Working directory.
    pub(crate) dir: String,
}

/// Why a start failed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum StartFailure {
    Refused { detail: String },
    Setup { step: String, errno: i32, hint: Option<String> },
    AlreadyStarted,
}
