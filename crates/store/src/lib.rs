//! Object storage: everything durable of this project is an object here.
//!
//! A [`Store`] holds named, immutable byte strings. Truth is written with [`Store::create`],
//! which succeeds for at most one content per name; that is the only thing that the protocols
//! above need from a store to agree on who is the writer of a disk.
//!
//! Two kinds of store are built in, chosen by URL ([`Store::open`]): a folder of this host and a
//! bucket that speaks S3. [`Store::probe`] refuses those that do not do what is relied on. What
//! that is and why, and which libraries were tried, is in `docs/design/0002-object-store.md`.
//!
//! # Invariants
//! - `create` answers `Ok` only when the object holds exactly the caller's bytes, durably, and
//!   `Taken` only when it holds others. An answer that got lost is settled by reading back.
//! - What is returned has the length that the store announced and the caller asked for; whether
//!   the *content* is what was once written is for the caller's own checksums to say.
//! - Neither bodies nor credentials are in errors or logs.
//!
//! # Not here
//! The names of objects and what is in them (`ltx`, `volume`); when to give up (callers).

mod backend;
mod create;
mod error;
#[cfg(any(test, feature = "test-util"))]
mod faults;
mod key;
mod local;
#[cfg(any(test, feature = "test-util"))]
mod memory;
mod open;
mod probe;
mod s3;
mod series;
mod settings;
mod store;

pub use backend::{Attempt, Backend, Body, ObjectInfo, Page};
pub use error::{CreateError, Failure, Operation, StoreError};
#[cfg(any(test, feature = "test-util"))]
pub use faults::{FaultRates, Faults, Pause, When, seeded};
pub use key::{Key, KeyError, Prefix};
pub use local::{LocalError, LocalFolder};
#[cfg(any(test, feature = "test-util"))]
pub use memory::Memory;
pub use open::{Location, OpenError};
pub use probe::{ProbeError, Requirement};
#[cfg(any(test, feature = "test-util"))]
pub use s3::{Canonical, authorization, sha256_hex};
pub use s3::{Credentials, CredentialsError, S3, S3Config, S3ConfigError};
pub use series::Series;
pub use settings::{Ambient, Random, StoreSettings};
pub use store::Store;
