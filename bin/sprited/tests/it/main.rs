//! The parts of `sprited` together, on the fake substrate.

mod link_cuts;
