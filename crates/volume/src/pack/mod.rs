//! Packs: immutable objects that hold the blocks of one epoch, and the map entries that point
//! into them.
//!
//! ```text
//! stored block | stored block | … | index: one entry per block | trailer
//! ```
//!
//! A block is compressed with zstd at level 1 unless that does not shrink it. A reader who has a
//! map [`Entry`](sprite_blockmap::Entry) needs one range request and no footer ([`open_block`]); who has the whole object
//! gets an index whose hashes are keyed ([`Pack`]). `docs/formats.md`, *Packs*, has the bytes.
//!
//! # Invariants
//! - A block of zeroes is never stored: no entry means zeroes.
//! - Nothing is handed out before its checksum was compared, and no bytes, however broken, make
//!   a reader panic or allocate more than a block at a time.
//!
//! # Not here
//! Names of packs in the bucket and fetching them; which blocks belong together.

mod builder;
mod entry;
mod format;
mod reader;
#[cfg(test)]
mod tests;

pub(crate) use builder::entries_of;
pub use builder::{Added, Builder, Built};
pub use entry::{EntryError, check_entry};
pub use format::{HashKey, IndexEntry, MAX_BLOCKS, MAX_PACK_LEN, Seal};
pub use reader::{Pack, PackError, open_block};
