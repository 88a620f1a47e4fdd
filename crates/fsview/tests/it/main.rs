//! Whole images, made by `mkfs.ext4` and `debugfs`, some of them written by the kernel.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod diffs;
mod extracts;
mod fuzz;
mod images;
mod journals;
mod rng;
mod tree;
mod walks;
