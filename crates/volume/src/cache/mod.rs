//! The cache: a volume's writes on their way to the bucket, and blocks that came from there.
//!
//! One file of 64 KiB **slots**, a table that says which block each slot holds, and a journal that
//! says what of that is known to survive a power cut. Per slot, a bit for each 4 KiB part tells
//! what is valid and what is dirty, so that a small write to an absent block fetches nothing.
//!
//! ```text
//! free ─write─► open ─seal─► sealed ─epoch durable─► clean ─evict or superseded─► released ─journal─► free
//!   └────────────────────────── fill ──────────────────┘
//! ```
//!
//! The caller is the disk server's threads. They [`write`](Cache::write), [`zero`](Cache::zero),
//! [`read`](Cache::read), [`fill`](Cache::fill) and [`flush`](Cache::flush); its engine
//! [`seal`](Cache::seal)s, sends [`sealed_blocks`](Cache::sealed_blocks), and says when an
//! [epoch is durable](Cache::epoch_durable). Requests for different blocks share no lock while they
//! do I/O, and a seal waits for nobody's data but that of requests already under way.
//!
//! # Invariants
//! The rules. Each was found necessary by a model with power cuts; the tests break them one by one
//! and see that it is noticed.
//!
//! 1. A slot is written in place only while it is open. A write or zero to a block whose slot is
//!    sealed or clean takes a fresh slot and copies the valid parts first.
//! 2. Order within a write: dirty bits, data, valid bits, answer. Only what is dirty and valid is
//!    packed. A fill sets only parts that are not valid, under the block's lock, after checking that
//!    the entry it fetched is still the block's.
//! 3. A flush looks at the masks, makes the data durable, then writes one journal record of all
//!    slots touched or released since the last, and makes that durable. No slot released and no
//!    mask changed: no record, no second sync.
//! 4. A released slot is reused only after the record of its release is durable.
//! 5. A failed sync or journal write is final until the volume is opened anew, from the journal and
//!    from what the disk has, not from what the page cache remembers.
//! 6. A replay, against the *bucket's* head: dirty parts of later epochs are kept, oldest first,
//!    newest on top; those of the head's epoch or earlier are dropped; clean slots stay only if
//!    their entry is the head's and they pass their checksum at first use; clean parts of open slots
//!    are dropped, unless they are copies of what an earlier epoch has still to send: those count as
//!    dirty from then on. A named seal is rebuilt as an epoch of its own; unnamed ones join the next
//!    named one or the open one. A restore cuts: what was written before it belongs to the epochs
//!    before it, what came after lies on the restored state.
//! 7. If anyone else claimed the volume since, what was not sent is *stranded*: kept, never merged.
//!
//! A block zeroed as a whole takes no space: it is a *zero mark*, to which the same rules apply.
//!
//! # Not here
//! The map, packs and requests to the bucket; when to seal, evict and slow writes down
//! ([`Stats`] has the numbers); prefetching.

mod disk;
mod engine;
mod epochs;
mod error;
mod evict;
mod flush;
mod host;
mod journal;
mod memory;
mod open;
mod parts;
mod plan;
mod read;
mod rules;
#[cfg(test)]
pub(crate) mod sim;
mod slots;
mod stranded;
mod sys;
mod table;
#[cfg(test)]
mod tests;
mod write;

pub use disk::{Dir, File};
pub use engine::{Cache, Settings};
pub use epochs::{SealKind, SealResult, SealedBlock, SealedEpoch, SealedKind};
pub use error::{CacheError, OpenError};
pub use evict::Stats;
pub use host::{HostDir, HostDirError};
pub use memory::Memory;
pub use open::{ForeignClaim, HeadInfo, LeftBehind, Recovered};
pub use parts::{CleanEntry, Entry, Parts};
pub use read::{Filled, Read};
pub use stranded::{Stranded, StrandedWrites};
