//! The volume as it is in the bucket: packs, block map and claim as one thing, with no copy of
//! its data on this host.
//!
//! [`Remote`] names a volume. [`Remote::create`] and [`Remote::open`] make a [`Writer`], of which
//! there is one that counts; [`Remote::view`] makes a [`Reader`] that claims nothing and stays at
//! the state it found.
//!
//! An epoch becomes durable in three steps whose order is absolute: its packs, one transaction of
//! the map, the one object that holds this transaction. Packs of several epochs may be on their
//! way at once; the transactions are written one by one.
//!
//! # Invariants
//! - What [`Writer::commit`] answered `Ok` for is in every later open, whole.
//! - After an open returned, no older writer ever adds anything; its calls end in
//!   [`WriteError::Fenced`], for good.
//! - Nothing is handed out whose checksum was not compared.
//! - The map never names a pack that was not there before, and young enough not to be collected.
//!
//! # Not here
//! When to seal and what is dirty (`cache`); deleting anything but pins that came too late.

mod check;
mod error;
mod fetch;
mod fork;
mod open;
mod reader;
mod retain;
mod seal;
mod settings;
#[cfg(test)]
mod tests;
mod turn;
mod upkeep;
mod upload;
mod writer;

pub use check::{CheckError, Damage, Report};
pub use error::{FetchError, ForkError, OpenError, ReadError, RecordError, WriteError};
pub(crate) use fetch::empty;
pub use fetch::{Fetched, Run};
pub use fork::Child;
pub use open::{Opening, Remote};
pub use reader::Reader;
pub use retain::PruneError;
pub use seal::{Blocks, Content, SealedEpoch};
pub use settings::{RemoteSettings, Statistics};
pub use writer::Writer;
