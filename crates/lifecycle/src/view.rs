//! What callers see of sprites.

use sprite_catalog::SpriteRecord;
use sprite_types::{OrgId, SpriteName, Timestamp};

use crate::phase::Phase;

/// A sprite: its record and where it is.
#[derive(Clone, Debug)]
pub struct SpriteView {
    /// The durable part.
    pub record: SpriteRecord,
    /// Where it is in its life.
    pub phase: Phase,
    /// Its URL.
    pub url: String,
}

impl SpriteView {
    /// Returns `cold`, `warm` or `running`.
    #[must_use]
    pub const fn status(&self) -> &'static str {
        self.phase.status()
    }
}

/// Part of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// Sorted by name.
    pub items: Vec<SpriteView>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// Numbers of an org.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sprites whose machine answers.
    pub running: u64,
    /// Sprites that answer soon.
    pub warm: u64,
    /// Sprites on disk only.
    pub cold: u64,
    /// How many may run at once on this host.
    pub running_limit: u64,
}

/// Something about a sprite changed.
#[derive(Clone, Debug)]
pub struct SpriteChange {
    /// Its owner.
    pub org: OrgId,
    /// Its name.
    pub name: SpriteName,
    /// The new state; `None` once it is destroyed.
    pub view: Option<SpriteView>,
}

/// How a sprite is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Its machine answers.
    Healthy,
    /// It has no machine and needs none now.
    Hibernated,
    /// Its machine could not be started, or does not answer.
    Unhealthy,
}

/// Answer of a check.
#[derive(Clone, Debug)]
pub struct CheckView {
    /// The sprite.
    pub view: SpriteView,
    /// How it is.
    pub health: Health,
    /// Why it is not healthy.
    pub reason: Option<String>,
    /// When it was looked at.
    pub checked_at: Timestamp,
}
