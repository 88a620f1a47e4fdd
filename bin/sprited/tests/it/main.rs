//! The parts of `sprited` together, on the fake substrate.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod link_cuts;
