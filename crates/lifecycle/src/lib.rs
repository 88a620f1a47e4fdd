//! One actor per sprite: what its phase is, and what happens next.
//!
//! [`phase`] decides and does nothing; the actor owns a sprite's phase and machine, runs the
//! effects that the decisions ask for, and feeds their outcomes back; [`Sprites`] is the handle
//! that everybody else holds.
//!
//! # Invariants
//! - At most one effect is in flight per sprite, and no request is dropped in silence.
//! - A sprite's row is in the catalog before anybody hears of the sprite, and its name is free
//!   again once a destroy was answered.
//!
//! # Not here
//! How a machine is made (`sprite-substrate`), HTTP (`sprite-server`).

mod actor;
mod error;
mod guard;
mod machines;
pub mod phase;
mod settings;
mod sprites;
mod storage;
mod url;
mod view;

pub use error::SpriteError;
pub use guard::DiskGuard;
pub use machines::Guest;
pub use settings::{ImageState, LifecycleSettings, ReadyImage, UrlSettings};
pub use sprites::{CreateSpec, Sprites, UpdateSpec};
pub use storage::Storage;
pub use view::{CheckView, Counts, Health, Page, SpriteChange, SpriteView};
