//! The block map on real files: laws against a plain model, damage, and single claims.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod corruption;
mod model;
mod operations;
mod property;
