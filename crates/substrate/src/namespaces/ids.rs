//! Which host user ids belong to which machine.

use std::collections::BTreeSet;
use std::sync::Mutex;

/// Ids per machine.
const SPAN: u32 = 65_536;

/// Ranges of host ids, one per machine, so that no two sprites share a user of the host.
pub(crate) struct IdRanges {
    first: u32,
    taken: Mutex<BTreeSet<u32>>,
}

impl IdRanges {
    pub(crate) fn new(first: u32) -> Self {
        Self { first, taken: Mutex::new(BTreeSet::new()) }
    }

    /// Takes the lowest free range; `None` if the 32-bit ids are used up.
    pub(crate) fn take(&self) -> Option<u32> {
        let mut taken = self.taken.lock().expect("no holder panics");
        let mut base = self.first;
        while taken.contains(&base) {
            base = base.checked_add(SPAN)?;
        }
        // The last range must end below the two ids with a meaning of their own.
        base.checked_add(SPAN).filter(|&end| end < u32::MAX - 1)?;
        taken.insert(base);
        Some(base)
    }

    /// Marks the range of a machine that was found running.
    pub(crate) fn mark(&self, base: u32) {
        self.taken.lock().expect("no holder panics").insert(base);
    }

    pub(crate) fn give_back(&self, base: u32) {
        self.taken.lock().expect("no holder panics").remove(&base);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_disjoint_and_reused() {
        let ids = IdRanges::new(1_000_000);
        let (a, b) = (ids.take().unwrap(), ids.take().unwrap());
        assert!(a + SPAN <= b);
        ids.give_back(a);
        assert_eq!(ids.take(), Some(a));
        ids.mark(b + SPAN);
        assert_eq!(ids.take(), Some(b + 2 * SPAN));
    }

    #[test]
    fn the_end_of_the_ids_is_seen() {
        let ids = IdRanges::new(u32::MAX - 2 * SPAN);
        assert!(ids.take().is_some());
        assert!(ids.take().is_none());
    }
}
