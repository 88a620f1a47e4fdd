//! SQLite databases in the bucket, as LTX files.
//!
//! - [`mod@format`] is the file: encode, decode, verify.
//! - [`database`] is the database on this host: capture its log, apply files to it.
//! - [`replica`] is the database in the bucket: commit, open, fence, compact.

pub mod database;
pub mod format;
pub mod replica;
