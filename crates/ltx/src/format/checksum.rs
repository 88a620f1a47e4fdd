//! The checksum over a whole file: CRC-64/GO-ISO with the top bit always set.

use std::fmt;

use crc::{CRC_64_GO_ISO, Crc, Digest, Table};
use serde::{Deserialize, Serialize};

use sprite_types::Txid;

static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_GO_ISO);
/// Set in every checksum, so that 0 can mean "none".
const FLAG: u64 = 1 << 63;

/// The checksum of an LTX file, as its trailer carries it. Written as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileChecksum(pub u64);

impl fmt::Display for FileChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for FileChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for FileChecksum {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileChecksum {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // The same fixed-width form as the numbers in names.
        Txid::from_hex(&text).map(|n| Self(n.0)).map_err(serde::de::Error::custom)
    }
}

/// A checksum in the making.
pub(super) struct Running(Digest<'static, u64, Table<16>>);

impl Running {
    pub(super) fn new() -> Self {
        Self(CRC.digest())
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> FileChecksum {
        FileChecksum(self.0.finalize() | FLAG)
    }
}

/// Returns the plain CRC-64 of `bytes`, for small local records.
pub(crate) fn crc64(bytes: &[u8]) -> u64 {
    CRC.checksum(bytes)
}
