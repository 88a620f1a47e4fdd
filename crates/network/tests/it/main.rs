//! The network as sprites and the outside see it, in network namespaces of its own: even the
//! host is one, so nothing of the computer that runs the tests is touched.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod isolation;
mod lifecycle;
mod world;
