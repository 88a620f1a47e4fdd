//! What a person may change about how a store is used.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sprite_types::{Clock, SystemClock};

/// Limits and patience towards an object store. Every field has a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {
    /// Requests under way at once, from this process to this store. Default 64.
    pub requests_max: u32,
    /// How long one attempt may take, in ms, besides the time for its body. Default 15,000.
    pub attempt_timeout_ms: u64,
    /// The slowest transfer that is not given up, in bytes a second: each attempt gets the time
    /// its body takes at this speed on top. Default 262,144 (8 MiB in 32 s).
    pub throughput_min_bytes_per_s: u64,
    /// How often an operation is tried before its caller hears of it. Default 8.
    pub attempts_max: u32,
    /// Longest wait before the second attempt, in ms; doubled for each further one. The actual
    /// wait is random between half and all of it. Default 50.
    pub backoff_first_ms: u64,
    /// Longest wait before any attempt, in ms, also if a store asks for more. Default 5,000.
    pub backoff_max_ms: u64,
    /// Largest object or range that is read into memory, in bytes. Default 67,108,864 (64 MiB).
    pub get_bytes_max: u64,
    /// Largest object that is written, in bytes. Default 268,435,456 (256 MiB).
    pub put_bytes_max: u64,
    /// Most objects or folders in one listing. Default 1,000,000 (about 100 MB of memory).
    pub list_objects_max: u64,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            requests_max: 64,
            attempt_timeout_ms: 15_000,
            throughput_min_bytes_per_s: 256 << 10,
            attempts_max: 8,
            backoff_first_ms: 50,
            backoff_max_ms: 5_000,
            get_bytes_max: 64 << 20,
            put_bytes_max: 256 << 20,
            list_objects_max: 1_000_000,
        }
    }
}

impl StoreSettings {
    /// Returns how long one attempt may take that moves `bytes` bytes.
    pub(crate) fn attempt_timeout(&self, bytes: u64) -> Duration {
        let body_ms = bytes.saturating_mul(1000) / self.throughput_min_bytes_per_s.max(1);
        Duration::from_millis(self.attempt_timeout_ms.saturating_add(body_ms))
    }

    /// Returns how long to wait after the `failed`th attempt (counted from 1) did not succeed.
    ///
    /// A store's own wish is respected up to the longest wait.
    pub(crate) fn backoff(
        &self,
        failed: u32,
        retry_after: Option<Duration>,
        random: u64,
    ) -> Duration {
        let doubled = self.backoff_first_ms.saturating_mul(1 << (failed.clamp(1, 32) - 1));
        let full = doubled.min(self.backoff_max_ms);
        let half = full / 2;
        let wait = Duration::from_millis(half + random % (full - half + 1));
        wait.max(retry_after.unwrap_or_default()).min(Duration::from_millis(self.backoff_max_ms))
    }
}

/// A source of random numbers.
pub type Random = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Time and chance, which tests replace.
#[derive(Clone)]
pub struct Ambient {
    /// The wall clock: for signatures, the age of leftovers and, in memory, times of objects.
    pub clock: Arc<dyn Clock>,
    /// Where the random part of waits and of temporary names comes from.
    pub random: Random,
}

impl Ambient {
    /// Returns the host's own.
    ///
    /// # Panics
    /// When a number is drawn and the kernel has none to give.
    #[must_use]
    pub fn system() -> Self {
        let random = || getrandom::u64().expect("the kernel's random source answers");
        Self { clock: Arc::new(SystemClock), random: Arc::new(random) }
    }
}

impl std::fmt::Debug for Ambient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ambient")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_are_at_least_half() {
        let settings = StoreSettings::default();
        let bounds = |failed| {
            let least = settings.backoff(failed, None, 0).as_millis();
            let full = u64::try_from(least * 2).unwrap();
            let most = settings.backoff(failed, None, full / 2).as_millis();
            (least, most)
        };
        assert_eq!(bounds(1), (25, 50));
        assert_eq!(bounds(2), (50, 100));
        assert_eq!(bounds(7), (1600, 3200));
        assert_eq!(bounds(8), (2500, 5000));
        assert_eq!(bounds(u32::MAX), (2500, 5000));
    }

    #[test]
    fn a_store_may_ask_for_more_patience_but_not_for_any() {
        let settings = StoreSettings::default();
        let second = Duration::from_secs(1);
        assert_eq!(settings.backoff(1, Some(second), 0), second);
        assert_eq!(settings.backoff(1, Some(second * 3600), 0), second * 5);
    }

    #[test]
    fn large_bodies_get_more_time() {
        let settings = StoreSettings::default();
        assert_eq!(settings.attempt_timeout(0), Duration::from_secs(15));
        assert_eq!(settings.attempt_timeout(8 << 20), Duration::from_secs(15 + 32));
    }
}
