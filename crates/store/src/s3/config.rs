//! Where a bucket is.

use std::path::PathBuf;

use crate::{Key, Prefix};

/// A bucket, how to reach it, and where its credentials are; never the credentials themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Config {
    /// Name of the bucket.
    pub bucket: String,
    /// The folder of the bucket that is the store.
    pub prefix: Prefix,
    /// Region that requests are signed for.
    pub region: String,
    /// Says whether the bucket is named in the path and not in the host name.
    pub path_style: bool,
    /// File with credentials, as AWS tools write it.
    pub credentials_file: Option<PathBuf>,
    /// Section of that file.
    pub profile: Option<String>,
    /// Host, with port if it is an unusual one.
    host: String,
    secure: bool,
}

/// A text that does not say where a bucket is. Never holds what was in the text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not the address of a bucket: {0}")]
pub struct S3ConfigError(pub(crate) &'static str);

impl S3Config {
    /// Describes a bucket behind an endpoint such as `http://127.0.0.1:9000`, named in the path.
    ///
    /// # Errors
    /// If a part has an impossible form.
    pub fn at_endpoint(bucket: &str, endpoint: &str) -> Result<Self, S3ConfigError> {
        check_bucket(bucket)?;
        let (host, secure) = split_endpoint(endpoint)?;
        Ok(Self {
            bucket: bucket.to_owned(),
            prefix: Prefix::root(),
            region: "us-east-1".to_owned(),
            path_style: true,
            credentials_file: None,
            profile: None,
            host,
            secure,
        })
    }

    /// Reads what follows `s3://`: `bucket/prefix?endpoint=…&region=…&path_style=true`, also with
    /// `credentials_file=` and `profile=`. The region may come from the environment.
    pub(crate) fn parse(
        rest: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, S3ConfigError> {
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, folder) = place.split_once('/').unwrap_or((place, ""));
        check_bucket(bucket)?;
        let folder = folder.trim_end_matches('/');
        let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let prefix =
            folder.parse().map_err(|_| S3ConfigError("the folder has unusual characters"))?;
        let mut endpoint = None;
        let mut region = env("AWS_REGION").or_else(|| env("AWS_DEFAULT_REGION"));
        let (mut path_style, mut credentials_file, mut profile) = (None, None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "endpoint" => endpoint = Some(split_endpoint(&value)?),
                "region" => region = Some(value.into_owned()),
                "path_style" => {
                    let flag = value.parse();
                    path_style =
                        Some(flag.map_err(|_| S3ConfigError("`path_style` is true or false"))?);
                }
                "credentials_file" => credentials_file = Some(PathBuf::from(value.into_owned())),
                "profile" => profile = Some(value.into_owned()),
                _ => {
                    return Err(S3ConfigError(
                        "known parameters are endpoint, region, path_style, credentials_file, profile; \
                     credentials do not belong in a URL",
                    ));
                }
            }
        }
        let region = region.filter(|region| !region.is_empty());
        let region = match (region, &endpoint) {
            (Some(region), _) => region,
            (None, Some(_)) => "us-east-1".to_owned(),
            (None, None) => return Err(S3ConfigError("it needs `region=` or `endpoint=`")),
        };
        if !region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(S3ConfigError("the region has unusual characters"));
        }
        // A dot in the bucket's name would make host names that no certificate fits.
        let path_style = path_style.unwrap_or(endpoint.is_some() || bucket.contains('.'));
        let (host, secure) =
            endpoint.unwrap_or_else(|| (format!("s3.{region}.amazonaws.com"), true));
        let bucket = bucket.to_owned();
        Ok(Self { bucket, prefix, region, path_style, credentials_file, profile, host, secure })
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Returns host and path of an object, or of the bucket. Nothing in them needs encoding.
    pub(super) fn host_and_path(&self, key: Option<&Key>) -> (String, String) {
        let object = key.map(|key| format!("{}{key}", self.prefix)).unwrap_or_default();
        let Self { bucket, host, .. } = self;
        if !self.path_style {
            return (format!("{bucket}.{host}"), format!("/{object}"));
        }
        let path = if key.is_some() { format!("/{bucket}/{object}") } else { format!("/{bucket}") };
        (host.clone(), path)
    }
}

/// Source: S3, *Bucket naming rules*.
fn check_bucket(bucket: &str) -> Result<(), S3ConfigError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let fits = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(plain)
        && ends(bucket.bytes().next())
        && ends(bucket.bytes().last());
    if fits { Ok(()) } else { Err(S3ConfigError("the bucket's name is not one")) }
}

/// Returns the host, without the port if it is the usual one, and whether to use TLS.
fn split_endpoint(endpoint: &str) -> Result<(String, bool), S3ConfigError> {
    let (secure, rest) = match endpoint.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        _ => return Err(S3ConfigError("an endpoint begins with `https://` or `http://`")),
    };
    let host = rest.strip_suffix('/').unwrap_or(rest);
    let invalid = S3ConfigError("an endpoint is `https://host` or `https://host:port`");
    let authority: http::uri::Authority = host.parse().map_err(|_| invalid)?;
    // The parser lets `user:password@` through.
    if host.contains('@') || authority.host().is_empty() {
        return Err(S3ConfigError("credentials do not belong in a URL"));
    }
    let usual = if secure { ":443" } else { ":80" };
    Ok((host.strip_suffix(usual).unwrap_or(host).to_owned(), secure))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<S3Config, S3ConfigError> {
        S3Config::parse(text, &|_| None)
    }

    #[test]
    fn addresses_say_where_requests_go() {
        let key: Key = "a/b.json".parse().unwrap();
        for (text, scheme, host, path, bucket_path) in [
            (
                "my-bucket?region=eu-west-1",
                "https",
                "my-bucket.s3.eu-west-1.amazonaws.com",
                "/a/b.json",
                "/",
            ),
            (
                "my.bucket/in/here?region=eu-west-1",
                "https",
                "s3.eu-west-1.amazonaws.com",
                "/my.bucket/in/here/a/b.json",
                "/my.bucket",
            ),
            (
                "buc/?endpoint=http%3A%2F%2F127.0.0.1%3A9000",
                "http",
                "127.0.0.1:9000",
                "/buc/a/b.json",
                "/buc",
            ),
            (
                "buc/x/?endpoint=https://s3.example.org:443/&path_style=false",
                "https",
                "buc.s3.example.org",
                "/x/a/b.json",
                "/",
            ),
            ("buc?endpoint=http://[::1]:80", "http", "[::1]", "/buc/a/b.json", "/buc"),
        ] {
            let config = parse(text).unwrap();
            assert_eq!(config.scheme(), scheme, "{text}");
            assert_eq!(config.host_and_path(Some(&key)), (host.to_owned(), path.to_owned()));
            assert_eq!(config.host_and_path(None), (host.to_owned(), bucket_path.to_owned()));
        }
        let env = |name: &str| (name == "AWS_REGION").then(|| "af-south-1".to_owned());
        assert_eq!(S3Config::parse("buc", &env).unwrap().region, "af-south-1");
        let full = parse("buc?endpoint=http://h&credentials_file=/etc/s&profile=p").unwrap();
        assert_eq!(full.credentials_file, Some(PathBuf::from("/etc/s")));
        assert_eq!(full.profile.as_deref(), Some("p"));
        assert_eq!(full.region, "us-east-1");
    }

    #[test]
    fn impossible_addresses_are_refused_without_repeating_them() {
        for bad in [
            "",
            "/x",
            "Bucket?region=r",
            "b?region=r",
            "-buc?region=r",
            "buc",
            "buc?region=a/b",
            "buc/../x?region=r",
            "buc?region=r&secret_access_key=hunter2",
            "buc?endpoint=ftp://hunter2",
            "buc?endpoint=http://u:hunter2@h",
            "buc?endpoint=http://",
            "buc?endpoint=http://h/path",
            "buc?region=r&path_style=hunter2",
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
