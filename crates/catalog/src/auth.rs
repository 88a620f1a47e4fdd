//! Who is calling.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use sprite_types::{ErrorKind, OrgId, TokenId};
use subtle::ConstantTimeEq;

use crate::record::Org;
use crate::tokens::{SecretHash, TokenText, hash};

/// A caller whose token was found to be good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The org whose sprites the caller may use.
    pub org: Org,
    /// The token, for logs.
    pub token_id: TokenId,
}

/// Why a token was not accepted. Says nothing about its secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The text is not a token.
    #[error("malformed token")]
    Malformed,
    /// It is none of ours, or it was revoked.
    #[error("unknown token")]
    Unknown,
    /// The org's records cannot be read, so nobody can tell.
    #[error("the records of org `{org}` are unreadable")]
    Unreadable {
        /// Whose.
        org: OrgId,
    },
}

impl AuthError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Malformed | Self::Unknown => ErrorKind::Unauthorized,
            Self::Unreadable { .. } => ErrorKind::Unavailable,
        }
    }
}

/// The hashes of an org's tokens. Complete at all times, so that a stranger's guesses never
/// reach the database.
#[derive(Default)]
pub(crate) struct TokenCache(RwLock<HashMap<TokenId, SecretHash>>);

impl TokenCache {
    pub(crate) fn new(hashes: Vec<(TokenId, SecretHash)>) -> Self {
        Self(RwLock::new(hashes.into_iter().collect()))
    }

    pub(crate) fn insert(&self, id: TokenId, secret: SecretHash) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(id, secret);
    }

    pub(crate) fn remove(&self, id: &TokenId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Says whether `text` is one of these tokens, in a time that does not depend on how much
    /// of the secret is right.
    pub(crate) fn accepts(&self, org: &Org, text: &TokenText<'_>) -> bool {
        let offered = hash(text.secret);
        let hashes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        hashes.get(&text.id).is_some_and(|kept| bool::from(kept.ct_eq(&offered)))
            && org.slug == text.slug
    }
}
