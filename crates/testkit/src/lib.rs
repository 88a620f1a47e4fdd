//! What tests of several crates need: leak checks, waiting for a condition, choices by a seed.
//!
//! The manual clock is in `sprite-types`, beside the real one.

mod footprint;
mod seeds;
mod wait;

pub use footprint::{Footprint, Scope};
pub use seeds::{Bound, Rng, Seeds, seeds};
pub use tempfile::{TempDir, tempdir};
pub use wait::{eventually, eventually_async};

/// Says whether the test runs as root; if not, prints that it is skipped and why.
///
/// ```
/// if !sprite_testkit::is_root("mounts need root") {
///     return;
/// }
/// ```
#[must_use]
pub fn is_root(why: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: {why}");
    }
    is_root
}
