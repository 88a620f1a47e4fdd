//! A database in the bucket: read by anyone, written by one.
//!
//! Each transaction is one object, created only if its name is free, so that each number has one
//! winner and a success means durable. Everything else is for speed: files compacted into larger
//! ones, manifests that name them, a hint that holds the newest manifest.
//!
//! # Invariants
//! - What [`Publisher::publish`] answered `Ok` for is in every later [`Replica::open`] and
//!   [`Replica::fetch`].
//! - From the moment `open` returned, every writer with a lower generation fails for good: its
//!   next transaction is taken, by a fence that is never deleted, or was taken over.
//! - The end of a database is where the next transaction is missing. No manifest and no hint
//!   says where that is.
//! - Nothing is ever deleted here.
//!
//! # What others promise
//! - A generation is claimed by one caller, once, for one call of `open`. If that fails, another
//!   is claimed.
//! - The collector works for the open writer, looks after marking whether a higher generation was
//!   claimed, and works only once that writer has written a manifest:
//!   before, a former writer's manifest may still come and name what looks unused. It keeps the
//!   two newest manifests of the newest generation, what they name, and the fences; of other
//!   files it deletes only those that end *before* the newest manifest's transaction (one that
//!   ends there may be about to be named), and only after a grace, to spare readers the trouble
//!   of beginning again. No rule here depends on how long the grace is.
//!
//! # Not here
//! Claims; deleting; when to commit, to compact and to make a snapshot.

mod compaction;
mod error;
mod fetch;
mod find;
mod layout;
mod manifest;
mod open;
mod publish;
mod restore;
mod writer;

pub use compaction::Maintenance;
pub use error::{CommitError, DamagedError, OpenError};
pub use layout::ManifestName;
pub use manifest::{FileRef, Manifest};
pub use open::{NewDatabase, OpenOptions, Opened};
pub use publish::{Files, Publisher};
pub use restore::Fetched;
pub use writer::Writer;

use sprite_store::{KeyError, Prefix, Store};

use layout::Layout;

/// A database in the bucket. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Replica {
    store: Store,
    layout: Layout,
    #[cfg(feature = "test-util")]
    broken: Option<BrokenRule>,
}

/// A rule of the protocol that a test leaves out, to see that it is needed.
#[cfg(feature = "test-util")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenRule {
    /// No fence is written.
    NoFence,
    /// Manifests are not listed again after the fence.
    NoListAfterFence,
    /// Files are taken from the manifest that was read before the fence, though there is a newer.
    KeepOldManifest,
    /// The manifest in the hint is believed.
    BelieveHint,
    /// The newest manifest is taken for the end of the database.
    BelieveManifest,
    /// A transaction that somebody else wrote is taken for our own.
    IgnoreTaken,
    /// A fence whose place was taken by a lower generation is given up instead of moved.
    FenceOnce,
    /// A local database is used whatever is in the bucket.
    BelieveLocal,
}

impl Replica {
    /// Names a database: everything below `prefix` is its own.
    ///
    /// # Errors
    /// - If `prefix` is so long that names below it would not be keys.
    pub fn new(store: Store, prefix: Prefix) -> Result<Self, KeyError> {
        Ok(Self {
            store,
            layout: Layout::new(prefix)?,
            #[cfg(feature = "test-util")]
            broken: None,
        })
    }

    /// Returns the folder of the database.
    #[must_use]
    pub fn prefix(&self) -> &Prefix {
        self.layout.prefix()
    }

    /// Leaves out a rule of the protocol, for tests that show what it is for.
    #[cfg(feature = "test-util")]
    #[must_use]
    pub fn without(mut self, rule: BrokenRule) -> Self {
        self.broken = Some(rule);
        self
    }

    /// Says whether a test asked to leave out a rule.
    #[cfg(feature = "test-util")]
    fn is_broken(&self, rule: BrokenRule) -> bool {
        self.broken == Some(rule)
    }
}

/// Is true if the rule was left out by a test; a constant in products.
macro_rules! left_out {
    ($replica:expr, $rule:ident) => {{
        #[cfg(feature = "test-util")]
        let left_out = $replica.is_broken($crate::replica::BrokenRule::$rule);
        #[cfg(not(feature = "test-util"))]
        let left_out = false;
        left_out
    }};
}
use left_out;
