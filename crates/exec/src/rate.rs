//! How fast a session has been writing lately.

use std::time::Duration;

use tokio::time::Instant;

const BUCKETS: usize = 5;
const BUCKET: Duration = Duration::from_secs(1);

/// Counts bytes over a sliding window of five seconds.
#[derive(Debug)]
pub(crate) struct RateMeter {
    buckets: [u64; BUCKETS],
    /// When the newest bucket began.
    began: Instant,
    started: Instant,
}

impl RateMeter {
    pub(crate) fn new(now: Instant) -> Self {
        Self { buckets: [0; BUCKETS], began: now, started: now }
    }

    fn roll(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.began).as_secs();
        for _ in 0..passed.min(BUCKETS as u64) {
            self.buckets.rotate_right(1);
            self.buckets[0] = 0;
        }
        self.began += BUCKET * u32::try_from(passed).unwrap_or(u32::MAX);
    }

    pub(crate) fn add(&mut self, now: Instant, bytes: usize) {
        self.roll(now);
        self.buckets[0] += bytes as u64;
    }

    /// Returns bytes per second over the window, or over the session's life if that is shorter.
    pub(crate) fn bytes_per_second(&mut self, now: Instant) -> f64 {
        self.roll(now);
        let window = BUCKET * (BUCKETS as u32 - 1) + now.saturating_duration_since(self.began);
        let window = window.min(now.saturating_duration_since(self.started));
        let total: u64 = self.buckets.iter().sum();
        total as f64 / window.as_secs_f64().max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_forgets_after_five_seconds() {
        let start = Instant::now();
        let mut meter = RateMeter::new(start);
        meter.add(start, 1000);
        assert!((meter.bytes_per_second(start) - 1000.0).abs() < 1.0);
        let later = start + Duration::from_secs(2);
        assert!((meter.bytes_per_second(later) - 500.0).abs() < 1.0);
        assert!(meter.bytes_per_second(start + Duration::from_secs(6)) < 0.1);
        assert!(meter.bytes_per_second(start + Duration::from_secs(9_999_999)) < 0.1);
    }
}
