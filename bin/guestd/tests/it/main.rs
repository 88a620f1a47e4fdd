//! The agent's HTTP interface, end to end: real processes of this host, an in-memory connection.

mod files;
mod guest;
mod sessions;
mod streams;
