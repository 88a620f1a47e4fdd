//! Carries the host-guest protocol: restartable, multiplexed streams and HTTP over them.
//!
//! One byte stream (a unix socket, a virtio-serial port) is cut into epochs by the frames of
//! `sprite_link::frame`; each epoch runs one `yamux` connection; each of its streams carries one
//! HTTP/1.1 exchange. The host dials and asks, the guest listens and answers.
//!
//! # Invariants
//! - A new epoch drops all streams of the one before, on both sides.
//! - Bytes of one epoch never reach a stream of another.
//! - Nothing is read from a link whose hello did not carry the machine's secret.
//!
//! # Not here
//! What is asked (`sprite_link::guest`), and the recovery of sessions and uploads after a break:
//! whoever opened a stream knows what to do when it ends.

mod epoch;
mod guest;
mod host;
mod mux;

pub use guest::{GuestIdentity, GuestLink};
pub use host::{Dial, Dialing, HostIdentity, HostLink, LinkError, LinkState, Unix, Upgraded};
pub use mux::MuxStream;

use std::time::Duration;

/// How long either side waits for the other's hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// A byte stream that can carry a link.
pub trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static> Io for T {}
