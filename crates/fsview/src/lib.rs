//! Reads ext4 in user space, from any source of blocks, and compares two of them by path.
//!
//! A disk may have been written by a guest whose root is an attacker: the host's kernel must
//! never mount it. This reader is safe code that believes nothing: each number is checked before
//! it is used, nothing is allocated because a field says so, each folder is entered once, and
//! [`Limits`] bound the rest. It is also how a checkpoint is looked at without waking a sprite.
//!
//! A checkpoint is a cut of a mounted disk, so [`FileSystem::open`] replays the journal in
//! memory: what was synced is there.
//!
//! # Invariants
//! - No byte of a disk makes it panic, loop, or use more memory than [`Limits`] says.
//! - What is damaged is reported with its path and does not hide the rest; with metadata
//!   checksums, damage is an error and never content.
//! - Links are never followed.
//! - Nothing is written.
//!
//! # Why not a crate
//! `ext4-view` 1.0.0 opens our images, but (measured) aborts the process on a link that claims
//! to be 100 GB long, and (by its source) applies revoke records within one transaction only and
//! stops where a journal wraps around, so a cut of a busy disk shows old metadata. It gives no
//! inode numbers, change times, extents or attributes, and a folder ends at its first damage.
//!
//! # Not here
//! - Fast commits in a journal (`mkfs.ext4` leaves the feature off): [`FileSystem::notes`] says
//!   when a disk has them. Journals on another disk and encrypted files are refused.
//! - Checksums of content: ext4 has none; the volume's own cover its blocks.
//! - Confinement of the process: whoever calls this decides in which one it runs.

mod bytes;
mod cache;
mod content;
mod diff;
mod directory;
mod error;
mod extract;
mod filesystem;
mod inline;
mod inode;
mod journal;
mod limits;
mod mapping;
mod source;
mod superblock;
mod tarball;
mod visited;
mod walk;
mod xattr;

pub use content::FileReader;
pub use diff::{Change, ChangedRanges, Changes, Diff, Difference, Options as DiffOptions, Side};
pub use error::{FsError, PathError, Place};
pub use extract::{ExtractError, Item, Skipped};
pub use filesystem::FileSystem;
pub use inode::{Kind, Metadata, Time};
pub use limits::Limits;
pub use source::{BlockSource, FileSource};
pub use tarball::extract_tar;
pub use walk::{Entry, Walk};
pub use xattr::Xattr;
