//! What the compiler cannot check: shared memory, the vectors of `/dev/fuse`, ioctls, signals.
#![expect(unsafe_code, reason = "memory shared with the kernel, and calls without a safe wrapper")]

pub(crate) mod loopctl;
pub(crate) mod memory;
pub(crate) mod process;
