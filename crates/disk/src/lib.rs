//! Root disks behind one seam: create from an image, attach, detach, destroy, free space.
//!
//! A disk is a sparse file with an ext4 file system; attached, it is a loop device. The volume
//! engine will fill the same seam with another kind of disk, so nothing here knows what a
//! sprite is, and nobody outside knows that a disk is a file.
//!
//! # Invariants
//! - A disk that `create` has answered for is durable on this host: file, length and name.
//! - At most one device shows a disk, whoever asks and whatever died before: the attached
//!   device itself holds the file's lock.
//! - A device lives as long as its last user (an [`Attached`], a mount) and not longer, so a
//!   process killed at any point leaks none.
//!
//! # Not here
//! Mounting, formatting and freezing a file system: the guest agent and `sprite-image` do that.
//! A file system can be frozen (FIFREEZE) only through a mount of it, and the only mount lives
//! in the guest agent's namespace; what a host does before its own disk is full is to stop the
//! machine's processes (cgroup freezer), when [`admission`] says so.

mod copy;
mod device;
mod disks;
mod pool;
mod space;
mod sys;

pub use copy::CopyError;
pub use device::{AttachError, Attached};
pub use disks::{CreateError, DestroyError, Disks, OpenError, Settings};
pub use space::{Admission, Policy, Space, SpaceError, admission};
