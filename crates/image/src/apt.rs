//! Where this host's packages come from, taken from apt's own configuration.
//!
//! Mirrors and keyrings of the host serve the image too, so no host name is built in and
//! corporate mirrors just work. Only entries of the distribution itself count: what somebody
//! added to this host has no business in an image.
//!
//! **Source:** sources.list(5).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::ImageError;
use crate::recipe::Distribution;

/// Larger than any real file of sources.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How the file of the distribution's keys ends; newer releases have renamed it.
const KEYRING_ENDINGS: [&str; 2] = ["gpg", "pgp"];
/// Settings of the host's apt that have to do with reaching a mirror.
const NETWORK_SETTINGS: [&str; 8] = [
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
    "Acquire::https::CaInfo",
    "Acquire::http::Pipeline-Depth",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::Retries",
    "Acquire::ForceIPv4",
];

/// One archive, suite and list of components that binary packages come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// Base address of the archive.
    pub uri: String,
    /// Suite, such as `bookworm-updates`.
    pub suite: String,
    /// Components, such as `main`.
    pub components: Vec<String>,
    /// Keyring file, or a key's fingerprint, that must have signed the archive.
    pub signed_by: Option<String>,
}

impl Source {
    /// Returns the entry in the one-line form.
    fn line(&self, keyring: &str) -> String {
        let Self { uri, suite, components, .. } = self;
        format!("deb [signed-by={keyring}] {uri} {suite} {}\n", components.join(" "))
    }
}

/// Reads a file in the one-line form, `deb [options] uri suite component…`.
#[must_use]
pub fn parse_one_line(text: &str) -> Vec<Source> {
    let parse = |line: &str| {
        let line = line.split('#').next()?.trim();
        let mut rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
        let mut signed_by = None;
        if let Some(options) = rest.strip_prefix('[') {
            let (options, after) = options.split_once(']')?;
            for option in options.split_whitespace() {
                if let Some(value) = option.strip_prefix("signed-by=") {
                    signed_by = Some(value.to_owned());
                }
            }
            rest = after;
        }
        let mut words = rest.split_whitespace().map(str::to_owned);
        let (uri, suite) = (words.next()?, words.next()?);
        Some(Source { uri, suite, components: words.collect(), signed_by })
    };
    text.lines().filter_map(parse).collect()
}

/// Reads a file in the deb822 form: stanzas of `Key: value`, continued by indented lines.
#[must_use]
pub fn parse_deb822(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut stanza = BTreeMap::<String, String>::new();
    let mut key = String::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            found.extend(stanza_sources(&std::mem::take(&mut stanza)));
            key.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some(value) = stanza.get_mut(&key) {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            key = name.trim().to_ascii_lowercase();
            stanza.insert(key.clone(), value.trim().to_owned());
        }
    }
    found
}

fn stanza_sources(stanza: &BTreeMap<String, String>) -> Vec<Source> {
    let value = |key: &str| stanza.get(key).map_or("", String::as_str);
    let words = |key| value(key).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let disabled = matches!(value("enabled"), "no" | "false" | "without" | "off" | "disable" | "0");
    if disabled || !words("types").iter().any(|kind| kind == "deb") {
        return Vec::new();
    }
    let signed_by = Some(value("signed-by").to_owned()).filter(|text| !text.is_empty());
    let mut found = Vec::new();
    for uri in words("uris") {
        for suite in words("suites") {
            let (uri, components) = (uri.clone(), words("components"));
            found.push(Source { uri, suite, components, signed_by: signed_by.clone() });
        }
    }
    found
}

/// What a build needs to know of the host's apt.
#[derive(Debug)]
pub(crate) struct HostApt {
    /// The sources of the image, in the one-line form.
    pub(crate) sources: String,
    /// Settings for reaching them, a line each. Not for the image.
    pub(crate) settings: Vec<String>,
}

/// Reads the host's sources and settings.
pub(crate) fn of_host(distribution: &Distribution) -> Result<HostApt, ImageError> {
    let all = read_sources(Path::new("/etc/apt"));
    let Some(keyring) = KEYRING_ENDINGS
        .map(|ending| format!("/usr/share/keyrings/{}-archive-keyring.{ending}", distribution.id))
        .into_iter()
        .find(|path| Path::new(path).exists())
    else {
        let package = match distribution.id.as_str() {
            "debian" => "debian-archive-keyring",
            _ => "ubuntu-keyring",
        };
        return Err(ImageError::Invalid {
            what: format!(
                "the archive's keyring is not in /usr/share/keyrings; type `apt-get install {package}`"
            ),
        });
    };
    let sources = select(all, distribution, &|uri| resolve_mirror(uri));
    if !sources.iter().any(|source| source.suite == distribution.codename) {
        return Err(ImageError::Sources {
            distribution: distribution.id.clone(),
            codename: distribution.codename.clone(),
        });
    }
    let sources = sources.iter().map(|source| source.line(&keyring)).collect();
    Ok(HostApt { sources, settings: network_settings() })
}

/// Reads every file of sources below `dir`, in apt's order.
fn read_sources(dir: &Path) -> Vec<Source> {
    let mut files = vec![dir.join("sources.list")];
    let mut parts: Vec<PathBuf> = fs::read_dir(dir.join("sources.list.d"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    parts.sort();
    files.extend(parts);
    let mut found = Vec::new();
    for path in files {
        let small = fs::metadata(&path).is_ok_and(|meta| meta.len() <= FILE_BYTES_MAX);
        let Some(text) = small.then(|| fs::read_to_string(&path).ok()).flatten() else { continue };
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("list") => found.extend(parse_one_line(&text)),
            Some("sources") => found.extend(parse_deb822(&text)),
            _ => {}
        }
    }
    found
}

/// Keeps the distribution's own entries: its suites, its components, its keyring.
///
/// `resolve` turns an address into one that works in an image, or refuses it.
fn select(
    all: Vec<Source>,
    distribution: &Distribution,
    resolve: &dyn Fn(&str) -> Option<String>,
) -> Vec<Source> {
    let Distribution { id, codename, .. } = distribution;
    let suites = ["", "-updates", "-security"].map(|ending| format!("{codename}{ending}"));
    let components: &[&str] = match id.as_str() {
        "ubuntu" => &["main", "universe"],
        _ => &["main"],
    };
    let mut kept: Vec<Source> = Vec::new();
    for mut source in all {
        source.suite = source.suite.trim_end_matches('/').to_owned();
        source.components.retain(|component| components.contains(&component.as_str()));
        let ours = match &source.signed_by {
            Some(keyring) => keyring.contains(&format!("{id}-archive")),
            // Signed by any key of the host: then the address has to say whose it is. If it
            // lies, the archive's signature will not be one of the distribution's.
            None => names_archive(&source.uri, id),
        };
        if !ours || !suites.contains(&source.suite) || source.components.is_empty() {
            continue;
        }
        let Some(uri) = resolve(&source.uri) else { continue };
        source.uri = uri;
        source.signed_by = None;
        match kept.iter_mut().find(|kept| kept.suite == source.suite && kept.uri == source.uri) {
            Some(kept) => {
                kept.components.extend(source.components);
                kept.components.sort();
                kept.components.dedup();
            }
            None => kept.push(source),
        }
    }
    kept
}

/// Tells whether an address looks like an archive of the distribution: a part of its path or
/// file name begins with the distribution's name.
fn names_archive(uri: &str, id: &str) -> bool {
    uri.split('/').skip(3).any(|part| part.starts_with(id))
}

/// Turns `mirror+file:LIST` into the first address in that list; refuses what an image could
/// not reach.
fn resolve_mirror(uri: &str) -> Option<String> {
    let uri = match uri.strip_prefix("mirror+file:") {
        Some(path) => {
            let path = format!("/{}", path.trim_start_matches('/'));
            let list = fs::read_to_string(path).ok()?;
            let first = list.lines().filter_map(|line| line.split_whitespace().next());
            first.into_iter().find(|uri| uri.starts_with("http"))?.to_owned()
        }
        None => uri.to_owned(),
    };
    (uri.starts_with("http://") || uri.starts_with("https://")).then_some(uri)
}

/// Asks the host's apt how it reaches its mirrors.
fn network_settings() -> Vec<String> {
    let Ok(output) = Command::new("apt-config").arg("dump").output() else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout);
    let wanted = |line: &&str| {
        NETWORK_SETTINGS.iter().any(|name| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(' ') || rest.starts_with("::"))
        })
    };
    text.lines().filter(wanted).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(id: &str, codename: &str) -> Distribution {
        Distribution { id: id.to_owned(), version: "12".to_owned(), codename: codename.to_owned() }
    }

    fn lines(sources: Vec<Source>, id: &str, codename: &str) -> Vec<String> {
        select(sources, &distribution(id, codename), &|uri| Some(uri.to_owned()))
            .iter()
            .map(|source| {
                format!("{} {} {}", source.uri, source.suite, source.components.join(","))
            })
            .collect()
    }

    #[test]
    fn one_line_entries_are_read_with_options_and_comments() {
        let text = "# a comment\n\
            deb http://m/debian bookworm main non-free-firmware # the rest\n\
            deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] https://x/apt bookworm stable\n\
            deb-src http://m/debian bookworm main\n\
            debx y\ndeb [broken http://m/debian\ndeb http://only-uri\n";
        let found = parse_one_line(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].components, ["main", "non-free-firmware"]);
        assert_eq!(found[0].signed_by, None);
        assert_eq!(found[1].signed_by.as_deref(), Some("/usr/share/keyrings/x.gpg"));
    }

    #[test]
    fn deb822_stanzas_are_read_for_every_address_and_suite() {
        let text = "# head\nTypes: deb deb-src\nURIs: http://m/debian http://n/debian\n\
            Suites: bookworm bookworm-updates\n# within\nComponents: main\n\
            Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\n\
            Types: deb\nEnabled: no\nURIs: http://off/debian\nSuites: bookworm\nComponents: main\n\n\
            Types: deb-src\nURIs: http://src/debian\nSuites: bookworm\nComponents: main\n";
        let found = parse_deb822(text);
        assert_eq!(found.len(), 4);
        assert_eq!(found[3].uri, "http://n/debian");
        assert_eq!(found[3].suite, "bookworm-updates");
    }

    #[test]
    fn a_key_inside_a_stanza_does_not_confuse_the_next_one() {
        let text = "Types: deb\nURIs: https://x/debian\nSuites: bookworm\nComponents: main\n\
            Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n Version: 1\n\n\
            Types: deb\nURIs: http://m/debian\nSuites: bookworm\nComponents: main\n";
        let found = parse_deb822(text);
        assert_eq!(found.len(), 2);
        assert!(found[0].signed_by.as_deref().unwrap().contains("BEGIN PGP"));
        assert_eq!(lines(found, "debian", "bookworm"), ["http://m/debian bookworm main"]);
    }

    #[test]
    fn only_entries_of_the_distribution_are_kept() {
        let ours = "deb http://m/debian bookworm main contrib\n\
            deb http://m/debian/ bookworm-updates main\n\
            deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] https://proxy.corp/repo-7 bookworm-security main\n";
        let others = "deb http://m/debian trixie main\n\
            deb http://m/debian bookworm-backports main\n\
            deb [signed-by=/usr/share/keyrings/vpn-archive-keyring.gpg] https://v/stable/debian bookworm main\n\
            deb https://x/apt bookworm main\n\
            deb https://x/linux/debian bookworm stable\n";
        let found = lines(parse_one_line(&format!("{others}{ours}")), "debian", "bookworm");
        assert_eq!(
            found,
            [
                "http://m/debian bookworm main",
                "http://m/debian/ bookworm-updates main",
                "https://proxy.corp/repo-7 bookworm-security main"
            ]
        );
    }

    #[test]
    fn ubuntus_pockets_and_universe_are_kept() {
        let text = "Types: deb\nURIs: http://a/ubuntu/\nSuites: noble noble-updates noble-backports\n\
            Components: main universe restricted multiverse\n\
            Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg\n";
        assert_eq!(
            lines(parse_deb822(text), "ubuntu", "noble"),
            [
                "http://a/ubuntu/ noble main,universe",
                "http://a/ubuntu/ noble-updates main,universe"
            ]
        );
    }

    #[test]
    fn a_mirror_list_leads_to_its_first_address() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("debian.list");
        fs::write(&list, "file:/srv/mirror\nhttps://m/debian\tpriority:1\nhttps://n/debian\n")
            .unwrap();
        let uri = format!("mirror+file://{}", list.display());
        assert_eq!(resolve_mirror(&uri).as_deref(), Some("https://m/debian"));
        assert_eq!(resolve_mirror("cdrom:[Debian]/"), None);
        assert_eq!(resolve_mirror("file:/srv/mirror"), None);
        assert_eq!(resolve_mirror("mirror+file:/no/such"), None);
    }
}
