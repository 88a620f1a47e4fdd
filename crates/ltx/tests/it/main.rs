//! LTX files against bytes from outside, against SQLite, and against Litestream.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod capture;
mod format;
mod litestream;
mod model;
mod replica;
mod seeds;
mod workload;
