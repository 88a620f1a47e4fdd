//! Sizes every part of the engine shares.

/// Bytes of a block, the unit of the map, of packs and of cache slots.
pub const BLOCK_LEN: usize = 65_536;

/// Bytes of a part, the unit in which a slot knows what is valid and what is dirty.
pub const PART_LEN: usize = 4_096;

/// Parts of a block.
pub const PARTS: usize = BLOCK_LEN / PART_LEN;

/// Tells whether every byte is zero, at the speed of memory.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<32>();
    words.iter().all(|word| *word == [0; 32]) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_anywhere_is_seen() {
        let mut block = vec![0; 1_000];
        assert!(is_zero(&block));
        for at in [0, 31, 32, 500, 991, 992, 999] {
            block[at] = 1;
            assert!(!is_zero(&block), "{at}");
            block[at] = 0;
        }
    }
}
