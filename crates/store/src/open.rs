//! From a URL to a store.

use std::path::PathBuf;
use std::sync::Arc;

use crate::s3::{CredentialsError, S3, S3Config, S3ConfigError};
use crate::{Ambient, LocalError, LocalFolder, Store, StoreSettings};

/// A store could not be opened. Texts do not repeat the URL.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is of no kind that is known.
    #[error("a store is `file:///folder` or `s3://bucket/folder?endpoint=…&region=…`")]
    Url,
    /// The URL of a bucket is wrong.
    #[error(transparent)]
    S3(#[from] S3ConfigError),
    /// The bucket's credentials cannot be had.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The folder cannot be used.
    #[error(transparent)]
    Local(#[from] LocalError),
}

/// Where a store is, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A folder of this host.
    Folder(PathBuf),
    /// A bucket.
    S3(S3Config),
}

impl Location {
    /// Reads `file:///folder` (with `%` escapes) or `s3://bucket/folder?…`.
    ///
    /// `env` looks up environment variables; of those only `AWS_REGION` and
    /// `AWS_DEFAULT_REGION` are read here.
    ///
    /// # Errors
    /// If the text is neither.
    pub fn parse(url: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, OpenError> {
        if let Some(rest) = url.strip_prefix("s3://") {
            return Ok(Self::S3(S3Config::parse(rest, env)?));
        }
        let path = url.strip_prefix("file://").ok_or(OpenError::Url)?;
        let plain = path.starts_with('/') && !path.contains(['?', '#']);
        let path = percent_encoding::percent_decode_str(path).decode_utf8();
        match path {
            Ok(path) if plain && !path.contains('\0') => {
                Ok(Self::Folder(PathBuf::from(path.into_owned())))
            }
            _ => Err(OpenError::Url),
        }
    }
}

impl Store {
    /// Opens the store that a URL names: `file:///folder`, which is made if it is missing, or
    /// `s3://bucket/folder?endpoint=…&region=…&path_style=true`, which is not contacted yet. See
    /// [`Store::probe`].
    ///
    /// Credentials of a bucket are read from the file that `credentials_file=` names (section
    /// `profile=`), from `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, or
    /// from the file that `AWS_SHARED_CREDENTIALS_FILE` names.
    ///
    /// # Errors
    /// If the URL is wrong, the folder cannot be used or the credentials are not found.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn open(
        url: &str,
        settings: StoreSettings,
        ambient: Ambient,
    ) -> Result<Self, OpenError> {
        let env = |name: &str| std::env::var(name).ok();
        match Location::parse(url, &env)? {
            Location::S3(config) => {
                let s3 = S3::new(config, &env, settings.clone(), &ambient)?;
                Ok(Self::new(Arc::new(s3), settings, ambient))
            }
            Location::Folder(path) => {
                let for_open = ambient.clone();
                let open = tokio::task::spawn_blocking(move || LocalFolder::open(path, &for_open));
                let folder = open.await.expect("opening a folder does not panic")?;
                Ok(Self::new(Arc::new(folder), settings, ambient))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_folders_and_buckets() {
        let parse = |url: &str| Location::parse(url, &|_| None);
        let folder = parse("file:///var/lib/my%20store").unwrap();
        assert_eq!(folder, Location::Folder("/var/lib/my store".into()));
        assert!(matches!(parse("s3://buc/x?region=r"), Ok(Location::S3(_))));
        for bad in ["", "/var/lib", "file://host/x", "file:x", "http://x", "file:///a?b", "s3:buc"]
        {
            assert!(matches!(parse(bad), Err(OpenError::Url)), "{bad}");
        }
    }
}
