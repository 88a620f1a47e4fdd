//! Tells which pack holds each block of a disk, now and at every moment that is kept.
//!
//! One SQLite file per volume, owned by one thread. The newest state, the *head*, is a table in
//! memory: 16 bytes for a mapped block, 26.5 MB for a fully mapped disk of 100 GiB, little for a
//! sparse one. An *epoch* is one cut of the disk. Its row has a *delta*, the blocks that it
//! changed, and lies on the row before it, or on a *base*, a tree of immutable nodes that bases
//! share. So adding an epoch costs what it changes; a checkpoint, a restore and a fork cost one
//! row. A *fold* writes a new base when deltas have gathered; a *prune* forgets epochs that nobody
//! wants any more, and merges their deltas into the next where that saves something; a *sweep*
//! frees what no state needs.
//!
//! The file is a cache of the bucket: SQLite never syncs it. Whoever puts it there (`ltx`) reads
//! the WAL, which stays as it is until [`BlockMap::truncate_wal`].
//!
//! # Invariants
//! - Each successful call that changes something is exactly one SQLite transaction, and a failed
//!   one changes nothing, in the file or in memory.
//! - The state of an epoch never changes; folding, pruning and sweeping change how it is stored.
//! - Whatever the file contains, reading it ends in an error or in a state whose every entry
//!   lies on the disk and inside a known pack. Each row, delta and node carries a checksum that
//!   also covers its number.
//! - A pack number, once committed, is never given out again.
//!
//! # Costs
//! Of a fully mapped disk of 100 GiB, on one core of a small virtual machine; `examples/measure`
//! prints them anew. Bytes are those of the transaction's LTX file.
//!
//! | What | Time | Bytes |
//! |---|---|---|
//! | an epoch of 1 / 256 random blocks | 0.02 / 0.1 ms | 3 KB / 6 to 11 KB |
//! | a checkpoint | 0.01 ms | 1.5 KB |
//! | restoring a state that differs in 1 / 55,000 blocks | 1 / 46 ms | 1 KB |
//! | opening | 26 ms | |
//! | a fold that rewrites every leaf | 60 ms | 15 MB |
//! | 30 hours of 256 random blocks a second, with all upkeep | | 16 KB per epoch |
//!
//! # Not here
//! What is in a pack and how it is read (`volume`); what is durable and who may write (`ltx`).

mod blob;
mod delta;
mod entry;
mod error;
mod fold;
mod fork;
mod head;
mod history;
mod leaf;
mod map;
mod packs;
mod planes;
mod policy;
mod prune;
mod row;
mod schema;
mod sweep;
mod tree;
mod verify;
mod view;

pub use delta::Delta;
pub use entry::{BLOCK_LEN, BLOCKS_MAX, Codec, Entry, Pack, PackId};
pub use error::{BlockMapError, Corrupt};
pub use fold::{FOLD_CHANGES_MAX, FOLD_CHANGES_MIN};
pub use fork::ForkRoot;
pub use history::EpochInfo;
pub use map::{BlockMap, EpochCommit, Move};
pub use policy::{Moment, Window, to_expire};
pub use prune::EXPIRY_WAIT;
pub use row::{Keep, Kind, Mark};
pub use sweep::{PackUse, Swept};
pub use view::StateView;
