//! Plain data that every other crate speaks: ids, names, sizes, error kinds, the clock.
//!
//! No I/O, no async, and no clock reads outside [`SystemClock`].

mod clock;
mod error;
mod ids;
mod names;
mod size;
mod volume;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use error::{ErrorKind, chain};
pub use ids::{
    BootId, HostId, IdError, ImageId, MachineId, OrgId, RequestId, SessionId, SpriteId, TokenId,
    VolumeId,
};
pub use names::{NameError, OrgSlug, SpriteName};
pub use size::ByteSize;
pub use volume::{BlockIndex, Epoch, Generation, Hex16Error, Txid};

/// The version of the in-sprite runtime that clients see (`Sprite-Version`, `version`).
///
/// The official Go SDK compares it with release candidates of `0.0.1` to choose how it
/// attaches, hence the form. Source: contract, "Version and capability negotiation".
pub const RUNTIME_VERSION: &str = "0.0.1-rc50";
