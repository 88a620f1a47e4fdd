//! The engine of a volume: a disk whose truth is in the object store.
//!
//! Parts that wait for nobody: [`cache`], which must never lose a write that was acknowledged;
//! [`pack`], the objects that hold blocks; and [`bucket`], names and documents. Above them
//! [`remote`], the volume as it is in the bucket. [`engine`] joins cache and bucket into a disk.

mod block;
pub mod bucket;
pub mod cache;
pub mod engine;
pub mod pack;
pub mod remote;

pub use block::{BLOCK_LEN, PART_LEN, PARTS, is_zero};
