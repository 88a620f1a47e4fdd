//! What differs between two file systems, by path.
//!
//! Both trees are walked side by side, a folder before what is in it, so the result comes in
//! order and needs no more memory than the names of the folders that are open. For two states
//! of one disk, [`Options::changed`] says which bytes of the disk differ; then only those are
//! read of the files that both have.
//!
//! # Not here
//! Renames: a file that moved is removed in one place and added in another, with the same inode
//! number and [`generation`](crate::Metadata::generation), by which a caller can join them.

mod changed;
mod content;
mod pair;
mod tree;

pub use changed::ChangedRanges;
pub use pair::{Change, Changes, Difference};
pub use tree::Diff;

use crate::limits::Limits;

/// How to compare.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where the two disks may differ, if both are states of one disk: everything outside must
    /// be equal, byte for byte. Then no time stamp is believed.
    pub changed: Option<ChangedRanges>,
    /// Without `changed`: read files even if inode number, generation, size, times and blocks
    /// are the same. Only a guest's root can make that a difference.
    pub is_thorough: bool,
    /// Bounds for each of the two.
    pub limits: Limits,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one before.
    Before,
    /// The one after.
    After,
}
