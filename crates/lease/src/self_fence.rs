//! The holder's side of the promise to stop. Performs no I/O.

use std::time::Duration;

/// When a holder must stop serving because it does not know any more that it is the holder.
///
/// All times are readings of one clock that goes on while the host sleeps (`CLOCK_BOOTTIME`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelfFence {
    promise: Option<Duration>,
    confirmed_at: Duration,
}

impl SelfFence {
    /// Starts with a claim that was granted by a request *begun* at `asked_at`. Without a
    /// promise it never ends.
    #[must_use]
    pub fn new(promise: Option<Duration>, asked_at: Duration) -> Self {
        Self { promise, confirmed_at: asked_at }
    }

    /// Notes that the claim was seen to be the newest, by a request *begun* at `asked_at`: the
    /// answer may have been long on its way.
    pub fn confirm(&mut self, asked_at: Duration) {
        self.confirmed_at = self.confirmed_at.max(asked_at);
    }

    /// Says whether the holder must have stopped. Ask before each answer to a flush and by a
    /// timer.
    #[must_use]
    pub fn is_over(&self, now: Duration) -> bool {
        self.left(now) == Some(Duration::ZERO)
    }

    /// Returns the time until then; `None` without a promise.
    #[must_use]
    pub fn left(&self, now: Duration) -> Option<Duration> {
        let promise = self.promise?;
        Some((self.confirmed_at + promise).saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn time_runs_from_the_question_not_from_its_answer() {
        let mut fence = SelfFence::new(Some(s(30)), s(100));
        assert_eq!(fence.left(s(110)), Some(s(20)));
        fence.confirm(s(120));
        assert!(!fence.is_over(s(149)));
        assert!(fence.is_over(s(150)));
        // An older question whose answer came late takes nothing back.
        fence.confirm(s(105));
        assert_eq!(fence.left(s(149)), Some(s(1)));
    }

    #[test]
    fn whoever_promised_nothing_goes_on_for_ever() {
        let fence = SelfFence::new(None, s(0));
        assert_eq!(fence.left(s(u64::MAX / 2)), None);
        assert!(!fence.is_over(s(u64::MAX / 2)));
    }
}
