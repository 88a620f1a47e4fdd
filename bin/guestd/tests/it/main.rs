//! The agent's HTTP interface, end to end: real processes of this host over an in-memory
//! connection and, as root, a whole machine over its link.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod files;
mod guest;
mod machine;
mod rootfs;
mod sessions;
mod streams;
