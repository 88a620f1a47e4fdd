//! Running commands: a client's socket or request on one side, a guest's session on the other.
//!
//! - [`handshake`]: whether a request may become a WebSocket;
//! - [`machine`]: asking the guest; [`attachment`]: following one session across broken links,
//!   with its [`input`] and its [`stream`];
//! - [`translate`]: what WebSocket messages mean; [`socket`] and [`writer`]: one client's
//!   WebSocket; [`post`]: the same in the body of an answer.

pub(crate) mod attachment;
pub(crate) mod handshake;
mod input;
pub(crate) mod machine;
pub(crate) mod post;
pub(crate) mod socket;
pub(crate) mod stream;
mod translate;
mod writer;

#[cfg(test)]
mod tests;
