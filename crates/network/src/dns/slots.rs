//! How much a sprite may have under way at once.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts what is under way, per source and altogether. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Slots {
    counts: Arc<Mutex<Counts>>,
    per_source_max: usize,
    total_max: usize,
}

#[derive(Default)]
struct Counts {
    total: usize,
    per_source: HashMap<Ipv4Addr, usize>,
}

/// The right to do one thing; given back when dropped.
pub(crate) struct Slot {
    counts: Arc<Mutex<Counts>>,
    source: Ipv4Addr,
}

impl Slots {
    pub(crate) fn new(per_source_max: usize, total_max: usize) -> Self {
        Self { counts: Arc::default(), per_source_max, total_max }
    }

    /// Takes a slot for `source`; `None` if it or everybody together has too much under way.
    pub(crate) fn take(&self, source: Ipv4Addr) -> Option<Slot> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.total >= self.total_max {
            return None;
        }
        let of_source = counts.per_source.entry(source).or_default();
        if *of_source >= self.per_source_max {
            return None;
        }
        *of_source += 1;
        counts.total += 1;
        Some(Slot { counts: self.counts.clone(), source })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total = counts.total.saturating_sub(1);
        if let Some(of_source) = counts.per_source.get_mut(&self.source) {
            *of_source = of_source.saturating_sub(1);
            if *of_source == 0 {
                counts.per_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_take_anothers_slots() {
        let (a, b) = (Ipv4Addr::new(10, 77, 0, 2), Ipv4Addr::new(10, 77, 0, 3));
        let slots = Slots::new(2, 3);
        let first = slots.take(a).unwrap();
        let _second = slots.take(a).unwrap();
        assert!(slots.take(a).is_none());
        let _third = slots.take(b).unwrap();
        assert!(slots.take(b).is_none(), "altogether");
        drop(first);
        assert!(slots.take(a).is_some());
        assert!(slots.counts.lock().unwrap().per_source.len() <= 2);
    }
}
