//! Which blocks have a newer copy in the journal.

use std::collections::BTreeMap;
use std::ops::Range;

/// The newest copy of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Logged {
    /// Where it is.
    pub(crate) block: u64,
    /// Its first four bytes looked like a block of the journal's own and were zeroed.
    pub(crate) is_escaped: bool,
}

impl Logged {
    /// Puts back the bytes that were zeroed, in `piece`, which begins `within` the block.
    pub(crate) fn unescape(self, within: u64, piece: &mut [u8]) {
        if !self.is_escaped {
            return;
        }
        let hidden = super::blocks::MAGIC.to_be_bytes().into_iter().skip(within as usize);
        for (byte, hidden) in piece.iter_mut().zip(hidden) {
            *byte = hidden;
        }
    }
}

/// The table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overlay(BTreeMap<u64, Logged>);

impl Overlay {
    pub(crate) fn new(blocks: BTreeMap<u64, Logged>) -> Self {
        Self(blocks)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn get(&self, block: u64) -> Option<Logged> {
        self.0.get(&block).copied()
    }

    pub(crate) fn touches(&self, blocks: Range<u64>) -> bool {
        blocks.start < blocks.end && self.0.range(blocks).next().is_some()
    }

    /// Returns the blocks that have a newer copy, in order.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = u64> {
        self.0.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_bytes_come_back_wherever_a_read_begins() {
        let logged = Logged { block: 1, is_escaped: true };
        let mut piece = [0; 6];
        logged.unescape(2, &mut piece);
        assert_eq!(piece, [0x39, 0x98, 0, 0, 0, 0]);
        let mut piece = [7; 2];
        logged.unescape(4, &mut piece);
        assert_eq!(piece, [7; 2]);
    }
}
