//! The built `sprite` command against a small server of our own.
//!
//! The server (`fake`) speaks just enough of the contract: sprites in memory, files in a
//! temporary directory, commands as local processes, terminals as a script.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod accounts;
mod copying;
mod errors;
mod exec;
mod fake;
mod harness;
mod pty;
mod sprites;
mod terminal;
