//! The public HTTP interface: translates requests into calls and answers back; decides nothing.
//!
//! In reading order:
//! - [`Server`]: the listener; [`ServerSettings`];
//! - `connection`: bytes to requests, of any size, and what every answer carries;
//! - `routes`: which request goes where; `auth`, `app`: who asks, and about what;
//! - `exec`: commands over WebSocket and over `POST`; `watch`: endless lists;
//! - `answer`, `view`, `request_body`: JSON.
//!
//! # Invariants
//! - A token of one org never shows that another org's sprite exists.
//! - Queries, bodies and tokens appear in no log line: they carry commands and secrets.
//! - Whatever a client or a guest sends, what is kept for it in memory is bounded.
//!
//! # Not here
//! When a sprite boots or sleeps (`sprite-lifecycle`); what happens inside one (`guestd`).

mod answer;
mod app;
mod auth;
mod connection;
mod exec;
mod request_body;
mod routes;
mod server;
mod settings;
mod view;
mod watch;

pub use server::Server;
pub use settings::{Readiness, ServerSettings};
