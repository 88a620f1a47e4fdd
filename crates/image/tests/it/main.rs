//! Images on a real file system and, where asked for, built from the real archive.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod built;
mod imported;
