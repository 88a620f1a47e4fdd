//! The host-guest protocol: what the two sides write to each other. Encode and decode only.
//!
//! From the outside in:
//! - [`frame`]: makes any byte stream restartable (hello, epochs, resynchronisation).
//! - above it `yamux` gives many streams, and each carries one HTTP/1.1 exchange;
//! - [`guest`]: the paths and bodies of the guest agent's HTTP interface;
//! - [`session`]: frames on a stream that was upgraded to follow one session;
//! - [`boot`]: what a guest agent is told once, before there is a link.
//!
//! A guest may be months older than its host: messages are only ever added, unknown JSON
//! fields and unknown session frames are ignored, and both sides speak the lower version.

pub mod boot;
pub mod frame;
pub mod guest;
pub mod session;

/// Oldest and newest protocol version that this build speaks.
pub const PROTOCOL_MIN: u16 = 1;
/// See [`PROTOCOL_MIN`].
pub const PROTOCOL_MAX: u16 = 1;
