//! Watches the room on the host's disk and stops writers before it is gone.
//!
//! Root disks are sparse: together they may promise more than the host has. A host that really
//! runs full makes `fsync` inside sprites lie, so writers are frozen while there is still room
//! for everything they have already been promised.

use std::time::Duration;

use sprite_disk::{Admission, Disks, Policy, admission};
use sprite_types::chain;
use tracing::{error, info, warn};

use crate::sprites::Sprites;

/// How often the room is looked at: a fast disk writes about 200 MB in this time, well within
/// the margin.
const PERIOD: Duration = Duration::from_millis(100);

/// The watcher.
pub struct DiskGuard {
    sprites: Sprites,
    disks: Disks,
    policy: Policy,
}

impl DiskGuard {
    /// Makes a watcher of the folder that holds `disks`.
    #[must_use]
    pub fn new(sprites: Sprites, disks: Disks, policy: Policy) -> Self {
        Self { sprites, disks, policy }
    }

    /// Watches for ever.
    pub async fn run(self) {
        let mut now = Admission::Ok;
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let space = match self.disks.free_space() {
                Ok(space) => space,
                Err(error) => {
                    warn!(error = %chain(&error), "free space unknown");
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    continue;
                }
            };
            let next = admission(space, &self.policy, now);
            if next != now {
                let available = space.available;
                match next {
                    Admission::Ok => info!(%available, "room on the disk again"),
                    Admission::RefuseCreates => {
                        warn!(%available, "the disk is nearly full: no new sprites");
                    }
                    Admission::FreezeWriters => {
                        error!(%available, "the disk is full but for a reserve: sprites frozen");
                    }
                }
            }
            // Also when nothing changed: machines that booted meanwhile must be frozen too.
            if next != now || next == Admission::FreezeWriters {
                self.sprites.set_admission(next);
            }
            now = next;
        }
    }
}
