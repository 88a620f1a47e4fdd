//! The memory that all sessions together may fill with bytes on their way.
//!
//! The agent's memory is the host's, not the sprite's: without a common limit, thousands of
//! sessions whose clients do not read would take a mebibyte each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sprite_link::session::OUTPUT_WINDOW;

/// From this many bytes on, windows shrink.
const PLENTY: usize = 128 * 1024 * 1024;
/// What each session may still use then.
const SMALL_WINDOW: u64 = 64 * 1024;

/// What all sessions use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(Arc<AtomicUsize>);

impl Memory {
    /// Opens one session's account.
    pub(crate) fn share(&self) -> MemoryShare {
        MemoryShare { all: self.clone(), mine: 0 }
    }
}

/// What one session uses; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct MemoryShare {
    all: Memory,
    mine: usize,
}

impl MemoryShare {
    /// Says what the session uses now, and returns the window it may have.
    pub(crate) fn update(&mut self, mine: usize) -> u64 {
        let before = std::mem::replace(&mut self.mine, mine);
        let all = if mine >= before {
            self.all.0.fetch_add(mine - before, Ordering::Relaxed) + (mine - before)
        } else {
            self.all.0.fetch_sub(before - mine, Ordering::Relaxed) - (before - mine)
        };
        if all < PLENTY { OUTPUT_WINDOW } else { SMALL_WINDOW }
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.mine, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_shrink_when_memory_is_short_and_grow_again() {
        let memory = Memory::default();
        let (mut a, mut b) = (memory.share(), memory.share());
        assert_eq!(a.update(PLENTY - 1), OUTPUT_WINDOW);
        assert_eq!(b.update(1), SMALL_WINDOW);
        a.update(0);
        assert_eq!(b.update(2), OUTPUT_WINDOW);
        drop((a, b));
        assert_eq!(memory.0.load(Ordering::Relaxed), 0);
    }
}
