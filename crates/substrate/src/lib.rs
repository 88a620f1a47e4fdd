//! Makes machines: boots them, finds them again, freezes and stops them.
//!
//! A [`Substrate`] is what machines are made of. `namespaces` runs a guest agent and an inner
//! container on this host's kernel; `fake` runs the agent inside this process and its commands
//! as plain processes of the current user, for tests without root.
//!
//! # Invariants
//! - Everything of a machine is named by its id and found again through its folder, so a
//!   `sprited` that was killed leaves nothing that the next one does not know.
//! - [`Substrate::stop`] returns when nothing of the machine is left on the host.
//!
//! # Not here
//! When machines boot and stop (`sprite-lifecycle`), what happens inside (`sprite-guestd`).

mod error;
mod fake;
mod machine;
mod namespaces;

pub use error::BootError;
pub use fake::Fake;
pub use machine::{Limits, Machine, MachineSpec, Owner, StopMode};
pub use namespaces::{Namespaces, NamespacesSettings};

use std::io;

/// What machines are made of.
#[derive(Clone)]
pub enum Substrate {
    /// Namespaces and cgroups of this host's kernel.
    Namespaces(Namespaces),
    /// Nothing: plain processes of this user.
    Fake(Fake),
}

/// What a substrate can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Name, as reported to users.
    pub name: &'static str,
    /// What separates a sprite from the host: `hardware`, `kernel` or `none`.
    pub isolation: &'static str,
    /// Whether a machine can be frozen and go on later.
    pub freeze: bool,
}

impl Substrate {
    /// Tells what the substrate can do.
    #[must_use]
    pub const fn capabilities(&self) -> Capabilities {
        match self {
            Self::Namespaces(_) => {
                Capabilities { name: "namespaces", isolation: "kernel", freeze: true }
            }
            Self::Fake(_) => Capabilities { name: "fake", isolation: "none", freeze: false },
        }
    }

    /// Makes a machine and waits until its agent answers. On failure nothing is left.
    ///
    /// # Errors
    /// See [`BootError`].
    pub async fn boot(&self, spec: MachineSpec) -> Result<Machine, BootError> {
        match self {
            Self::Namespaces(namespaces) => namespaces.boot(spec).await,
            Self::Fake(fake) => fake.boot(spec).await,
        }
    }

    /// Finds the machines that an earlier `sprited` left running; removes the remains of those
    /// that ended meanwhile.
    pub async fn adopt(&self) -> Vec<Machine> {
        match self {
            Self::Namespaces(namespaces) => namespaces.adopt().await,
            Self::Fake(_) => Vec::new(),
        }
    }

    /// Ends a machine, whatever state it is in, and removes everything of it.
    pub async fn stop(&self, machine: &Machine, mode: StopMode) {
        match self {
            Self::Namespaces(namespaces) => namespaces.stop(machine, mode).await,
            Self::Fake(fake) => fake.stop(machine).await,
        }
    }

    /// Stops every process of a machine where it is.
    ///
    /// # Errors
    /// The kernel refused, or some process did not stop in time.
    pub fn freeze(&self, machine: &Machine) -> io::Result<()> {
        match self {
            Self::Namespaces(_) => namespaces::freeze(machine),
            Self::Fake(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Lets a frozen machine go on.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn thaw(&self, machine: &Machine) -> io::Result<()> {
        match self {
            Self::Namespaces(_) => namespaces::thaw(machine),
            Self::Fake(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}
