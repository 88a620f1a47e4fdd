//! The whole public interface over TCP, with real guests in this process.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod errors;
mod exec;
mod files;
mod posted;
mod sprites;
mod world;
