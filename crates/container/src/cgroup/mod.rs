//! Control groups: where a machine's limits live, and how it is frozen, counted and killed.
//!
//! Two processes use this. `sprited` finds the [`Hierarchies`], makes a machine's directories
//! and sets its [`Limits`]; the machine's launcher puts processes into leaves below them:
//!
//! ```text
//! <base>/sprites/<machine>/        limits, freezer, kill switch: out of the container's reach
//!                          box/    root of the container's cgroup namespace
//!                              init/  s-<session>/  …
//! ```
//! Three kinds of host: version 2 alone, version 1 alone, or both ("hybrid"). Freezing and
//! killing go through cgroup2 wherever it is mounted, since its freezer, unlike the old one,
//! lets frozen processes be killed; limits go wherever the controller is. Leaves exist in cgroup2
//! only; in version 1 hierarchies all of a machine's processes are in `box`.
//!
//! # Invariants
//! - The container can write to `box` of cgroup2 at most. It can neither raise its limits nor
//!   thaw itself.
//! - A limit whose controller is missing is reported in words, never silently dropped.

mod detect;
mod devices;
mod error;
mod files;
mod layout;
mod leaves;
mod limits;
mod machine;

pub use detect::{Hierarchies, Mode};
pub use error::CgroupError;
pub(crate) use leaves::{Leaf, Leaves};
pub use limits::{Limits, Unapplied};
pub use machine::{MachineCgroup, Stats};
