//! Finds the detach key, Ctrl+\, in what is typed.

/// How terminals send Ctrl+\: plainly, in the kitty protocol, and with xterm's modifyOtherKeys.
const SPELLINGS: [&[u8]; 3] = [b"\x1c", b"\x1b[92;5u", b"\x1b[27;5;92~"];

/// Returns the length of what precedes the first detach key, or `None` if there is none.
pub(crate) fn find(typed: &[u8]) -> Option<usize> {
    let starts = typed.iter().enumerate().filter(|(_, b)| matches!(b, 0x1b | 0x1c));
    starts
        .map(|(at, _)| at)
        .find(|&at| SPELLINGS.iter().any(|spelling| typed[at..].starts_with(spelling)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_found_in_every_spelling() {
        for (typed, expected) in [
            (&b"\x1c"[..], Some(0)),
            (b"ls\x1crest", Some(2)),
            (b"\x1b[92;5u", Some(0)),
            (b"a\x1b[27;5;92~", Some(1)),
            (b"\x1b[A\x1c", Some(3)),
            (b"", None),
            (b"\\", None),
            (b"\x1b", None),
            (b"\x1b[92;6u", None),
        ] {
            assert_eq!(find(typed), expected, "{typed:?}");
        }
    }
}
