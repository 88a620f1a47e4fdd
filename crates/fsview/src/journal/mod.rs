//! The journal of a file system that was not unmounted, replayed in memory.
//!
//! A checkpoint is a cut of the disk, so its newest metadata (and the content of files in mode
//! `data=journal`) may be in the journal only. The kernel would copy it to its place when it
//! mounts; here a table says where the newest copy of a block is, and nothing is written.
//!
//! **Source**: Linux, `Documentation/filesystems/ext4/journal.rst` and `fs/jbd2/recovery.c`.

mod blocks;
mod overlay;
mod replay;

pub(crate) use overlay::Overlay;
pub(crate) use replay::replay;
