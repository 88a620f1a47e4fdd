//! The public contract: HTTP bodies, exec frames, error codes, and the text forms of durations,
//! modes and signals. Plain data, shared by the server, the guest agent and the client.

pub mod error;
pub mod exec;
pub mod format;
pub mod fs;
pub mod query;
pub mod session;
pub mod sprite;

pub use error::{ApiError, status_of};
