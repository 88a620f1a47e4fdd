//! Who we are to a bucket. Nothing here is ever printed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Largest credentials file, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// How long credentials from a file are used before it is read again.
const FILE_AGE_MAX: Duration = Duration::from_secs(30);

/// An access key with its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// Credentials cannot be had. Texts name files and variables, never values.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Neither the URL nor the environment says where they are.
    #[error(
        "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a file with \
         `credentials_file=` in the store's URL"
    )]
    None,
    /// The file cannot be read.
    #[error("read the credentials file `{}`", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file does not say what is needed.
    #[error("the credentials file `{}` has no {missing} in section `{profile}`", path.display())]
    Incomplete {
        /// Which.
        path: PathBuf,
        /// Where it was looked for.
        profile: String,
        /// What.
        missing: &'static str,
    },
}

impl Credentials {
    /// Makes credentials of known values.
    pub fn new(
        access_key: impl Into<String>,
        secret_key: impl Into<String>,
        session_token: Option<String>,
    ) -> Self {
        Self { access_key: access_key.into(), secret_key: secret_key.into(), session_token }
    }

    /// Reads the section `[profile]` of a file as AWS tools write it.
    fn from_file(path: &Path, profile: &str) -> Result<Self, CredentialsError> {
        let text = read_small(path)
            .map_err(|source| CredentialsError::File { path: path.to_owned(), source })?;
        let section = |name: &str| value_in(&text, profile, name);
        let need = |name: &'static str| {
            section(name).ok_or_else(|| CredentialsError::Incomplete {
                path: path.to_owned(),
                profile: profile.to_owned(),
                missing: name,
            })
        };
        Ok(Self {
            access_key: need("aws_access_key_id")?,
            secret_key: need("aws_secret_access_key")?,
            session_token: section("aws_session_token"),
        })
    }
}

fn read_small(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Returns a value of a section of an INI file.
fn value_in(text: &str, section: &str, name: &str) -> Option<String> {
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if let Some(title) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = title.trim() == section;
        } else if inside
            && let Some((key, value)) = line.split_once('=')
            && key.trim() == name
        {
            return Some(value.trim().to_owned());
        }
    }
    None
}

/// Where credentials come from, and the last ones.
pub(super) struct Source {
    file: Option<(PathBuf, String)>,
    last: Mutex<(Credentials, Instant)>,
}

impl Source {
    pub(super) fn fixed(credentials: Credentials) -> Self {
        Self { file: None, last: Mutex::new((credentials, Instant::now())) }
    }

    /// Reads a file now, so that what is wrong with it is said at start, and again while in use,
    /// so that it can be replaced.
    pub(super) fn file(path: &Path, profile: &str) -> Result<Self, CredentialsError> {
        let last = Mutex::new((Credentials::from_file(path, profile)?, Instant::now()));
        Ok(Self { file: Some((path.to_owned(), profile.to_owned())), last })
    }

    /// Looks where the URL says, else at the environment.
    pub(super) fn find(
        file: Option<&Path>,
        profile: Option<&str>,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, CredentialsError> {
        let from_env = |name: &str| env(name).filter(|value| !value.is_empty());
        let profile = profile
            .map(str::to_owned)
            .or_else(|| from_env("AWS_PROFILE"))
            .unwrap_or("default".into());
        if let Some(path) = file {
            return Self::file(path, &profile);
        }
        let keys = (from_env("AWS_ACCESS_KEY_ID"), from_env("AWS_SECRET_ACCESS_KEY"));
        if let (Some(access_key), Some(secret_key)) = keys {
            let session_token = from_env("AWS_SESSION_TOKEN");
            return Ok(Self::fixed(Credentials { access_key, secret_key, session_token }));
        }
        match from_env("AWS_SHARED_CREDENTIALS_FILE") {
            Some(path) => Self::file(Path::new(&path), &profile),
            None => Err(CredentialsError::None),
        }
    }

    /// Returns the credentials of the moment.
    pub(super) fn current(&self) -> Credentials {
        self.after(FILE_AGE_MAX)
    }

    /// Returns what a file says now, as the store did not like what it said.
    pub(super) fn newest(&self) -> Credentials {
        self.after(Duration::ZERO)
    }

    /// Reads the file again if the last time is as long ago.
    fn after(&self, age: Duration) -> Credentials {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((path, profile)) = &self.file
            && last.1.elapsed() >= age
        {
            match Credentials::from_file(path, profile) {
                Ok(credentials) => last.0 = credentials,
                // Perhaps it is being replaced; the old ones may still be good.
                Err(error) => {
                    tracing::warn!(%error, "the store's credentials cannot be read again")
                }
            }
            last.1 = Instant::now();
        }
        last.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# mine\n[default]\naws_access_key_id = AK\naws_secret_access_key=a/b+c==\n\
                        [other]\n aws_access_key_id=OK \naws_secret_access_key = s\n\
                        aws_session_token = t\n[half]\naws_access_key_id=x\n";

    fn find(
        file: Option<&Path>,
        profile: Option<&str>,
        env: &[(&str, &str)],
    ) -> Result<Credentials, CredentialsError> {
        let lookup = |name: &str| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Source::find(file, profile, &lookup).map(|source| source.current())
    }

    #[test]
    fn the_url_comes_before_the_environment_and_that_before_the_shared_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        std::fs::write(&path, FILE).unwrap();
        let shared = path.to_str().unwrap();
        let keys = [("AWS_ACCESS_KEY_ID", "EK"), ("AWS_SECRET_ACCESS_KEY", "es")];
        let both = [keys[0], keys[1], ("AWS_SHARED_CREDENTIALS_FILE", shared)];
        let default = Credentials::new("AK", "a/b+c==", None);
        let other = Credentials::new("OK", "s", Some("t".to_owned()));
        assert_eq!(find(Some(&path), None, &both).unwrap(), default);
        assert_eq!(find(Some(&path), Some("other"), &both).unwrap(), other);
        assert_eq!(find(None, None, &both).unwrap(), Credentials::new("EK", "es", None));
        assert_eq!(find(None, None, &both[2..]).unwrap(), default);
        let profile = [both[2], ("AWS_PROFILE", "other")];
        assert_eq!(find(None, None, &profile).unwrap(), other);
        assert!(matches!(find(None, None, &keys[..1]), Err(CredentialsError::None)));
    }

    #[test]
    fn errors_name_what_is_missing_and_no_values() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        std::fs::write(&path, FILE).unwrap();
        let error = find(Some(&path), Some("half"), &[]).unwrap_err().to_string();
        assert!(error.ends_with("has no aws_secret_access_key in section `half`"), "{error}");
        assert!(find(Some(&dir.path().join("none")), None, &[]).is_err());
        let debug = format!("{:?}", Credentials::new("AK", "secret", Some("token".into())));
        assert!(!debug.contains("AK") && !debug.contains("secret") && !debug.contains("token"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_replaced_file_is_seen_later_and_at_once_when_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        std::fs::write(&path, FILE).unwrap();
        let source = Source::file(&path, "default").unwrap();
        std::fs::write(&path, FILE.replace("AK", "NEW")).unwrap();
        assert_eq!(source.current().access_key, "AK");
        assert_eq!(source.newest().access_key, "NEW");
        assert_eq!(source.current().access_key, "NEW");
        std::fs::remove_file(&path).unwrap();
        tokio::time::advance(FILE_AGE_MAX * 2).await;
        assert_eq!(source.current().access_key, "NEW", "unreadable: the old ones stay");
        std::fs::write(&path, FILE).unwrap();
        tokio::time::advance(FILE_AGE_MAX * 2).await;
        assert_eq!(source.current().access_key, "AK");
    }
}
