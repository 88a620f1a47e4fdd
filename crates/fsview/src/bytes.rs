//! Numbers in byte strings that somebody else wrote.
//!
//! A field beyond the end reads as 0, which is also what ext4 takes a field to be that an older
//! inode is too short for. So nothing here can fail.

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

pub(crate) fn u8_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

/// Joins the two halves of a block number.
pub(crate) fn join(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Continues ext4's kind of CRC-32C, which is not inverted at the end.
pub(crate) fn crc(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// Continues [`crc`] over `bytes`, taking those in `hole` as zeroes.
pub(crate) fn crc_without(seed: u32, bytes: &[u8], hole: std::ops::Range<usize>) -> u32 {
    let end = hole.end.min(bytes.len());
    let start = hole.start.min(end);
    let before = crc(seed, &bytes[..start]);
    let zeroes = crc(before, &[0; 8][..(end - start).min(8)]);
    crc(zeroes, &bytes[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_beyond_the_end_are_zero() {
        assert_eq!(le32(&[1, 2, 3], 0), 0);
        assert_eq!(le16(&[1, 2, 3], 1), 0x0302);
        assert_eq!(be32(&[1, 2, 3, 4], 0), 0x0102_0304);
        assert_eq!(u8_at(&[], usize::MAX), 0);
    }

    #[test]
    fn a_hole_counts_as_zeroes() {
        let whole = crc(7, b"ab\0\0\0\0cd");
        assert_eq!(crc_without(7, b"abXXXXcd", 2..6), whole);
    }
}
