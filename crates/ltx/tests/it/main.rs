//! LTX files against bytes from outside, against SQLite, and against Litestream.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod capture;
mod format;
mod litestream;
mod model;
mod replica;
mod workload;

use sprite_testkit::{Rng, seeds};

/// Runs `test` for the seeds to try, by default `count`.
fn for_each_seed(count: u64, mut test: impl FnMut(Rng)) {
    seeds(count).for_each(|seed| test(Rng::new(seed)));
}
