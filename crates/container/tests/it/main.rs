//! Containers on this host. Need root; without it each test says so and passes.
//!
//! Every test has a machine of its own, which checks when it is dropped that nothing of it is
//! left: no process, mount, loop device or control group.
#![expect(clippy::unwrap_used, reason = "a failed assumption of a test is a failed test")]

mod attacks;
mod control;
mod fixture;
mod limits;
mod running;
