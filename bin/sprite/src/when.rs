//! Moments as people read them.

use sprite_types::Timestamp;

/// Returns how long ago a moment was: `just now`, `5m ago`, `3d ago`.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.since(at).as_secs();
    match seconds {
        0..5 => "just now".to_owned(),
        5..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..86_400 => format!("{}h ago", seconds / 3600),
        86_400..31_536_000 => format!("{}d ago", seconds / 86_400),
        _ => format!("{}y ago", seconds / 31_536_000),
    }
}

/// Returns [`ago`] of an RFC 3339 text, or the text itself if it is something else.
pub(crate) fn ago_text(text: &str, now: Timestamp) -> String {
    match Timestamp::parse_rfc3339(text) {
        Some(at) => ago(at, now),
        None => crate::output::clean(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_relative() {
        let now = Timestamp::parse_rfc3339("2026-01-13T10:30:00Z").unwrap();
        for (text, expected) in [
            ("2026-01-13T10:29:58Z", "just now"),
            ("2026-01-13T10:29:10Z", "50s ago"),
            ("2026-01-13T10:25:00Z", "5m ago"),
            ("2026-01-12T10:30:00Z", "1d ago"),
            ("2023-01-12T10:30:00Z", "3y ago"),
            ("2027-01-01T00:00:00Z", "just now"),
            ("soon", "soon"),
        ] {
            assert_eq!(ago_text(text, now), expected, "{text}");
        }
    }
}
