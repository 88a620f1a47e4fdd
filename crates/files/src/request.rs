//! What a call is, as it goes to the helper.

use serde::{Deserialize, Serialize};

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What to do.
    pub operation: Operation,
    /// As root rather than as the default user.
    pub as_root: bool,
}

/// What to do. All paths are absolute and normalised ([`crate::resolve`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum Operation {
    /// Sends a file's content.
    Read { path: String, range: Option<ByteRange> },
    /// Takes a file's content.
    Write { path: String, mode: u32, parents: bool },
    /// Lists a directory, or describes a file.
    List { path: String, recursive: bool, pattern: Option<String> },
    /// Deletes.
    Delete { path: String, recursive: bool },
    /// Renames, replacing a file of the new name.
    Rename { source: String, dest: String },
    /// Copies.
    Copy { source: String, dest: String, recursive: bool, preserve: bool },
    /// Changes modes.
    Chmod { path: String, mode: u32, recursive: bool },
    /// Changes owners.
    Chown { path: String, uid: Option<Owner>, gid: Option<Owner>, recursive: bool },
}

/// A user or group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// By number.
    Id(u32),
    /// By name, looked up where the file is.
    Name(String),
}

/// Part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ByteRange {
    /// From a header: bytes `first` to `last`, the latter included.
    FromTo { first: u64, last: Option<u64> },
    /// From a header: the last bytes.
    Suffix { count: u64 },
    /// From the query: `start` to `end`, the latter not included.
    StartEnd { start: u64, end: Option<u64> },
}

/// What of a file of a known size is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slice {
    /// All of it.
    Whole,
    /// `start` to `end`, the latter not included, as partial content.
    Part { start: u64, end: u64 },
    /// Nothing, successfully.
    Empty,
    /// Nothing, since there is nothing there.
    Unsatisfiable,
}

impl ByteRange {
    /// Reads a `Range` header. `None` if it is not one we serve; then all is sent, as HTTP says.
    #[must_use]
    pub fn parse_header(text: &str) -> Option<Self> {
        let spec = text.trim().strip_prefix("bytes=")?;
        let (first, last) = spec.split_once('-')?;
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
        };
        match (first.trim(), last.trim()) {
            ("", count) => Some(Self::Suffix { count: number(count)? }),
            (first, "") => Some(Self::FromTo { first: number(first)?, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::FromTo { first, last: Some(last) })
            }
        }
    }

    /// Applies the range to a file of `size` bytes.
    pub(crate) fn slice(self, size: u64) -> Slice {
        let (start, end) = match self {
            // Source: contract, http-api 10.1: an empty file is never 416.
            Self::FromTo { .. } | Self::Suffix { .. } if size == 0 => return Slice::Empty,
            Self::FromTo { first, .. } if first >= size => return Slice::Unsatisfiable,
            Self::FromTo { first, last } => {
                (first, last.map_or(size, |last| last.saturating_add(1).min(size)))
            }
            Self::Suffix { count: 0 } => return Slice::Unsatisfiable,
            Self::Suffix { count } => (size.saturating_sub(count), size),
            Self::StartEnd { start, end } => {
                let end = end.unwrap_or(size).min(size);
                if start == 0 && end == size {
                    return Slice::Whole;
                }
                if start >= end {
                    return Slice::Empty;
                }
                (start, end)
            }
        };
        Slice::Part { start, end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_says() {
        let part = |start, end| Slice::Part { start, end };
        for (header, size, expected) in [
            ("bytes=0-9", 5, part(0, 5)),
            ("bytes=0-9", 100, part(0, 10)),
            ("bytes=5-", 8, part(5, 8)),
            ("bytes=-3", 8, part(5, 8)),
            ("bytes=-30", 8, part(0, 8)),
            ("bytes=0-9", 0, Slice::Empty),
            ("bytes=8-", 8, Slice::Unsatisfiable),
            ("bytes=-0", 8, Slice::Unsatisfiable),
            ("bytes=0-99999999999999999999999", 8, part(0, 8)),
        ] {
            assert_eq!(ByteRange::parse_header(header).unwrap().slice(size), expected, "{header}");
        }
        for header in ["", "bytes", "bytes=", "bytes=-", "bytes=5-3", "bytes=0-1,4-5", "lines=0-"] {
            assert_eq!(ByteRange::parse_header(header), None, "{header}");
        }
    }

    #[test]
    fn the_querys_end_is_not_included() {
        let slice = |start, end, size| ByteRange::StartEnd { start, end }.slice(size);
        assert_eq!(slice(1, Some(3), 10), Slice::Part { start: 1, end: 3 });
        assert_eq!(slice(0, None, 10), Slice::Whole);
        assert_eq!(slice(10, None, 10), Slice::Empty);
        assert_eq!(slice(5, Some(2), 10), Slice::Empty);
    }
}
