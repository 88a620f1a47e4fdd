//! Where the slot table lives: words that can outlive the process that writes them.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::sys::Mapping;

/// A fixed number of 64-bit words, zero at first. Clones show the same words.
///
/// Whoever else holds the memory file keeps the table alive when this process dies: then every
/// store made before its death is there.
#[derive(Clone)]
pub struct Memory(Arc<Mapping>);

impl Memory {
    /// Makes words in a memory file whose descriptor can be handed to another process.
    ///
    /// # Errors
    /// If the kernel has no memory or no address space for them.
    pub fn shared(words: usize) -> io::Result<Self> {
        Ok(Self(Arc::new(Mapping::memfd(words)?)))
    }

    /// Makes words that end with this process.
    ///
    /// # Errors
    /// As [`Memory::shared`].
    pub fn private(words: usize) -> io::Result<Self> {
        Ok(Self(Arc::new(Mapping::private(words)?)))
    }

    /// Maps the words of a predecessor. `memfd` must be sealed against shrinking.
    ///
    /// # Errors
    /// If it is no such file or cannot be mapped.
    pub fn inherited(memfd: OwnedFd) -> io::Result<Self> {
        Ok(Self(Arc::new(Mapping::of(memfd)?)))
    }

    /// Returns the descriptor to hand on, if there is one.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.fd()
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        self.0.words()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    /// The keeper holds a descriptor of the table; the successor maps it.
    #[test]
    fn a_successor_sees_what_the_predecessor_stored() {
        let memory = Memory::shared(1_000).unwrap();
        memory.words()[999].store(7, Ordering::Release);
        let kept = memory.fd().unwrap().try_clone_to_owned().unwrap();
        drop(memory);
        let memory = Memory::inherited(kept).unwrap();
        assert_eq!(memory.words().len(), 1_000);
        assert_eq!(memory.words()[999].load(Ordering::Acquire), 7);
    }

    #[test]
    fn a_file_that_may_shrink_is_refused() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(Memory::inherited(file.into()).is_err());
    }
}
