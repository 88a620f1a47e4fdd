//! Guest agent: what manages a sprite from within its machine.
//!
//! In reading order:
//! - [`Guest`]: everything the agent knows and holds;
//! - [`router`]: its HTTP interface, as `sprite_link::guest` has it;
//! - `routes`: one module per group of paths.
//!
//! # Not here
//! Sessions (`sprite-exec`), file calls (`sprite-files`), namespaces (`sprite-container`), the
//! link below HTTP (`sprite-linkmux`).

mod answer;
mod guest;
mod router;
mod routes;

pub use guest::{Guest, GuestSettings};
pub use router::router;
