//! Durable host records: orgs, API tokens and sprites.
//!
//! One SQLite database per org, in its own folder below the data folder, so that the records of
//! one org can be copied, damaged or restored without touching another's. Each has one thread
//! that writes; readers see every write that was answered.
//!
//! # Invariants
//! - An answered write is on disk (WAL, `synchronous=FULL`).
//! - A name belongs to at most one live sprite of an org. Of two creates one wins.
//! - Only the SHA-256 of a token's secret is kept, and no secret reaches a log or an error.
//! - A damaged database is reported in words and takes down its own org only.
//!
//! # Not here
//! What a sprite is doing right now (`lifecycle`); what clients may send (`api`, `server`).

mod auth;
mod catalog;
mod error;
mod format;
mod org_db;
mod orgs;
mod record;
mod schema;
mod sprites;
mod tokens;

pub use auth::{AuthError, Principal};
pub use catalog::Catalog;
pub use error::CatalogError;
pub use record::{
    BrokenOrg, ConfigRecord, NewSprite, Org, SpritePatch, SpriteRecord, TokenRecord, UrlAuth,
};
