//! Base images: built from the distribution's packages or imported, kept as ext4 files.
//!
//! [`Images`] is a folder shared by everything on the host, keyed by what an image was made of;
//! a root disk starts as a copy of an image's file. Building is done by `assets/build.sh`, in
//! namespaces that end with it; importing by this process, which trusts nothing in what it
//! imports: every path is resolved beneath the new root by the kernel, and nothing is run.
//!
//! # Invariants
//! - An image that is listed is complete and durable; half-made ones are never seen.
//! - Equal recipes have equal ids, so an image is built once per host.
//! - No image holds device nodes, host keys, or a machine id.
//!
//! # Not here
//! Disks made of an image (`sprite-disk`); which image a sprite uses (`sprite-lifecycle`).

mod accounts;
mod apt;
mod build;
mod certificates;
mod error;
mod extract;
mod images;
mod import;
mod mkfs;
mod oci;
mod overlay;
mod packages;
mod progress;
mod recipe;
mod registries;
mod root;

pub use apt::{Source, parse_deb822, parse_one_line};
pub use certificates::Certificates;
pub use error::ImageError;
pub use images::{DEFAULT_CACHE_DIR, Image, Images, Origin};
pub use import::ImportFrom;
pub use progress::{Progress, State};
pub use recipe::{Distribution, Recipe, Variant};
