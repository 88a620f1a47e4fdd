//! Identifiers: newtypes that print with a prefix and never carry a user's name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not an identifier of the expected kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not a {kind}: expected `{prefix}` and {len} characters of [a-z0-9-]")]
pub struct IdError {
    kind: &'static str,
    prefix: &'static str,
    len: usize,
    text: String,
}

/// Fills `N` bytes from the kernel's random source.
///
/// # Panics
/// If the kernel has no randomness to give, without which no id would be unique.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel's random source answers");
    bytes
}

/// Lower-case base32 (RFC 4648 alphabet, no padding) of the first `chars` x 5 bits.
fn base32(bytes: &[u8], chars: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    (0..chars)
        .map(|i| {
            let bit = i * 5;
            let pair = u16::from(bytes[bit / 8]) << 8
                | u16::from(bytes.get(bit / 8 + 1).copied().unwrap_or(0));
            let index = (pair >> (11 - bit % 8)) & 0x1f;
            char::from(ALPHABET[usize::from(index)])
        })
        .collect()
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $len:literal, $generate:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Makes a new one from the kernel's random source.
            #[must_use]
            pub fn generate() -> Self {
                let tail: String = $generate;
                debug_assert_eq!(tail.len(), $len);
                Self(format!("{}{tail}", $prefix))
            }

            /// Returns the whole text, prefix included.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Returns the text after the prefix.
            #[must_use]
            pub fn tail(&self) -> &str {
                &self.0[$prefix.len()..]
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let valid = text.strip_prefix($prefix).is_some_and(|tail| {
                    tail.len() == $len
                        && tail.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
                });
                if valid {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IdError {
                        kind: stringify!($name),
                        prefix: $prefix,
                        len: $len,
                        text: text.chars().take(80).collect(),
                    })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id!(
    /// A sprite, for its whole life and whatever it is renamed to: `sprite-<uuid>`.
    SpriteId,
    "sprite-",
    36,
    uuid::Uuid::from_bytes(random()).hyphenated().to_string()
);
text_id!(
    /// One incarnation of a sprite. Names its cgroup, interface, socket and folder.
    MachineId,
    "mch-",
    10,
    base32(&random::<8>(), 10)
);
text_id!(
    /// A root disk. Never changes hands between sprites; survives every machine.
    VolumeId,
    "vol-",
    16,
    base32(&random::<10>(), 16)
);
text_id!(
    /// A base image, by the hash of what it was made from.
    ImageId,
    "img-",
    16,
    base32(&random::<10>(), 16)
);
text_id!(
    /// An organisation. The slug is for people; this is what records refer to.
    OrgId,
    "org-",
    8,
    base32(&random::<5>(), 8)
);
text_id!(
    /// A host: one computer that runs `sprited`, as named in every durable record.
    HostId,
    "host-",
    10,
    base32(&random::<8>(), 10)
);
text_id!(
    /// An API token, without its secret.
    TokenId,
    "tok-",
    10,
    base32(&random::<8>(), 10)
);
text_id!(
    /// One start of a machine's guest agent; a new one means that sessions are gone.
    BootId,
    "boot-",
    16,
    base32(&random::<10>(), 16)
);
text_id!(
    /// One request, as it appears in the answer's `X-Request-Id` and in every log line.
    RequestId,
    "req-",
    16,
    base32(&random::<10>(), 16)
);

/// A session: one executed process and its stdio. Decimal digits on the wire, always a string
/// there, unique while the machine lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for SessionId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl ImageId {
    /// Derives the id from what the image was made of, so that equal recipes share one image.
    ///
    /// `digest` needs at least 10 bytes.
    #[must_use]
    pub fn from_digest(digest: &[u8]) -> Self {
        Self(format!("img-{}", base32(digest, 16)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_ids_parse_back() {
        let id = MachineId::generate();
        assert_eq!(id.as_str().parse::<MachineId>(), Ok(id.clone()));
        let id = SpriteId::generate();
        assert_eq!(id.as_str().parse::<SpriteId>(), Ok(id.clone()));
        assert_eq!(VolumeId::generate().tail().len(), 16);
    }

    #[test]
    fn an_id_cannot_smuggle_a_path() {
        assert!("mch-../../../x".parse::<MachineId>().is_err());
        assert!("mch-aaaaaaaa/.".parse::<MachineId>().is_err());
        assert!("vol-aaaaaaaaaa".parse::<MachineId>().is_err());
    }

    #[test]
    fn base32_matches_rfc_4648_vectors() {
        assert_eq!(base32(b"foobar", 10), "mzxw6ytboi");
        assert_eq!(base32(b"f", 2), "my");
    }
}
