//! The engine of a volume: a disk whose truth is in the object store.
//!
//! So far the part that needs no network: [`pack`], the objects that hold blocks.

mod block;
pub mod bucket;
pub mod pack;
#[cfg(test)]
mod testing;

pub use block::{BLOCK_LEN, PART_LEN, PARTS, is_zero};
