//! The journal: what is known of the cache after the host's power was cut.
//!
//! Two files are written in turns. Each begins with a record of the full state; the records after
//! it say what changed. Every record names the one before by its hash and is checked itself, so
//! that a reader stops at the first that is torn, out of sequence or left over from an earlier
//! use of the file. `docs/formats.md`, *Cache and journal*, has the bytes.
//!
//! Room for the longest possible record is reserved when the cache grows, so that a flush never
//! finds the host's disk full.

mod log;
mod record;

pub(super) use log::{Journal, MAX_EVENTS, Replayed};
pub(super) use record::{Event, EventKind, Item, ItemState, Kind, MAX_NOTE_LEN, Record};
