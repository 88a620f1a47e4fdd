//! Volumes in a bucket in memory, with faults and a clock that stands still.

mod model;
mod rules;
mod world;
