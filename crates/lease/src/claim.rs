//! A claim and its bytes.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sprite_store::{CreateError, Key, StoreError};
use sprite_types::{ErrorKind, Generation, HostId, Timestamp};

/// The version of the object's format.
const VERSION: u32 = 1;
/// Longest object that is looked at, in bytes. Ours have about 250.
const BYTES_MAX: usize = 4096;
/// Longest name of a host's boot, in bytes. The kernel's has 36.
const BOOT_LEN_MAX: usize = 64;

/// Who claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// The host.
    pub host: HostId,
    /// One start of that host: `/proc/sys/kernel/random/boot_id`.
    pub host_boot: String,
}

/// What a claim says of its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimState {
    /// Somebody writes.
    Held,
    /// Everything is in the bucket and nobody writes: whoever wants to may.
    Released,
}

/// One generation and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The generation; the first is 1.
    pub generation: Generation,
    /// Held or released.
    pub state: ClaimState,
    /// Who wrote this.
    pub claimant: Claimant,
    /// When, by that host's clock. For people.
    pub at: Timestamp,
    /// The holder stops by itself when it could not confirm its claim for this long. Without
    /// that promise nobody else may take over unless told by a person.
    pub self_fence: Option<Duration>,
    /// Makes the bytes those of one attempt: two of one host never look like one.
    pub nonce: u64,
}

/// The claim as it is in the bucket.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    generation: Generation,
    state: ClaimState,
    host: HostId,
    host_boot: String,
    at: String,
    self_fence_s: Option<u64>,
    nonce: String,
}

/// Bytes that are no claim of a version this program knows.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A later release wrote it. Use that release.
    #[error("claim has version {found}, this program knows version {VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// Damaged, or not ours.
    #[error("not a claim: {what}")]
    Malformed {
        /// What is wrong.
        what: String,
    },
}

/// Why a claim could not be found or made.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Somebody else has the generation. Look at the newest claim again and decide anew.
    #[error("generation {generation} was claimed by another writer")]
    Lost {
        /// The generation that was asked for.
        generation: Generation,
    },
    /// A claim in the bucket cannot be read. A person must look; nothing may be written.
    #[error("read claim `{key}`")]
    Unreadable {
        /// The object.
        key: Key,
        /// Why.
        source: DecodeError,
    },
    /// The store did not answer as it should. A claim that was being written may exist: write
    /// the same one again.
    #[error("claim `{key}`")]
    Store {
        /// The object.
        key: Key,
        /// Why.
        source: StoreError,
    },
}

impl ClaimError {
    /// Says what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Lost { .. } => ErrorKind::Conflict,
            Self::Unreadable { .. } => ErrorKind::Corrupt,
            Self::Store { source, .. } => source.kind(),
        }
    }

    pub(crate) fn of_create(key: &Key, generation: Generation, error: CreateError) -> Self {
        match error {
            CreateError::Store(source) => Self::Store { key: key.clone(), source },
            CreateError::Taken { .. } => Self::Lost { generation },
        }
    }
}

impl Claim {
    /// Encodes it; the same claim always has the same bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let stored = Stored {
            version: VERSION,
            generation: self.generation,
            state: self.state,
            host: self.claimant.host.clone(),
            host_boot: self.claimant.host_boot.clone(),
            at: self.at.rfc3339(),
            self_fence_s: self.self_fence.map(|promise| promise.as_secs()),
            nonce: format!("{:016x}", self.nonce),
        };
        let mut bytes = serde_json::to_vec(&stored).expect("a claim is plain data");
        bytes.push(b'\n');
        bytes
    }

    /// Decodes what was found under the name of `generation`.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(bytes: &[u8], generation: Generation) -> Result<Self, DecodeError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let malformed = |what: String| DecodeError::Malformed { what };
        if bytes.len() > BYTES_MAX {
            return Err(malformed(format!("it has {} bytes", bytes.len())));
        }
        let versioned: Versioned =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if versioned.version != VERSION {
            return Err(DecodeError::Version { found: versioned.version });
        }
        let stored: Stored =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if stored.generation != generation {
            return Err(malformed(format!("it says generation {}", stored.generation)));
        }
        if stored.host_boot.is_empty() || stored.host_boot.len() > BOOT_LEN_MAX {
            return Err(malformed("the host's boot has no name, or a long one".to_owned()));
        }
        let at = Timestamp::parse_rfc3339(&stored.at)
            .ok_or_else(|| malformed(format!("it has no time but `{}`", stored.at)))?;
        let nonce = u64::from_str_radix(&stored.nonce, 16)
            .map_err(|error| malformed(format!("nonce: {error}")))?;
        Ok(Self {
            generation,
            state: stored.state,
            claimant: Claimant { host: stored.host, host_boot: stored.host_boot },
            at,
            self_fence: stored.self_fence_s.map(Duration::from_secs),
            nonce,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Claim {
        Claim {
            generation: Generation(7),
            state: ClaimState::Held,
            claimant: Claimant {
                host: "host-aaaaaaaaaa".parse().unwrap(),
                host_boot: "2c9ff8a4-5e17-4b40-8b4e-5a8f1d1f3b11".to_owned(),
            },
            at: Timestamp::parse_rfc3339("2026-11-22T04:00:00.000000Z").unwrap(),
            self_fence: Some(Duration::from_secs(30)),
            nonce: 0xfeed,
        }
    }

    /// The bytes of version 1: a bucket of today must be readable for ever.
    #[test]
    fn the_encoding_is_the_golden_one() {
        let golden = concat!(
            r#"{"version":1,"generation":7,"state":"held","host":"host-aaaaaaaaaa","#,
            r#""host_boot":"2c9ff8a4-5e17-4b40-8b4e-5a8f1d1f3b11","#,
            r#""at":"2026-11-22T04:00:00.000000Z","self_fence_s":30,"nonce":"000000000000feed"}"#,
            "\n",
        );
        assert_eq!(String::from_utf8(claim().encode()).unwrap(), golden);
        assert_eq!(Claim::decode(golden.as_bytes(), Generation(7)).unwrap(), claim());
    }

    #[test]
    fn what_is_no_claim_of_this_generation_is_refused() {
        let text = String::from_utf8(claim().encode()).unwrap();
        let broken = [
            String::new(),
            "{}".to_owned(),
            text.replace("held", "lent"),
            text.replace("host-", "hosts-"),
            text.replace("2026", "twentytwentysix"),
            text.replace("feed", "foot"),
            text.replace("2c9ff8a4-5e17-4b40-8b4e-5a8f1d1f3b11", ""),
            text[..text.len() / 2].to_owned(),
            format!("{text}{}", " ".repeat(BYTES_MAX)),
        ];
        for text in broken {
            let error = Claim::decode(text.as_bytes(), Generation(7)).unwrap_err();
            assert!(matches!(error, DecodeError::Malformed { .. }), "{text}: {error}");
        }
        assert!(Claim::decode(text.as_bytes(), Generation(8)).is_err());
        let later = text.replace("\"version\":1", "\"version\":2");
        let error = Claim::decode(later.as_bytes(), Generation(7)).unwrap_err();
        assert!(matches!(error, DecodeError::Version { found: 2 }));
    }

    #[test]
    fn fields_that_a_later_release_adds_are_no_reason_to_stop() {
        let text = String::from_utf8(claim().encode()).unwrap();
        let more = text.replace("{\"version\"", "{\"zone\":\"a\",\"version\"");
        assert_eq!(Claim::decode(more.as_bytes(), Generation(7)).unwrap(), claim());
    }
}
