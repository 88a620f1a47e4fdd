//! A host's sign of life: a counter in the bucket that only its own host moves.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sprite_store::{Key, KeyError, Store, StoreError};
use sprite_types::{ErrorKind, HostId, Timestamp};

use crate::claim::Claimant;

const VERSION: u32 = 1;
/// Longest object that is looked at, in bytes.
const BYTES_MAX: usize = 4096;

/// What is in `hosts/<host>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Version of the format.
    pub version: u32,
    /// Raised at every beat.
    pub counter: u64,
    /// One start of the host.
    pub host_boot: String,
    /// When, by that host's clock. For people.
    pub at: Timestamp,
}

/// Why a heartbeat could not be read or written. Never a reason to take over.
#[derive(Debug, thiserror::Error)]
pub enum HeartError {
    /// The store did not answer as it should.
    #[error("heartbeat `{key}`")]
    Store {
        /// The object.
        key: Key,
        /// Why.
        source: StoreError,
    },
    /// Not one of a version this program knows.
    #[error("heartbeat `{key}` cannot be read: {what}")]
    Unreadable {
        /// The object.
        key: Key,
        /// Why.
        what: String,
    },
}

impl HeartError {
    /// Says what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store { source, .. } => source.kind(),
            Self::Unreadable { .. } => ErrorKind::Corrupt,
        }
    }
}

/// Writes a host's heartbeat, or reads that of any host.
#[derive(Clone, Debug)]
pub struct Heart {
    store: Store,
    key: Key,
}

impl Heart {
    /// Makes the one of `host`.
    ///
    /// # Errors
    /// Never for an id that was checked.
    pub fn new(store: Store, host: &HostId) -> Result<Self, KeyError> {
        Ok(Self { store, key: format!("hosts/{host}.json").parse()? })
    }

    /// Says that the host lives. `counter` is one that it has not used before: an earlier
    /// beat that lands late must not look like a new one.
    ///
    /// # Errors
    /// See [`HeartError`]. Beat again with the next counter.
    pub async fn beat(
        &self,
        counter: u64,
        claimant: &Claimant,
        at: Timestamp,
    ) -> Result<(), HeartError> {
        let host_boot = claimant.host_boot.clone();
        let beat = Heartbeat { version: VERSION, counter, host_boot, at };
        let bytes = serde_json::to_vec(&beat).expect("a heartbeat is plain data");
        let written = self.store.overwrite(&self.key, Bytes::from(bytes)).await;
        written.map_err(|source| HeartError::Store { key: self.key.clone(), source })
    }

    /// Reads the last beat; `None` if there never was one.
    ///
    /// # Errors
    /// See [`HeartError`].
    pub async fn read(&self) -> Result<Option<Heartbeat>, HeartError> {
        let bytes = match self.store.get(&self.key).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(HeartError::Store { key: self.key.clone(), source }),
        };
        let unreadable = |what: String| HeartError::Unreadable { key: self.key.clone(), what };
        if bytes.len() > BYTES_MAX {
            return Err(unreadable(format!("it has {} bytes", bytes.len())));
        }
        let beat: Heartbeat =
            serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
        if beat.version != VERSION {
            return Err(unreadable(format!("it has version {}", beat.version)));
        }
        Ok(Some(beat))
    }
}

/// How long another host has been silent, on our own clock. Performs no I/O.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    last: Option<(u64, String)>,
    moved_at: Duration,
    seen_at: Duration,
}

impl Watch {
    /// Notes a beat that was read at `now`, a reading of a clock that never goes back. Any other
    /// counter counts as life, also a lower one: that host may have lost its own.
    pub fn saw(&mut self, beat: Option<&Heartbeat>, now: Duration) {
        let Some(beat) = beat else { return };
        let this = (beat.counter, beat.host_boot.clone());
        if self.last.as_ref() != Some(&this) {
            self.last = Some(this);
            self.moved_at = now;
        }
        self.seen_at = self.seen_at.max(now);
    }

    /// Returns for how long the beat was *seen* not to move. Time in which we did not look, or
    /// could not, does not count; `None` before the first beat was seen.
    #[must_use]
    pub fn silent_for(&self) -> Option<Duration> {
        self.last.as_ref()?;
        Some(self.seen_at.saturating_sub(self.moved_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(counter: u64) -> Heartbeat {
        let host_boot = "boot".to_owned();
        Heartbeat { version: VERSION, counter, host_boot, at: Timestamp::from_micros(0) }
    }

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn only_silence_that_was_watched_counts() {
        let mut watch = Watch::default();
        assert_eq!(watch.silent_for(), None);
        watch.saw(None, s(5));
        assert_eq!(watch.silent_for(), None);
        watch.saw(Some(&beat(7)), s(1000));
        assert_eq!(watch.silent_for(), Some(s(0)));
        watch.saw(Some(&beat(7)), s(1050));
        assert_eq!(watch.silent_for(), Some(s(50)));
        // The store does not answer for an hour: nothing was learnt of the host.
        assert_eq!(watch.silent_for(), Some(s(50)));
        watch.saw(Some(&beat(8)), s(4650));
        assert_eq!(watch.silent_for(), Some(s(0)));
    }

    #[test]
    fn a_host_that_lost_its_counter_or_started_again_lives() {
        let mut watch = Watch::default();
        watch.saw(Some(&beat(7)), s(10));
        watch.saw(Some(&beat(2)), s(70));
        assert_eq!(watch.silent_for(), Some(s(0)));
        let restarted = Heartbeat { host_boot: "next".to_owned(), ..beat(2) };
        watch.saw(Some(&restarted), s(200));
        assert_eq!(watch.silent_for(), Some(s(0)));
    }
}
