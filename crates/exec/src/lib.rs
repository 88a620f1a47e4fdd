//! Sessions: executed processes and their stdio, followed by any number of clients.
//!
//! In reading order:
//! - [`Sessions`]: creating, finding, listing and ending them;
//! - [`Spawner`]: starting processes, in the container or plainly on this host;
//! - [`Connection`]: one stream of `sprite_link::session` frames;
//! - `core`: all decisions of one session, without I/O; `task`: the I/O around it;
//! - `log`: output by absolute offset; `input`: input by absolute offset.
//!
//! # Not here
//! HTTP (`bin/guestd`); namespaces and users (`sprite-container`).

mod attachment;
mod batch;
mod connection;
mod core;
pub mod environment;
mod info;
mod input;
mod kill;
mod log;
mod memory;
mod plain;
mod rate;
mod requests;
mod sessions;
mod spawn;
mod sys;
mod task;

pub use connection::Connection;
pub use core::{ATTACHMENTS_MAX, AttachError, TERMINATION_GRACE};
pub use environment::Defaults;
pub use input::InputError;
pub use kill::{KillError, KillStep};
pub use plain::PlainSpawner;
pub use sessions::{CreateError, SESSIONS_MAX, Sessions, Settings};
pub use spawn::{SpawnFailure, SpawnRequest, Spawned, Spawner, Stdio, Target};
