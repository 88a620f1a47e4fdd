//! The inner container: namespaces, cgroups, mounts and seccomp, and the ways into them.
//!
//! A [`Launcher`] is a single-threaded process forked by the guest agent before it has threads.
//! It starts the container, enters it for every command, and reaps what it started. Nothing
//! outlives it: agent, launcher, container init and everything inside die in that order.
//!
//! # Invariants
//! - No trusted process resolves a path inside the container's root: only processes that have
//!   entered it, with the ids and rights of the container, do.
//! - No descriptor beyond standard input, output and error reaches a command.
//! - A signal goes only to a process that the launcher has not yet reaped.
//! - Mount flags that protect the host (`nodev` on the root, read-only tools) are locked: the
//!   container's root user cannot clear them.
//!
//! # Not here
//! Sessions and their output (`exec`), what a file helper does (`files`), the veth pair and
//! the host's firewall (`network`), attaching the disk (`disk`).

pub mod cgroup;

mod account;
mod channel;
mod driver;
mod error;
mod handle;
mod launcher;
mod lookup;
mod message;
mod seccomp;
mod spec;
mod stdio;
mod sys;

pub use error::{ForkError, LauncherError, SignalError, SpawnError, StartError};
pub use handle::{Container, ContainerExit, HelperProcess, Launcher, Process};
pub use launcher::HelperFn;
pub use spec::{ContainerSpec, RootDisk, SpawnSpec, Stdio, Target, Tool, User};
