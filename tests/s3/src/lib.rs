//! A small S3 server for tests, over any back end of crate `store`.
//!
//! Speaks what this project and tools that read its buckets need: PUT with `If-None-Match: *`,
//! GET with ranges, HEAD, DELETE, ListObjectsV2 with pages and a delimiter. Signatures and body
//! hashes are checked. Whether a name is free is decided by the back end in one step, as on a
//! real store, and answers leave at once (`TCP_NODELAY`).
//!
//! It can fail as networks and stores do ([`Server::set_rates`]) and misbehave as some servers do
//! ([`Quirks`]).
//!
//! # Not here
//! Multipart uploads, chunked signatures, several buckets, TLS. Not for anybody's data.

mod auth;
mod faults;
mod list;
mod objects;
mod reply;
mod server;

pub use server::{Options, Quirks, Server};
