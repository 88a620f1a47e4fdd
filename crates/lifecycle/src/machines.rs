//! What callers get to talk to a running sprite.

use sprite_linkmux::{HostLink, LinkState};
use sprite_substrate::Machine;
use sprite_types::{MachineId, SpriteId};

use crate::view::SpriteView;

/// The machine of a running sprite.
#[derive(Clone)]
pub struct Guest {
    /// The way to its agent. Closed for good when the machine is gone.
    pub link: HostLink,
    /// Whose machine it is.
    pub sprite_id: SpriteId,
    /// Which one.
    pub machine_id: MachineId,
    /// The sprite as it was when this was handed out.
    pub view: SpriteView,
}

impl Guest {
    pub(crate) fn new(machine: &Machine, view: SpriteView) -> Self {
        Self {
            link: machine.link().clone(),
            sprite_id: view.record.id.clone(),
            machine_id: machine.id().clone(),
            view,
        }
    }

    /// Waits until the machine is gone: stopped, restarted, destroyed or broken.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn gone(&self) {
        // An error means that the link has no owner any more, which is the same.
        let _ = self.link.state().wait_for(|state| *state == LinkState::Closed).await;
    }
}
