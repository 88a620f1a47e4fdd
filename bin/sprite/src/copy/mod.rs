//! Copying files between here and a sprite.
//!
//! Single files go through the file API: streamed, and replaced at once when complete.
//! Directories go through `tar` on both sides: one stream, however many files there are, with
//! permissions and links.
//!
//! # Invariants
//! - A file never replaces a directory, nor a directory a file.
//! - What comes from a sprite is written below the destination only, whatever its archive says.

mod location;
mod pack;
mod progress;
mod pull;
mod push;
mod remote;
mod tree;
mod unpack;

pub(crate) use location::{Location, parse};
pub(crate) use pull::{pull, pull_to_stdout};
pub(crate) use push::{push, push_from_stdin};
pub(crate) use remote::{Kind, stat};

/// Where relative paths in a sprite begin.
pub(crate) const HOME: &str = "/home/sprite";

/// How to copy.
#[derive(Clone, Copy, Default)]
pub(crate) struct Options {
    /// Directories with everything in them.
    pub(crate) recursive: bool,
    /// Create missing directories of the destination.
    pub(crate) parents: bool,
}
