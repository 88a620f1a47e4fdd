//! The root-only socket through which the other commands act on a running `sprited`.
//!
//! HTTP over a unix socket in the data folder, mode 0600 in a folder of mode 0700: whoever can
//! open it is root and needs no token.

mod client;
mod server;

pub use client::{AdminClient, AdminError};
pub(crate) use server::{Admin, serve};

use serde::{Deserialize, Serialize};

/// Body of `POST /v1/tokens`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewToken {
    /// Org slug; made if it is new.
    pub org: String,
    /// What it is for.
    pub description: String,
}

/// Answer to [`NewToken`]: the only time the secret is shown.
#[derive(Clone, Serialize, Deserialize)]
pub struct MadeToken {
    /// Its id.
    pub id: String,
    /// The whole token.
    pub token: String,
}

/// One token, without its secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenEntry {
    /// Its id.
    pub id: String,
    /// What it is for.
    pub description: String,
    /// RFC 3339.
    pub created_at: String,
}

/// One org.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OrgEntry {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// RFC 3339.
    pub created_at: String,
}

/// Body of `POST /v1/orgs`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewOrg {
    /// Its name.
    pub name: String,
}
