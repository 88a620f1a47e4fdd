//! Follows a request's body to its end without changing it.

use super::head::BodyLength;

/// Longest chunk size line and longest trailer, in bytes; below the library's own limits.
const LINE_MAX: usize = 8 * 1024;

/// A body whose syntax is broken. Nothing after it can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("broken chunk in the request's body")]
pub(crate) struct BodyError;

/// Where within a body the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyTracker {
    /// This many bytes are left; 0 is the end.
    Known(u64),
    Chunked(ChunkState),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChunkState {
    /// In a size line: digits so far, their value, and whether an extension began.
    Size {
        digits: u8,
        value: u64,
        extension: bool,
        line: usize,
    },
    SizeLf {
        value: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// In the trailer: length of the current line, and of everything so far.
    Trailer {
        line: usize,
        total: usize,
    },
    TrailerLf {
        empty: bool,
        total: usize,
    },
    End,
}

const SIZE_START: ChunkState = ChunkState::Size { digits: 0, value: 0, extension: false, line: 0 };

impl BodyTracker {
    pub(crate) fn new(length: BodyLength) -> Self {
        match length {
            BodyLength::Known(left) => Self::Known(left),
            BodyLength::Chunked => Self::Chunked(SIZE_START),
        }
    }

    pub(crate) fn is_end(&self) -> bool {
        matches!(self, Self::Known(0) | Self::Chunked(ChunkState::End))
    }

    /// Takes bytes of the body and returns how many of them belong to it.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Result<usize, BodyError> {
        let chunks = match self {
            Self::Known(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                return Ok(taken);
            }
            Self::Chunked(state) => state,
        };
        let mut at = 0;
        while at < bytes.len() && *chunks != ChunkState::End {
            if let ChunkState::Data { left } = chunks {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                *left -= taken as u64;
                at += taken;
                if *left == 0 {
                    *chunks = ChunkState::DataCr;
                }
            } else {
                *chunks = chunks.step(bytes[at])?;
                at += 1;
            }
        }
        Ok(at)
    }
}

impl ChunkState {
    fn step(self, byte: u8) -> Result<Self, BodyError> {
        Ok(match (self, byte) {
            (Self::Size { digits: 1.., value, .. }, b'\r') => Self::SizeLf { value },
            (Self::Size { line: LINE_MAX.., .. }, _) | (Self::Size { .. }, b'\r' | b'\n' | 0) => {
                return Err(BodyError);
            }
            (Self::Size { digits, value, extension: true, line }, _) => {
                Self::Size { digits, value, extension: true, line: line + 1 }
            }
            (Self::Size { digits: digits @ 1.., value, line, .. }, b';' | b' ' | b'\t') => {
                Self::Size { digits, value, extension: true, line: line + 1 }
            }
            (Self::Size { digits: digits @ 0..15, value, line, .. }, _) => {
                let digit = char::from(byte).to_digit(16).ok_or(BodyError)?;
                let value = value << 4 | u64::from(digit);
                Self::Size { digits: digits + 1, value, extension: false, line: line + 1 }
            }
            (Self::SizeLf { value: 0 }, b'\n') => Self::Trailer { line: 0, total: 0 },
            (Self::SizeLf { value }, b'\n') => Self::Data { left: value },
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => SIZE_START,
            (Self::Trailer { line, total }, b'\r') => Self::TrailerLf { empty: line == 0, total },
            (Self::Trailer { line, total: total @ 0..LINE_MAX }, 1..) if byte != b'\n' => {
                Self::Trailer { line: line + 1, total: total + 1 }
            }
            (Self::TrailerLf { empty: true, .. }, b'\n') => Self::End,
            (Self::TrailerLf { empty: false, total }, b'\n') => Self::Trailer { line: 0, total },
            _ => return Err(BodyError),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunked() -> BodyTracker {
        BodyTracker::new(BodyLength::Chunked)
    }

    #[test]
    fn the_end_of_chunks_is_found_wherever_the_pieces_split() {
        for body in [
            &b"0\r\n\r\n"[..],
            b"5\r\nhello\r\n0\r\n\r\n",
            b"1;a=b\r\n\r\r\nA \r\n0123456789\r\n00\r\nT: v\r\nU: w\r\n\r\n",
        ] {
            for split in 0..body.len() {
                let mut tracker = chunked();
                assert_eq!(tracker.advance(&body[..split]), Ok(split));
                assert!(!tracker.is_end());
                let rest = [&body[split..], b"NEXT"].concat();
                assert_eq!(tracker.advance(&rest), Ok(body.len() - split));
                assert!(tracker.is_end());
            }
        }
    }

    #[test]
    fn broken_chunks_are_refused() {
        for body in [
            &b"\r\n"[..],
            b"x\r\n",
            b"-1\r\n",
            b"0x1\r\n",
            b"1\n",
            b"1\r\nab",
            b"1\r\na\n",
            b"1;a\nb\r\n",
            b" 1\r\n",
            b"ffffffffffffffff\r\n",
            b"0\r\n\n",
            b"0\r\na\nb\r\n",
        ] {
            assert_eq!(chunked().advance(body), Err(BodyError), "{body:?}");
        }
        assert_eq!(chunked().advance(&[b"1;".to_vec(), vec![b'a'; 9000]].concat()), Err(BodyError));
    }

    #[test]
    fn a_known_length_is_counted_down() {
        let mut tracker = BodyTracker::new(BodyLength::Known(5));
        assert_eq!(tracker.advance(b"abc"), Ok(3));
        assert_eq!(tracker.advance(b"deGET"), Ok(2));
        assert!(tracker.is_end());
    }
}
