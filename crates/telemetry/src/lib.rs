//! Logs: how they are written, and what must never be in them.
//!
//! Standard output belongs to data, so logs go to standard error: as text for people, or as one
//! JSON object per line. What is logged is chosen by `SPRITES_LOG`, in the syntax of
//! `tracing`'s env filter (`info,sprite_network=debug`).

mod logs;
mod redact;

pub use logs::{InitError, LogFormat, LogSettings, init};
pub use redact::Redacted;
