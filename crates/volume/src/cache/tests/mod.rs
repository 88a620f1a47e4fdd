//! The cache beside an obvious model, on a disk whose power can be cut.

mod cases;
mod model;
mod soak;
mod world;
