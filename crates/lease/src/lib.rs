//! Who may write a volume or a database: claims in the bucket, one above the other.
//!
//! A [`Claim`] is an object whose name is its generation. Claims are written create-only and
//! never removed, so every generation has one holder for ever and the highest one counts.
//! [`Leases`] finds it and writes the next. Whether that is allowed is decided by [`verdict`],
//! from what is known of the holder and never from a clock of another host.
//!
//! # Invariants
//! - Each generation was granted at most once, also when answers of the store get lost.
//! - A claim that cannot be read is never treated as absent.
//!
//! # Not here
//! Safety. A former writer is kept out by the fence that the new one puts into the log of the
//! volume's map (`ltx`), whatever that former writer believes and however long it slept. Claims
//! and heartbeats only decide *when* to try, so a wrong guess costs somebody a machine, never
//! data.

mod claim;
mod heartbeat;
mod leases;
mod self_fence;
mod verdict;

pub use claim::{Claim, ClaimError, ClaimState, Claimant, DecodeError};
pub use heartbeat::{Heart, HeartError, Heartbeat, Watch};
pub use leases::Leases;
pub use self_fence::SelfFence;
pub use verdict::{Evidence, Ground, Verdict, verdict};
