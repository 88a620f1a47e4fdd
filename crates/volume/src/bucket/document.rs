//! Versioned JSON.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sprite_types::ErrorKind;

/// Longest document that is looked at, in bytes.
const BYTES_MAX: usize = 256 << 10;

/// A kind of document.
pub(crate) trait Document: Serialize + DeserializeOwned {
    /// What it is, for people.
    const NAME: &'static str;
    /// The version of its format that this program writes, and the only one it reads.
    const VERSION: u32;

    /// Says what is wrong with one that has the right shape.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Bytes that are not the document they should be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DocumentError {
    /// A later release wrote it. Use that release.
    #[error("{name} has version {found}, this program knows version {known}")]
    Version {
        /// Which kind of document.
        name: &'static str,
        /// The version found.
        found: u32,
        /// The version known.
        known: u32,
    },
    /// Damaged, or not ours.
    #[error("not a {name}: {what}")]
    Malformed {
        /// Which kind of document.
        name: &'static str,
        /// What is wrong.
        what: String,
    },
}

impl DocumentError {
    /// Says what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Version { .. } => ErrorKind::Unsupported,
            Self::Malformed { .. } => ErrorKind::Corrupt,
        }
    }
}

#[derive(Serialize)]
struct Written<'a, T> {
    version: u32,
    #[serde(flatten)]
    document: &'a T,
}

/// Encodes a document; the same one always has the same bytes.
#[must_use]
#[expect(private_bounds, reason = "the kinds of documents are those of this module")]
pub fn encode<T: Document>(document: &T) -> Bytes {
    let written = Written { version: T::VERSION, document };
    let mut bytes = serde_json::to_vec(&written).expect("documents are plain data");
    bytes.push(b'\n');
    bytes.into()
}

/// Decodes a document. Fields that are not known are ignored: within a version they only add.
///
/// # Errors
/// See [`DocumentError`].
#[expect(private_bounds, reason = "the kinds of documents are those of this module")]
pub fn decode<T: Document>(bytes: &[u8]) -> Result<T, DocumentError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let malformed = |what: String| DocumentError::Malformed { name: T::NAME, what };
    if bytes.len() > BYTES_MAX {
        return Err(malformed(format!("it has {} bytes", bytes.len())));
    }
    let parsed = serde_json::from_slice::<Versioned>(bytes);
    let versioned = parsed.map_err(|error| malformed(error.to_string()))?;
    if versioned.version != T::VERSION {
        let (found, known) = (versioned.version, T::VERSION);
        return Err(DocumentError::Version { name: T::NAME, found, known });
    }
    let document: T =
        serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    document.check().map_err(malformed)?;
    Ok(document)
}
