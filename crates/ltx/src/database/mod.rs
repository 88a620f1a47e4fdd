//! A database on this host: its write-ahead log, what to ship of it, and how to make it anew.
//!
//! SQLite is never asked what is in its files: the log is read here, with its own checksums, so
//! that exactly the transactions that SQLite would recover are shipped.
//!
//! # What the owner of the connection promises
//! - WAL mode, `wal_autocheckpoint=0`, `SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE`, no VACUUM INTO the
//!   same name, and nobody else opens the database.
//! - A [`Capture`] is dropped after the last connection: closing any descriptor of a file gives
//!   up all POSIX locks that this process holds on it.
//!
//! A broken promise costs an upload of the whole database, not the database: see
//! [`Capture::next`].

mod apply;
mod capture;
mod compact;
mod files;
mod local;
mod wal;

pub use apply::{ApplyError, Base, Rebuild};
pub use capture::{Capture, CaptureError, Captured};
pub use compact::{CompactError, compact};
pub use files::FileError;
pub use local::{LocalError, LocalRecord};
pub use wal::WalPosition;

use sprite_types::{Timestamp, Txid};

use crate::format::{FileChecksum, Header, LtxFile};

/// The newest transaction of a database and the file it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    /// The transaction.
    pub txid: Txid,
    /// Checksum of the file whose last transaction it is.
    pub checksum: FileChecksum,
    /// When that file was made, in milliseconds.
    pub time: Timestamp,
}

impl Tip {
    /// Returns the tip after a file with this header and checksum.
    #[must_use]
    pub fn after(header: &Header, checksum: FileChecksum) -> Self {
        Self { txid: header.max, checksum, time: header.time }
    }

    pub(crate) fn of(file: &LtxFile) -> Self {
        Self::after(file.header(), file.checksum())
    }
}
