//! Which folders were seen: a bit for each inode, in pages.

use std::collections::HashMap;

const PAGE_BITS: u32 = 1 << 15;

/// A set of inode numbers.
#[derive(Debug, Default)]
pub(crate) struct Visited(HashMap<u32, Box<[u64; PAGE_BITS as usize / 64]>>);

impl Visited {
    /// Adds a number; `false` if it was there.
    pub(crate) fn insert(&mut self, inode: u32) -> bool {
        let empty = || Box::new([0; PAGE_BITS as usize / 64]);
        let page = self.0.entry(inode / PAGE_BITS).or_insert_with(empty);
        let bit = inode % PAGE_BITS;
        let word = &mut page[bit as usize / 64];
        let is_new = *word & (1 << (bit % 64)) == 0;
        *word |= 1 << (bit % 64);
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_new_once() {
        let mut visited = Visited::default();
        for inode in [0, 63, 64, PAGE_BITS - 1, PAGE_BITS, u32::MAX] {
            assert!(visited.insert(inode));
            assert!(!visited.insert(inode));
        }
    }
}
