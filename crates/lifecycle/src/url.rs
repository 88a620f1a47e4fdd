//! The form of sprite URLs.

use sprite_types::{OrgId, SpriteName};

use crate::settings::UrlSettings;

/// Longest DNS label, in bytes.
const LABEL_MAX: usize = 63;

/// Returns the host label of a sprite: its name and its org's short id, shortened and made
/// unique again by a checksum where a DNS label has no room for both.
#[must_use]
pub(crate) fn label(org: &OrgId, name: &SpriteName) -> String {
    let tail = org.tail();
    let whole = format!("{name}-{tail}");
    if whole.len() <= LABEL_MAX {
        return whole;
    }
    let sum = fnv(name.as_str().as_bytes());
    let keep = LABEL_MAX - tail.len() - 2 - 8;
    format!("{}-{sum:08x}-{tail}", name.as_str()[..keep].trim_end_matches('-'))
}

/// Returns the URL of a sprite.
#[must_use]
pub(crate) fn sprite_url(settings: &UrlSettings, org: &OrgId, name: &SpriteName) -> String {
    let UrlSettings { scheme, domain, port } = settings;
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}://{}.{domain}{port}", label(org, name))
}

/// FNV-1a: names that share their first 40 characters still differ here.
fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &b| (hash ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_still_fits_a_dns_label() {
        let org: OrgId = "org-abcdefgh".parse().unwrap();
        let one: SpriteName = "x".repeat(63).parse().unwrap();
        let two: SpriteName = format!("{}y", "x".repeat(62)).parse().unwrap();
        assert!(label(&org, &one).len() <= LABEL_MAX);
        assert_ne!(label(&org, &one), label(&org, &two));
        let settings =
            UrlSettings { scheme: "http".into(), domain: "localhost".into(), port: Some(7780) };
        let name = "web".parse().unwrap();
        assert_eq!(sprite_url(&settings, &org, &name), "http://web-abcdefgh.localhost:7780");
    }
}
