//! Filesystem calls, carried out inside the container by a helper.
//!
//! Every call has a helper of its own: a plain, blocking function in a process that has entered
//! the container (or, without one, in a thread). So the kernel checks permissions, paths are
//! resolved where the user would resolve them, and a file system that hangs takes down nothing
//! but that process.
//!
//! In reading order:
//! - [`Request`]: what a call is, and [`FsError`]: how it fails;
//! - [`Files`] and [`Call`]: the agent's side, async;
//! - [`helper_main`]: the helper's side, blocking; one module per call in `helper`.
//!
//! # Not here
//! HTTP (`bin/guestd`), the bodies' shapes (`sprite_api::fs`), watching files.

mod client;
mod error;
mod glob;
mod helper;
mod path;
mod request;
mod wire;

pub use client::{Call, Files, HELPER, Runner, Sender};
pub use error::FsError;
pub use helper::helper_main;
pub use path::resolve;
pub use request::{ByteRange, Operation, Owner, Request};
pub use wire::Head;
