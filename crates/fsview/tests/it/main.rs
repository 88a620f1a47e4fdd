//! Whole images, made by `mkfs.ext4` and `debugfs`, some of them written by the kernel.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod diffs;
mod extracts;
mod fuzz;
mod images;
mod journals;
mod tree;
mod walks;

use sprite_testkit::{Rng, seeds};

/// Runs `test` for the seeds to try, by default `count`.
fn for_each_seed(count: u64, mut test: impl FnMut(u64, &mut Rng)) {
    seeds(count).for_each(|seed| test(seed, &mut Rng::new(seed)));
}
