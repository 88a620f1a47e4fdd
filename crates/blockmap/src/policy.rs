//! Which moments the point-in-time window lets go.

use std::time::Duration;

use sprite_types::{ByteSize, Epoch, Timestamp};

use crate::map::BlockMap;
use crate::row::Keep;

const MINUTE: Duration = Duration::from_secs(60);
const QUARTER: Duration = Duration::from_secs(900);

/// A kept epoch, as the window sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// Which.
    pub epoch: Epoch,
    /// When its cut was made.
    pub time: Timestamp,
    /// How long it is kept.
    pub keep: Keep,
    /// Bytes it takes in the map.
    pub map_bytes: u64,
    /// Stored bytes of blocks that the next moment replaced: what letting go of this one and
    /// all before it frees.
    pub pack_bytes: u64,
}

/// How far back one can go, and at what cost. Since 0.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Every epoch is kept for this long. Default 10 minutes.
    pub every: Duration,
    /// Then one a minute until this age. Default 3 hours.
    pub minutes: Duration,
    /// Then one a quarter hour until this age, and no older one. Default 24 hours.
    pub quarters: Duration,
    /// Automatic checkpoints are kept for this long. Default 7 days.
    pub automatic: Duration,
    /// The most that the window's moments may take in the map. Default 128 MiB.
    pub map_bytes: ByteSize,
    /// The most that the window's moments may hold in packs. Default 16 GiB.
    pub pack_bytes: ByteSize,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(600),
            minutes: Duration::from_secs(3 * 3600),
            quarters: Duration::from_secs(24 * 3600),
            automatic: Duration::from_secs(7 * 24 * 3600),
            map_bytes: ByteSize::mib(128),
            pack_bytes: ByteSize::gib(16),
        }
    }
}

/// Returns the epochs to let go, oldest first.
///
/// `moments` are in order, the last is the head, which always stays. Of the moments in one
/// minute or quarter hour of the clock the newest stays, once all of it is old enough. Named ones always stay, automatic
/// ones for their time; neither counts in the budgets. If a budget is spent, the oldest moments
/// go first.
#[must_use]
pub fn to_expire(moments: &[Moment], now: Timestamp, window: &Window) -> Vec<Epoch> {
    let Some((head, older)) = moments.split_last() else { return Vec::new() };
    let mut gone = Vec::new();
    let mut kept = Vec::new();
    // The next newer moment that may stand for those before it.
    let mut newer = head;
    for moment in older.iter().rev() {
        let age = now.since(moment.time);
        // Only once the whole stretch is that old: pruned together its deltas are merged, and
        // sent to the bucket, once.
        let thinned = |every: Duration, stretch: Duration| {
            let slot = slot(moment.time, stretch);
            let end = Timestamp::from_micros((slot + 1).saturating_mul(micros(stretch)));
            end < now && now.since(end) >= every && self::slot(newer.time, stretch) == slot
        };
        let goes = match moment.keep {
            Keep::Named => false,
            Keep::Automatic => age > window.automatic,
            Keep::Window => {
                age > window.quarters
                    || thinned(window.every, MINUTE)
                    || thinned(window.minutes, QUARTER)
            }
        };
        if goes {
            gone.push(moment.epoch);
        }
        if moment.keep == Keep::Window {
            if !goes {
                kept.push(moment);
            }
            newer = moment;
        }
    }
    let mut map_bytes: u64 = kept.iter().map(|moment| moment.map_bytes).sum();
    let mut pack_bytes: u64 = kept.iter().map(|moment| moment.pack_bytes).sum();
    // From the oldest, which was pushed last.
    while (map_bytes > window.map_bytes.0 || pack_bytes > window.pack_bytes.0)
        && let Some(oldest) = kept.pop()
    {
        map_bytes -= oldest.map_bytes;
        pack_bytes -= oldest.pack_bytes;
        gone.push(oldest.epoch);
    }
    gone.sort();
    gone
}

/// Numbers the stretches of the clock.
fn slot(time: Timestamp, stretch: Duration) -> i64 {
    time.as_micros().div_euclid(micros(stretch))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl BlockMap {
    /// Lists the kept epochs as the window sees them, oldest first.
    #[must_use]
    pub fn moments(&self) -> Vec<Moment> {
        let mut moments: Vec<Moment> = Vec::new();
        let mut below = 0;
        for row in self.rows.values() {
            // What an expiring or inner one replaced is held by the kept one before it all the
            // same, and its own bytes are for the kept one after it.
            if let Some(before) = moments.last_mut() {
                before.pack_bytes += row.replaced;
            }
            below += row.map_bytes();
            if !row.is_marked() {
                moments.push(Moment {
                    epoch: row.epoch,
                    time: row.time,
                    keep: row.mark.keep,
                    map_bytes: std::mem::take(&mut below),
                    pack_bytes: 0,
                });
            }
        }
        moments
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// One moment a second for `seconds`, the last of them now.
    fn every_second(seconds: u64) -> (Vec<Moment>, Timestamp) {
        let start = 1_790_000_017;
        let at = |second: u64| Timestamp::from_micros((start + second as i64) * 1_000_000);
        let moments = (0..seconds)
            .map(|second| Moment {
                epoch: Epoch(second + 1),
                time: at(second),
                keep: Keep::Window,
                map_bytes: 10,
                pack_bytes: 100,
            })
            .collect();
        (moments, at(seconds - 1))
    }

    fn without(moments: &[Moment], gone: &[Epoch]) -> Vec<Moment> {
        let gone: BTreeSet<_> = gone.iter().collect();
        moments.iter().filter(|moment| !gone.contains(&moment.epoch)).copied().collect()
    }

    fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn two_days_of_seconds_become_few_moments_without_gaps() {
        let (moments, now) = every_second(48 * 3600);
        let window = Window::default();
        let kept = without(&moments, &to_expire(&moments, now, &window));
        let ages: Vec<Duration> = kept.iter().map(|moment| now.since(moment.time)).collect();
        let count = |lo: u64, hi: u64| {
            ages.iter().filter(|age| secs(lo) <= **age && **age < secs(hi)).count()
        };
        // A minute or a quarter hour is thinned out once all of it is old enough.
        assert_eq!(count(0, 601), 601);
        assert!((170..=230).contains(&count(601, 10_801)), "{}", count(601, 10_801));
        assert!((83..=100).contains(&count(10_801, 86_401)), "{}", count(10_801, 86_401));
        assert_eq!(count(86_401, u64::MAX), 0);
        for pair in kept.windows(2) {
            let gap = pair[1].time.since(pair[0].time);
            let allowed = match now.since(pair[0].time) {
                age if age <= secs(600) => 1,
                age if age <= secs(3 * 3600) => 60,
                _ => 900,
            };
            assert!(gap <= secs(allowed), "{gap:?} at {:?}", now.since(pair[0].time));
        }
        assert_eq!(to_expire(&kept, now, &window), []);
    }

    /// Thinned out all the time, as it is in life, the window keeps what it keeps when it is
    /// thinned out at once.
    #[test]
    fn thinning_often_loses_nothing_that_thinning_once_keeps() {
        let (moments, now) = every_second(26 * 3600);
        let window = Window::default();
        let mut kept: Vec<Moment> = Vec::new();
        for chunk in moments.chunks(77) {
            kept.extend(chunk);
            let at = chunk[chunk.len() - 1].time;
            kept = without(&kept, &to_expire(&kept, at, &window));
        }
        assert_eq!(kept, without(&moments, &to_expire(&moments, now, &window)));
    }

    #[test]
    fn named_moments_outlive_everything() {
        let (mut moments, now) = every_second(60);
        moments[3].keep = Keep::Named;
        moments[7].keep = Keep::Automatic;
        let later = Timestamp::from_micros(now.as_micros() + 30 * 86_400_000_000);
        let kept = without(&moments, &to_expire(&moments, later, &Window::default()));
        let kept: Vec<u64> = kept.iter().map(|moment| moment.epoch.0).collect();
        assert_eq!(kept, [4, 60]);
        let soon = Timestamp::from_micros(now.as_micros() + 3 * 86_400_000_000);
        let kept = without(&moments, &to_expire(&moments, soon, &Window::default()));
        let kept: Vec<u64> = kept.iter().map(|moment| moment.epoch.0).collect();
        assert_eq!(kept, [4, 8, 60]);
    }

    #[test]
    fn a_spent_budget_takes_the_oldest_unnamed() {
        let (mut moments, now) = every_second(10);
        moments[0].keep = Keep::Named;
        let window = Window { map_bytes: ByteSize(50), ..Window::default() };
        let gone: Vec<u64> = to_expire(&moments, now, &window).iter().map(|e| e.0).collect();
        assert_eq!(gone, [2, 3, 4]);
        let window = Window { pack_bytes: ByteSize(0), ..Window::default() };
        assert_eq!(without(&moments, &to_expire(&moments, now, &window)).len(), 2);
    }

    #[test]
    fn a_clock_that_was_set_back_expires_nothing() {
        let (moments, _) = every_second(60);
        assert_eq!(to_expire(&moments, Timestamp::from_micros(0), &Window::default()), []);
        assert_eq!(to_expire(&[], Timestamp::from_micros(0), &Window::default()), []);
    }
}
