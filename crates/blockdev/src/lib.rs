//! Front ends that serve a volume: a FUSE file behind a loop device, kept by a keeper.
//!
//! A disk server may be killed or replaced at any moment under a mounted disk, on Linux 6.1 and
//! newer; who uses the disk sees a pause, no error. Three processes take part:
//!
//! ```text
//! supervisor ──starts──► keeper     holds /dev/fuse and the slots' memory; does no I/O
//!     │ ──starts──► server (1)      reads requests into slots, serves a `Device`
//!     │                (2)          its successor, once (1) is gone as a whole
//!     └─ attaches the one file to a loop device, which is what gets mounted
//! ```
//!
//! # Invariants
//! - A request that the kernel has delivered is in a slot, and slots outlive servers.
//! - At most one server uses the slots. The next gets them when no thread of the last one lives.
//! - What is not marked as done is executed again, what is marked is only answered again.
//!
//! # Not here
//! What a device does with a request, where a server's program comes from, when it is restarted:
//! that is for the volume engine and for whoever supervises.
//!
//! Why it is like this, and what else was considered: `docs/design/0003-disk-front-end.md`.

mod abi;
mod device;
mod fault;
pub mod keeper;
mod layout;
pub mod loopdev;
mod server;
mod socket;
mod sys;
#[cfg(feature = "test-util")]
pub mod testing;

pub use device::{Device, DeviceError, Done, ReadBuffer, Request, WriteData};
pub use layout::LayoutError;
pub use server::{End, Recovery, Server, Settings, StartError, StillBusy};
