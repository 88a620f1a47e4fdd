//! Typed client of the public API, for the command line and for tests.
//!
//! [`Client`] holds an address and a token. [`Client::sprite`] gives a [`SpriteClient`], whose
//! calls are grouped by module: `sessions`, [`exec`], [`files`].
//!
//! # Invariants
//! - The token appears in no `Debug`, no error and no log line, and goes to no other address:
//!   redirects are not followed.
//! - Nothing the server sends is trusted: heads, lines and JSON answers have size limits.
//! - Commands and environment values of up to 1 MiB travel in the request target. HTTP
//!   libraries stop at 65,534 bytes, so those requests are written by hand (`wire`).

mod chunked;
mod client;
mod connect;
mod endpoint;
mod error;
pub mod exec;
mod exec_post;
pub mod files;
mod lines;
mod sessions;
mod sprites;
mod target;
mod token;
mod websocket;
mod wire;

pub use client::{Client, SpriteClient};
pub use endpoint::Endpoint;
pub use error::{Error, Refusal};
pub use exec_post::PostedExec;
pub use lines::JsonLines;
pub use sprites::WatchEvent;
pub use token::{Token, TokenError};
