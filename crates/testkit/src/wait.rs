//! Waiting for a condition instead of for a time.

use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(5);
/// Long enough for a busy machine; a test that works never waits for it.
const LIMIT: Duration = Duration::from_secs(30);

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not within 30 s; `what` is in the message.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {LIMIT:?} in vain: {what}");
        std::thread::sleep(STEP);
    }
}

/// Waits until `attempt` returns something, and returns that.
///
/// # Panics
/// If it does not within 30 s; `what` is in the message.
pub async fn eventually_async<T, F>(what: &str, mut attempt: F) -> T
where
    F: AsyncFnMut() -> Option<T>,
{
    let waiting = async {
        loop {
            if let Some(value) = attempt().await {
                return value;
            }
            tokio::time::sleep(STEP).await;
        }
    };
    match tokio::time::timeout(LIMIT, waiting).await {
        Ok(value) => value,
        Err(_) => panic!("waited {LIMIT:?} in vain: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_when_the_condition_holds() {
        let mut tries = 0;
        eventually("third try", || {
            tries += 1;
            tries == 3
        });
        assert_eq!(tries, 3);
    }

    #[tokio::test]
    async fn the_first_value_is_returned() {
        let mut tries = 0;
        let third = eventually_async("third try", async || {
            tries += 1;
            (tries == 3).then_some(tries)
        });
        assert_eq!(third.await, 3);
    }
}
