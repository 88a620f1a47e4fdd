//! Where the API is: scheme, host, port and an optional path prefix.

use std::fmt;
use std::str::FromStr;

use http::Uri;

use crate::Error;

/// The address of an API server. Prints without a trailing slash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    pub(crate) tls: bool,
    /// Without brackets, as a resolver wants it.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Value of the `Host` header.
    pub(crate) authority: String,
    /// Empty, or a path that begins with `/` and does not end with one.
    pub(crate) prefix: String,
}

impl FromStr for Endpoint {
    type Err = Error;

    /// Reads `http(s)://host[:port][/prefix]`.
    ///
    /// # Errors
    /// [`Error::Address`] for anything else; also for addresses with a user or a query.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason| Error::Address { url: text.chars().take(200).collect(), reason };
        let uri: Uri = text.parse().map_err(|_| wrong("not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("it must begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("it must not contain a user or password"));
        }
        if uri.query().is_some() {
            return Err(wrong("it must not contain a query"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(wrong("it names no host"));
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self {
            tls,
            host,
            port,
            authority: authority.as_str().to_owned(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_printed_without_a_trailing_slash() {
        for (text, host, port, printed) in [
            ("http://127.0.0.1:7780", "127.0.0.1", 7780, "http://127.0.0.1:7780"),
            ("https://api.example/", "api.example", 443, "https://api.example"),
            ("http://[::1]:80/", "::1", 80, "http://[::1]:80"),
            ("https://h/a/b/", "h", 443, "https://h/a/b"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port), "{text}");
            assert_eq!(endpoint.to_string(), printed);
        }
    }

    #[test]
    fn what_is_not_an_api_address_is_refused() {
        for text in
            ["", "localhost", "ftp://h", "http://", "http://u:p@h", "http://h?x=1", "http:///x"]
        {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
