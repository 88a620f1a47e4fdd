//! Stores as their users see them.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod basics;
mod elsewhere;
mod faults;
mod local;
mod power;
mod probe;
mod processes;
mod s3;
