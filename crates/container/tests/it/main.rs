//! Containers on this host. Need root; without it each test says so and passes.

mod fixture;
mod running;
