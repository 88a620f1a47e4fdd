//! SQLite databases in the bucket, as LTX files.
//!
//! [`mod@format`] is the file: encode, decode, verify.

pub mod format;
