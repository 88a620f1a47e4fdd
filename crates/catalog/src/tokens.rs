//! API tokens: their text, their rows, and what is kept of a secret.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rusqlite::Connection;
use sha2::{Digest, Sha256};
use sprite_types::{OrgId, OrgSlug, Timestamp, TokenId};

use crate::record::TokenRecord;
use crate::sprites::column;

/// Characters of a secret: 256 bits in base64url.
const SECRET_LEN: usize = 43;
/// Longest text looked at: four parts with their separators.
const TEXT_MAX: usize = 63 + 12 + 14 + SECRET_LEN + 3;

/// What is stored of a secret.
pub(crate) type SecretHash = [u8; 32];

/// A token's text, taken apart. Not `Debug`: it holds the secret.
pub(crate) struct TokenText<'a> {
    pub(crate) slug: OrgSlug,
    pub(crate) org: OrgId,
    pub(crate) id: TokenId,
    pub(crate) secret: &'a str,
}

impl<'a> TokenText<'a> {
    /// Reads `slug/org-id/tok-id/secret`; `None` if the text has another shape.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        if text.len() > TEXT_MAX {
            return None;
        }
        let mut parts = text.split('/');
        let slug = parts.next()?.parse().ok()?;
        let org = parts.next()?.parse().ok()?;
        let id = parts.next()?.parse().ok()?;
        let secret = parts.next()?;
        let is_secret = secret.len() == SECRET_LEN
            && secret.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        (is_secret && parts.next().is_none()).then_some(Self { slug, org, id, secret })
    }
}

/// Makes a secret from the kernel's random source.
///
/// # Panics
/// If the kernel has no randomness, without which no secret would be one.
pub(crate) fn new_secret() -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the kernel's random source answers");
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Hashes a secret. It has 256 random bits, so a plain hash is as strong as a slow one.
pub(crate) fn hash(secret: &str) -> SecretHash {
    Sha256::digest(secret.as_bytes()).into()
}

pub(crate) fn insert(
    connection: &Connection,
    token: &TokenRecord,
    secret: &SecretHash,
) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO token (id, secret_sha256, description, created_at) VALUES (?1, ?2, ?3, ?4)",
        (token.id.as_str(), secret, &token.description, token.created_at.as_micros()),
    )?;
    Ok(())
}

/// Deletes a token; says whether there was one.
pub(crate) fn delete(connection: &Connection, id: &TokenId) -> rusqlite::Result<bool> {
    Ok(connection.execute("DELETE FROM token WHERE id = ?1", [id.as_str()])? > 0)
}

pub(crate) fn list(connection: &Connection, org: &OrgId) -> rusqlite::Result<Vec<TokenRecord>> {
    connection
        .prepare_cached("SELECT id, description, created_at FROM token ORDER BY created_at, id")?
        .query_map([], |row| {
            Ok(TokenRecord {
                id: column(row, 0)?,
                org: org.clone(),
                description: row.get(1)?,
                created_at: Timestamp::from_micros(row.get(2)?),
            })
        })?
        .collect()
}

pub(crate) fn hashes(connection: &Connection) -> rusqlite::Result<Vec<(TokenId, SecretHash)>> {
    connection
        .prepare("SELECT id, secret_sha256 FROM token")?
        .query_map([], |row| Ok((column(row, 0)?, row.get(1)?)))?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_four_well_formed_parts_are_a_token() {
        let secret = new_secret();
        assert_eq!(secret.len(), SECRET_LEN);
        let (org, id) = (OrgId::generate(), TokenId::generate());
        let good = format!("acme/{org}/{id}/{secret}");
        let parsed = TokenText::parse(&good).unwrap();
        assert_eq!((parsed.slug.as_str(), &parsed.org, &parsed.id), ("acme", &org, &id));
        assert_eq!(parsed.secret, secret);
        for bad in [
            String::new(),
            "acme".into(),
            format!("{org}/{id}/{secret}"),
            format!("{good}/"),
            format!("{good}A"),
            format!("Acme/{org}/{id}/{secret}"),
            format!("acme/{id}/{org}/{secret}"),
            format!("acme/{org}/{id}/{}", "é".repeat(21)),
            "/".repeat(1 << 20),
        ] {
            assert!(TokenText::parse(&bad).is_none(), "{bad:.80}");
        }
    }
}
