//! Elements of one width, stored byte by byte: the first byte of each, then the second of each.
//!
//! Neighbouring elements have most of their higher bytes in common. Apart, LZ4, which compresses
//! the pages on their way to the bucket, finds nothing in them; in planes they become runs, and
//! an entry takes about half.

/// Splits elements of `width` bytes into planes.
pub(crate) fn split(elements: &[u8], width: usize) -> Vec<u8> {
    let count = elements.len() / width;
    let mut planes = Vec::with_capacity(elements.len());
    for byte in 0..width {
        planes.extend(elements.iter().skip(byte).step_by(width));
    }
    debug_assert_eq!(planes.len(), count * width);
    planes
}

/// Joins planes to elements of `N` bytes; bytes that make no whole element are left out.
pub(crate) fn join<const N: usize>(planes: &[u8]) -> Vec<[u8; N]> {
    let count = planes.len() / N;
    let mut elements = vec![[0; N]; count];
    if count > 0 {
        for (byte, plane) in planes.chunks_exact(count).take(N).enumerate() {
            for (element, value) in elements.iter_mut().zip(plane) {
                element[byte] = *value;
            }
        }
    }
    elements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joining_undoes_splitting() {
        assert_eq!(split(&[1, 2, 3, 4, 5, 6], 3), [1, 4, 2, 5, 3, 6]);
        assert_eq!(join::<3>(&[1, 4, 2, 5, 3, 6]), [[1, 2, 3], [4, 5, 6]]);
        assert!(join::<3>(&[1, 2]).is_empty());
        for count in 0..40_u8 {
            let elements: Vec<u8> = (0..count).flat_map(|i| [i, i ^ 0x5a, 7, count - i]).collect();
            assert_eq!(join::<4>(&split(&elements, 4)).concat(), elements);
        }
    }
}
