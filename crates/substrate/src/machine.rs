//! A machine as its owner holds it.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sprite_link::boot::Identity;
use sprite_linkmux::HostLink;
use sprite_types::{ByteSize, MachineId, OrgId, SpriteId, VolumeId};
use tokio::sync::watch;

use crate::fake::FakeParts;
use crate::namespaces::Parts;

/// What to boot.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    /// The new machine's id.
    pub machine_id: MachineId,
    /// Whose machine it is.
    pub owner: Owner,
    /// Block device with the root disk. It must stay attached until the boot returned.
    pub root_device: PathBuf,
    /// What it may use.
    pub limits: Limits,
    /// Name and environment.
    pub identity: Identity,
}

/// Whose machine it is; kept with the machine, so that the next `sprited` knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The org.
    pub org: OrgId,
    /// The sprite.
    pub sprite_id: SpriteId,
    /// Its root disk.
    pub volume_id: VolumeId,
}

/// What a machine may use. `None` is without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Memory.
    pub memory: Option<ByteSize>,
    /// CPU cores.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

/// How a machine is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Processes get time to end, the disk is synced.
    Orderly,
    /// Everything is killed. The disk is as after a power cut.
    AtOnce,
}

/// A machine. Clones are the same machine.
#[derive(Clone)]
pub struct Machine(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) id: MachineId,
    pub(crate) owner: Owner,
    pub(crate) link: HostLink,
    /// How the machine ended, once it has.
    pub(crate) ended: watch::Receiver<Option<String>>,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Namespaces(Box<Parts>),
    Fake(FakeParts),
}

impl Machine {
    /// Returns the machine's id.
    #[must_use]
    pub fn id(&self) -> &MachineId {
        &self.0.id
    }

    /// Returns whose machine it is.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.0.owner
    }

    /// Returns the way to its agent.
    #[must_use]
    pub fn link(&self) -> &HostLink {
        &self.0.link
    }

    /// Waits until the machine has ended and says how.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn ended(&self) -> String {
        let mut ended = self.0.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(how) => how.clone().unwrap_or_default(),
            Err(_) => "it is no longer watched".to_owned(),
        }
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Machine").field(&self.0.id).finish()
    }
}
