//! Guest agent: what manages a sprite from within its machine.
//!
//! In reading order:
//! - [`Guest`]: everything the agent knows and holds;
//! - [`router`]: its HTTP interface, as `sprite_link::guest` has it; `routes`: one module per
//!   group of paths; [`local_router`]: what programs of the sprite see;
//! - [`run`]: a machine of namespaces from its boot spec to its end; `network`, `inside`,
//!   [`Ports`]: its parts.
//!
//! # Not here
//! Sessions (`sprite-exec`), file calls (`sprite-files`), namespaces (`sprite-container`), the
//! link below HTTP (`sprite-linkmux`).

mod answer;
mod guest;
mod inside;
mod local_api;
mod network;
mod ports;
mod router;
mod routes;
mod run;

pub use guest::{Guest, GuestSettings};
pub use inside::HELPERS;
pub use local_api::local_router;
pub use ports::Ports;
pub use router::router;
pub use run::{End, run};
