//! A keeper, servers that are killed, and a disk in use. Needs root, FUSE and loop devices.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod faults;
mod kills;
mod lifecycle;
mod load;
mod roles;
mod world;
