//! Shell patterns on file names: `*`, `?`, `[a-z]`, `[!a]`, `\` before any of them.

/// Returns whether `name` matches `pattern` as a whole. A `[` that is never closed stands for
/// itself.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    // Where to go back to: after the last star, and the character it should swallow next.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        if p < pattern.len() && pattern[p] == '*' {
            p += 1;
            retry = Some((p, n));
            continue;
        }
        if let Some(width) = one(&pattern[p..], name[n]) {
            p += width;
            n += 1;
            continue;
        }
        let Some((star, swallowed)) = retry else { return false };
        p = star;
        n = swallowed + 1;
        retry = Some((star, n));
    }
    pattern[p..].iter().all(|&c| c == '*')
}

/// Matches one character; returns how much of the pattern it took.
fn one(pattern: &[char], c: char) -> Option<usize> {
    match *pattern.first()? {
        '?' => Some(1),
        '\\' if pattern.len() > 1 => (pattern[1] == c).then_some(2),
        '[' => match class(&pattern[1..], c) {
            Some((matched, width)) => matched.then_some(width + 1),
            None => (c == '[').then_some(1),
        },
        literal => (literal == c).then_some(1),
    }
}

/// Matches a bracket expression after its `[`; `None` if it is never closed.
fn class(pattern: &[char], c: char) -> Option<(bool, usize)> {
    let negated = matches!(pattern.first(), Some('!' | '^'));
    let start = usize::from(negated);
    let mut at = start;
    let mut matched = false;
    loop {
        let low = *pattern.get(at)?;
        if low == ']' && at > start {
            return Some((matched != negated, at + 1));
        }
        if pattern.get(at + 1) == Some(&'-') && pattern.get(at + 2).is_some_and(|&h| h != ']') {
            matched |= (low..=pattern[at + 2]).contains(&c);
            at += 3;
        } else {
            matched |= low == c;
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txt.bak", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("[", "[", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("*a*b*c*", "xxaxxbxxcxx", true),
            ("ä*", "äh", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        assert!(!matches(&"*a".repeat(50), &"a".repeat(49).repeat(40)[..1950].replace('a', "b")));
    }
}
