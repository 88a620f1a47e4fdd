//! When to seal and when a write has to wait: from plain numbers, so that it can be tested.

use std::time::Duration;

/// When the open epoch is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes from which [`Bounds::age_min`] counts. Default 1 MiB.
    pub bytes_min: u64,
    /// How long an epoch with that much gathers, from its first write. Default 1 s.
    pub age_min: Duration,
    /// How long any epoch gathers. Default 5 s.
    pub lag: Duration,
    /// Bytes with which it is sealed at once. Default 32 MiB.
    pub bytes_max: u64,
    /// Sealed epochs that wait for the bucket; with as many the open one goes on gathering.
    /// Default 2.
    pub waiting_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            bytes_min: 1 << 20,
            age_min: Duration::from_secs(1),
            lag: Duration::from_secs(5),
            bytes_max: 32 << 20,
            waiting_max: 2,
        }
    }
}

/// What the open epoch has gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gathered {
    /// Bytes that it would send.
    pub bytes: u64,
    /// Time since its first write; `None` if there was none.
    pub age: Option<Duration>,
    /// Somebody waits for it to be sealed.
    pub asked: bool,
    /// Sealed epochs that are not durable.
    pub waiting: usize,
}

/// What to do with the open epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Seal it.
    Seal,
    /// Look again after this time at the latest; `None`: when something happens.
    Wait(Option<Duration>),
}

impl Bounds {
    /// Decides whether the open epoch is sealed now.
    #[must_use]
    pub fn decide(&self, gathered: &Gathered) -> Decision {
        let Gathered { bytes, age, asked, waiting } = *gathered;
        if asked && (waiting < self.waiting_max || age.is_none()) {
            return Decision::Seal;
        }
        let Some(age) = age.filter(|_| waiting < self.waiting_max) else {
            return Decision::Wait(None);
        };
        let due = if bytes >= self.bytes_min { self.age_min.min(self.lag) } else { self.lag };
        if bytes >= self.bytes_max || age >= due {
            return Decision::Seal;
        }
        // Writes are not reported one by one: look again when the shorter time is over.
        let next = if age < self.age_min { self.age_min.min(due) } else { due };
        Decision::Wait(Some((next - age).min(LOOK_AGAIN)))
    }
}

/// How often a growing epoch is compared with its bounds.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Tells whether a write has to wait until something is uploaded: `unsent` bytes are not in the
/// bucket, of at most `max`. With nothing to upload, waiting would not end.
#[must_use]
pub fn must_wait(unsent: u64, max: u64) -> bool {
    unsent > 0 && unsent >= max
}

/// How long to wait before the next try of something that failed `tries` times in a row.
#[must_use]
pub fn retry_wait(tries: u32) -> Duration {
    Duration::from_secs(1 << tries.min(5)).min(Duration::from_secs(30))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn decide(bytes: u64, age_ms: Option<u64>, asked: bool, waiting: usize) -> Decision {
        let age = age_ms.map(Duration::from_millis);
        Bounds::default().decide(&Gathered { bytes, age, asked, waiting })
    }

    #[test]
    fn nothing_is_sealed_before_its_time() {
        let wait = |ms| Decision::Wait(Some(Duration::from_millis(ms)));
        assert_eq!(decide(0, None, false, 0), Decision::Wait(None));
        assert_eq!(decide(MIB, Some(999), false, 0), wait(1));
        assert_eq!(decide(MIB, Some(1_000), false, 0), Decision::Seal);
        assert_eq!(decide(MIB - 1, Some(1_000), false, 0), wait(100));
        assert_eq!(decide(MIB - 1, Some(4_999), false, 0), wait(1));
        assert_eq!(decide(0, Some(5_000), false, 0), Decision::Seal);
        assert_eq!(decide(32 * MIB, Some(0), false, 0), Decision::Seal);
    }

    #[test]
    fn with_two_waiting_the_open_one_gathers() {
        assert_eq!(decide(64 * MIB, Some(60_000), false, 2), Decision::Wait(None));
        assert_eq!(decide(64 * MIB, Some(60_000), true, 2), Decision::Wait(None));
        assert_eq!(decide(64 * MIB, Some(60_000), false, 1), Decision::Seal);
    }

    #[test]
    fn who_asks_is_not_kept_waiting() {
        assert_eq!(decide(1, Some(0), true, 1), Decision::Seal);
        // Nothing to seal: the answer is which epoch to wait for.
        assert_eq!(decide(0, None, true, 2), Decision::Seal);
    }

    #[test]
    fn writes_wait_only_for_something() {
        assert!(!must_wait(0, 0));
        assert!(!must_wait(9, 10));
        assert!(must_wait(10, 10));
        assert_eq!(retry_wait(0), Duration::from_secs(1));
        assert_eq!(retry_wait(40), Duration::from_secs(30));
    }
}
