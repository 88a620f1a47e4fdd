//! Names of objects and of folders of objects.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest key in bytes; S3 allows 1,024 with the bucket prefix that a store may add.
const KEY_BYTES_MAX: usize = 512;
/// Longest part between two `/`, in bytes: what file systems allow.
const SEGMENT_BYTES_MAX: usize = 255;

/// A text that cannot name an object.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{}` is not a key: {reason}", text.escape_debug())]
pub struct KeyError {
    text: String,
    reason: &'static str,
}

/// The name of an object: parts of `[A-Za-z0-9._-]` joined by `/`, at most 512 bytes.
///
/// No part is empty, longer than 255 bytes or begins with a dot, so that a key is a relative
/// path that stays inside, and hidden files are never objects.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// A folder of objects: empty for all, otherwise parts that each end with `/`.
///
/// Folders are only parts of names; they are not made and not removed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(String);

impl Key {
    /// Returns the whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the part after the last `/`.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Returns the folder that the object is in.
    #[must_use]
    pub fn folder(&self) -> Prefix {
        Prefix(self.0[..self.0.len() - self.file_name().len()].to_owned())
    }

    /// Says whether the object is in the folder or somewhere below it.
    #[must_use]
    pub fn is_under(&self, prefix: &Prefix) -> bool {
        self.0.starts_with(&prefix.0)
    }

    /// Returns the name relative to a folder; `None` if the object is not below it.
    #[must_use]
    pub fn relative_to(&self, prefix: &Prefix) -> Option<&str> {
        self.0.strip_prefix(&prefix.0)
    }
}

impl Prefix {
    /// Returns the folder that holds everything.
    #[must_use]
    pub const fn root() -> Self {
        Self(String::new())
    }

    /// Returns the text: empty, or ending with `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Names an object below this folder; `relative` may have several parts.
    ///
    /// # Errors
    /// If the result is not a key.
    pub fn key(&self, relative: &str) -> Result<Key, KeyError> {
        format!("{}{relative}", self.0).parse()
    }

    /// Names a folder below this one; `relative` ends with `/`.
    ///
    /// # Errors
    /// If the result is not a folder.
    pub fn join(&self, relative: &str) -> Result<Self, KeyError> {
        format!("{}{relative}", self.0).parse()
    }

    /// Says whether this is the same folder as `other` or one below it.
    #[must_use]
    pub fn is_under(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        match check(text) {
            Ok(()) => Ok(Self(text.to_owned())),
            Err(reason) => Err(KeyError { text: text.chars().take(600).collect(), reason }),
        }
    }
}

impl FromStr for Prefix {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let reason = match text.strip_suffix('/') {
            _ if text.is_empty() => return Ok(Self::root()),
            Some(folder) => match check(folder) {
                Ok(()) => return Ok(Self(text.to_owned())),
                Err(reason) => reason,
            },
            None => "a folder ends with `/`",
        };
        Err(KeyError { text: text.chars().take(600).collect(), reason })
    }
}

fn check(text: &str) -> Result<(), &'static str> {
    if text.len() > KEY_BYTES_MAX {
        return Err("longer than 512 bytes");
    }
    for segment in text.split('/') {
        if segment.is_empty() {
            return Err("a part is empty");
        }
        if segment.len() > SEGMENT_BYTES_MAX {
            return Err("a part is longer than 255 bytes");
        }
        if segment.starts_with('.') {
            return Err("a part begins with a dot");
        }
        if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return Err("only letters, digits, `.`, `_`, `-` and `/` are allowed");
        }
    }
    Ok(())
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_relative_path_that_stays_inside() {
        for good in ["a", "a/b.json", "orgs/o-1/db/0000/0f-0f.ltx", "A_z-9.x", &"k".repeat(255)] {
            assert_eq!(good.parse::<Key>().unwrap().as_str(), good);
        }
        let long_part = "k".repeat(256);
        let long_key = ["k".repeat(250), "k".repeat(250), "k".repeat(250)].join("/");
        for bad in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/../b",
            "a/.hidden",
            "ä",
            "a b",
            "a\0",
            "a\\b",
            "a%2fb",
            "a?b",
            "a\n",
            &long_part,
            &long_key,
        ] {
            assert!(bad.parse::<Key>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_folder_ends_with_a_slash_and_holds_what_begins_with_it() {
        let folder: Prefix = "orgs/o/".parse().unwrap();
        let key = folder.key("db/x").unwrap();
        assert_eq!(key.as_str(), "orgs/o/db/x");
        assert!(key.is_under(&folder) && key.is_under(&Prefix::root()));
        assert_eq!(key.relative_to(&folder), Some("db/x"));
        assert_eq!(key.folder().as_str(), "orgs/o/db/");
        assert_eq!(key.file_name(), "x");
        // A sibling whose name begins alike is not inside.
        assert!(!"orgs/other".parse::<Key>().unwrap().is_under(&folder));
        assert!("orgs/o".parse::<Prefix>().is_err());
        assert!("/".parse::<Prefix>().is_err());
        assert!(folder.key("../p").is_err());
        assert!(folder.join("db/").unwrap().is_under(&folder));
        assert_eq!("x".parse::<Key>().unwrap().folder(), Prefix::root());
    }
}
