//! Certificate authorities that this host trusts beyond those of its distribution.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::ImageError;

/// Variables that programs read a file of certificate authorities from.
const VARIABLES: [&str; 5] =
    ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT"];
/// Authorities that an administrator added.
const LOCAL_DIR: &str = "/usr/local/share/ca-certificates";
/// Authorities of the distribution's package.
const DISTRIBUTION_DIR: &str = "/usr/share/ca-certificates";
/// What the host trusts altogether.
const SYSTEM_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Larger than any real bundle.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Certificates by their base64 bodies, sorted, without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates(BTreeSet<String>);

impl Certificates {
    /// Collects the authorities beyond the distribution's from the given files, from the usual
    /// variables (`SSL_CERT_FILE`, `NODE_EXTRA_CA_CERTS`, …) and from the host's own list.
    ///
    /// # Errors
    /// If one of `files` cannot be read or holds no certificate. Variables that lead nowhere
    /// are not an error.
    pub fn of_host(
        files: &[PathBuf],
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ImageError> {
        let mut found = BTreeSet::new();
        for path in files {
            let certificates = read(path)
                .map_err(|source| ImageError::io(format!("read `{}`", path.display()), source))?;
            if certificates.0.is_empty() {
                let what = format!("`{}` holds no PEM certificate", path.display());
                return Err(ImageError::Invalid { what });
            }
            found.extend(certificates.0);
        }
        let paths: BTreeSet<PathBuf> =
            VARIABLES.iter().filter_map(|name| variable(name)).map(PathBuf::from).collect();
        for path in paths {
            found.extend(read(&path).unwrap_or_default().0);
        }
        found.extend(read_dir(Path::new(LOCAL_DIR)).0);
        let known = read_dir(Path::new(DISTRIBUTION_DIR));
        Ok(Self(&found - &known.0))
    }

    /// Reads every PEM certificate in a text; other blocks and words are skipped.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut found = BTreeSet::new();
        let mut body: Option<String> = None;
        for line in text.lines().map(str::trim) {
            match line {
                "-----BEGIN CERTIFICATE-----" => body = Some(String::new()),
                "-----END CERTIFICATE-----" => found.extend(body.take()),
                _ => match &mut body {
                    Some(body) if line.bytes().all(is_base64) => body.push_str(line),
                    _ => body = None,
                },
            }
        }
        found.remove("");
        Self(found)
    }

    /// Tells how many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Yields the base64 bodies, without line ends, sorted.
    pub(crate) fn bodies(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Yields each as a PEM text.
    pub(crate) fn pem(&self) -> impl Iterator<Item = String> {
        self.bodies().map(|body| {
            let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
            for line in body.as_bytes().chunks(64) {
                let _ = writeln!(text, "{}", String::from_utf8_lossy(line));
            }
            text + "-----END CERTIFICATE-----\n"
        })
    }

    /// Returns a bundle for the build: what the host trusts, and these.
    pub(crate) fn bundle(&self) -> String {
        let mut text = fs::read_to_string(SYSTEM_BUNDLE).unwrap_or_default();
        for pem in self.pem() {
            text.push('\n');
            text.push_str(&pem);
        }
        text
    }
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

fn read(path: &Path) -> std::io::Result<Certificates> {
    use std::io::Read;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Certificates::parse(&String::from_utf8_lossy(&bytes)))
}

/// Reads every `.crt` file of a folder and the folders in it.
fn read_dir(dir: &Path) -> Certificates {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(entry.path()),
                Ok(_) if entry.path().extension().is_some_and(|ending| ending == "crt") => {
                    found.insert(entry.path(), read(&entry.path()).unwrap_or_default());
                }
                _ => {}
            }
        }
    }
    Certificates(found.into_values().flat_map(|certificates| certificates.0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "# a comment\n-----BEGIN CERTIFICATE-----\r\nAAAA\r\nBB==\r\n-----END CERTIFICATE-----\n\
        -----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----\n\
        -----BEGIN CERTIFICATE-----\nCCCC\n-----END CERTIFICATE-----\n";

    #[test]
    fn certificates_are_found_whatever_is_around_them() {
        let found = Certificates::parse(TWO);
        assert_eq!(found.bodies().collect::<Vec<_>>(), ["AAAABB==", "CCCC"]);
        assert_eq!(Certificates::parse(&found.pem().collect::<String>()), found);
    }

    #[test]
    fn a_broken_block_is_no_certificate() {
        let broken = "-----BEGIN CERTIFICATE-----\nAA`rm`\n-----END CERTIFICATE-----\n";
        assert!(Certificates::parse(broken).is_empty());
        assert!(Certificates::parse("-----BEGIN CERTIFICATE-----\nAAAA\n").is_empty());
    }

    #[test]
    fn a_named_file_must_hold_one_and_a_variable_need_not() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.pem");
        fs::write(&empty, "nothing").unwrap();
        assert!(Certificates::of_host(std::slice::from_ref(&empty), |_| None).is_err());
        let host = Certificates::of_host(&[], |_| Some("/no/such/file".to_owned())).unwrap();
        fs::write(&empty, TWO).unwrap();
        let more = Certificates::of_host(&[empty], |_| None).unwrap();
        assert_eq!(more.len(), host.len() + 2);
    }
}
