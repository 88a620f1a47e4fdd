//! What an image is made of, and the id that follows from it.

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sprite_types::{ByteSize, ImageId};

use crate::certificates::Certificates;
use crate::error::ImageError;
use crate::{mkfs, overlay, packages};

/// The script that does the building, part of every recipe.
pub(crate) const BUILD_SCRIPT: &str = include_str!("../assets/build.sh");
/// Major version of node in our images: the oldest that the official SDK runs on.
pub(crate) const NODE_MAJOR: u32 = 24;

/// A Linux distribution in one release, such as Debian `bookworm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    /// `ID` of os-release: `debian` or `ubuntu`.
    pub id: String,
    /// `VERSION_ID`, such as `12` or `24.04`.
    pub version: String,
    /// `VERSION_CODENAME`, the name of its suite in the archive.
    pub codename: String,
}

impl Distribution {
    /// Reads which distribution this host runs; images are built from the same.
    ///
    /// # Errors
    /// [`ImageError::Distribution`] for one that we cannot build from.
    pub fn of_host() -> Result<Self, ImageError> {
        let text = std::fs::read_to_string("/etc/os-release")
            .or_else(|_| std::fs::read_to_string("/usr/lib/os-release"))
            .map_err(|source| ImageError::io("read `/etc/os-release`", source))?;
        Self::parse(&text)
    }

    /// Reads the text of an os-release file. **Source:** os-release(5).
    ///
    /// # Errors
    /// [`ImageError::Distribution`] for one that we cannot build from.
    pub fn parse(os_release: &str) -> Result<Self, ImageError> {
        let value = |key: &str| {
            os_release
                .lines()
                .filter_map(|line| line.split_once('='))
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value.trim_matches(['"', '\'']).to_owned())
                .unwrap_or_default()
        };
        let found = Self {
            id: value("ID"),
            version: value("VERSION_ID"),
            codename: value("VERSION_CODENAME"),
        };
        let number = |text: &str| {
            let (year, month) = text.split_once('.').unwrap_or((text, "0"));
            Some((year.parse::<u32>().ok()?, month.parse::<u32>().ok()?))
        };
        let new_enough = match (found.id.as_str(), number(&found.version)) {
            ("debian", Some(version)) => version >= (12, 0),
            ("ubuntu", Some(version)) => version >= (24, 4),
            _ => false,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if new_enough && !found.codename.is_empty() && found.codename.chars().all(plain) {
            Ok(found)
        } else {
            Err(ImageError::Distribution { found: format!("{} {}", found.id, found.version) })
        }
    }
}

/// How much is installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// What clients of the API need.
    #[default]
    Minimal,
    /// Compilers, editors, languages and coding CLIs as well.
    Devtools,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Minimal => "minimal",
            Self::Devtools => "devtools",
        })
    }
}

impl FromStr for Variant {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        match text {
            "minimal" => Ok(Self::Minimal),
            "devtools" => Ok(Self::Devtools),
            _ => Err(ImageError::Invalid {
                what: format!("image variant `{text}`: there are `minimal` and `devtools`"),
            }),
        }
    }
}

/// Everything that decides what is in a built image.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Where the packages come from.
    pub distribution: Distribution,
    /// How much is installed.
    pub variant: Variant,
    /// Size of the file system. Default 100 GiB, sparse.
    pub size: ByteSize,
    /// Extra certificate authorities. They serve the build, behind a proxy that re-signs TLS.
    pub certificates: Certificates,
    /// Puts those certificate authorities into the image too. Default no.
    pub certificates_in_image: bool,
}

impl Recipe {
    /// Makes the recipe of a variant from this host's distribution.
    ///
    /// # Errors
    /// [`ImageError::Distribution`] on a host whose distribution we cannot build from.
    pub fn of_host(variant: Variant) -> Result<Self, ImageError> {
        Ok(Self {
            distribution: Distribution::of_host()?,
            variant,
            size: ByteSize::gib(100),
            certificates: Certificates::default(),
            certificates_in_image: false,
        })
    }

    /// Returns a name for people, such as `debian-bookworm-minimal`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-{}-{}", self.distribution.id, self.distribution.codename, self.variant)
    }

    /// Derives the image's id. Mirrors and proxies do not matter: the content is the same.
    #[must_use]
    pub fn id(&self) -> ImageId {
        let mut hash = Sha256::new();
        let mut add = |key: &str, value: &[u8]| {
            hash.update(format!("{key} {}\n", value.len()));
            hash.update(value);
        };
        add("recipe", b"1");
        add("architecture", std::env::consts::ARCH.as_bytes());
        add("distribution", self.distribution.id.as_bytes());
        add("codename", self.distribution.codename.as_bytes());
        add("packages", packages::packages(&self.distribution, self.variant).join(" ").as_bytes());
        add("npm", packages::npm_packages(self.variant).join(" ").as_bytes());
        add("variant", self.variant.to_string().as_bytes());
        add("size", &self.size.0.to_le_bytes());
        add("node", &NODE_MAJOR.to_le_bytes());
        add("mkfs", mkfs::FEATURES.as_bytes());
        add("script", BUILD_SCRIPT.as_bytes());
        for entry in overlay::entries(&self.version()) {
            add("file", entry.describe().as_bytes());
        }
        if self.certificates_in_image {
            for certificate in self.certificates.bodies() {
                add("certificate", certificate.as_bytes());
            }
        }
        ImageId::from_digest(&hash.finalize())
    }

    /// Returns the line of `/.sprite/version.txt`.
    pub(crate) fn version(&self) -> String {
        format!("{} {}", env!("CARGO_PKG_VERSION"), self.name())
    }
}

/// Returns the bytes that fit into memory on this host now.
pub(crate) fn memory_available() -> io::Result<ByteSize> {
    let meminfo = std::fs::read_to_string(Path::new("/proc/meminfo"))?;
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0);
    Ok(ByteSize(kib.saturating_mul(1024)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOKWORM: &str = "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n";

    fn recipe() -> Recipe {
        Recipe {
            distribution: Distribution::parse(BOOKWORM).unwrap(),
            variant: Variant::Minimal,
            size: ByteSize::gib(100),
            certificates: Certificates::default(),
            certificates_in_image: false,
        }
    }

    #[test]
    fn debian_12_and_ubuntu_24_04_are_known_and_older_ones_are_named_in_the_error() {
        assert_eq!(recipe().name(), "debian-bookworm-minimal");
        let noble = "ID=ubuntu\nID_LIKE=debian\nVERSION_ID='24.04'\nVERSION_CODENAME=noble";
        assert_eq!(Distribution::parse(noble).unwrap().codename, "noble");
        for other in [
            "ID=debian\nVERSION_ID=11\nVERSION_CODENAME=bullseye",
            "ID=ubuntu\nVERSION_ID=22.04\nVERSION_CODENAME=jammy",
            "ID=fedora\nVERSION_ID=42",
            "ID=debian\nVERSION_ID=13\nVERSION_CODENAME=../x",
            "",
        ] {
            assert!(Distribution::parse(other).is_err(), "{other}");
        }
    }

    #[test]
    fn equal_recipes_share_an_id_and_different_ones_do_not() {
        assert_eq!(recipe().id(), recipe().id());
        let different = [
            Recipe { variant: Variant::Devtools, ..recipe() },
            Recipe { size: ByteSize::gib(50), ..recipe() },
            Recipe {
                distribution: Distribution {
                    codename: "trixie".to_owned(),
                    ..recipe().distribution
                },
                ..recipe()
            },
        ];
        for other in different {
            assert_ne!(other.id(), recipe().id());
        }
    }

    #[test]
    fn certificates_change_the_id_only_if_they_go_into_the_image() {
        let pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        let mut with = Recipe { certificates: Certificates::parse(pem), ..recipe() };
        assert_eq!(with.id(), recipe().id());
        with.certificates_in_image = true;
        assert_ne!(with.id(), recipe().id());
    }
}
