//! Why a call failed.

use std::fmt;
use std::io;
use std::time::Duration;

use http::HeaderMap;
use sprite_api::ApiError;
use sprite_types::ErrorKind;

/// Why a call failed. The chain of sources tells the whole story; no part repeats another.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not an address of an API server. Correct it.
    #[error("`{url}` is not an API address: {reason}")]
    Address {
        /// The text, cut.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Nobody answers there, or TLS failed. Check the address; retry later.
    #[error("connect to {address}")]
    Connect {
        /// The API address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server took too long. Retry.
    #[error("{what}: no answer within {seconds} s")]
    Timeout {
        /// The call.
        what: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The server answered with an error; see [`Refusal`].
    #[error("{what}")]
    Refused {
        /// The call.
        what: String,
        /// What the server answered.
        #[source]
        refusal: Box<Refusal>,
    },
    /// The connection broke. Whether the call had an effect is unknown.
    #[error("{what}")]
    Transport {
        /// The call.
        what: String,
        /// What the network said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server broke the protocol; perhaps it is no API server at all.
    #[error("{what}: {reason}")]
    Protocol {
        /// The call.
        what: String,
        /// What was wrong.
        reason: String,
    },
}

impl Error {
    pub(crate) fn transport(
        what: &str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Transport { what: what.to_owned(), source: source.into() }
    }

    pub(crate) fn protocol(what: &str, reason: impl Into<String>) -> Self {
        Self::Protocol { what: what.to_owned(), reason: reason.into() }
    }

    pub(crate) fn refused(what: &str, refusal: Refusal) -> Self {
        Self::Refused { what: what.to_owned(), refusal: Box::new(refusal) }
    }

    /// Returns what the server answered, if it did.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    /// Returns the HTTP status, if the server answered.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.refusal().map(|refusal| refusal.status)
    }

    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Address { .. } => ErrorKind::Invalid,
            Self::Connect { .. } | Self::Timeout { .. } | Self::Transport { .. } => {
                ErrorKind::Unavailable
            }
            Self::Refused { refusal, .. } => refusal.kind(),
            Self::Protocol { .. } => ErrorKind::Internal,
        }
    }
}

/// An answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// The error object, or one made of the body's text.
    pub error: ApiError,
    /// How long to wait before trying again.
    pub retry_after: Option<Duration>,
    /// Names the request in the server's log.
    pub request_id: Option<String>,
}

impl Refusal {
    /// Reads the answer's head and (perhaps cut) body.
    pub(crate) fn read(status: u16, headers: &HeaderMap, body: &[u8]) -> Self {
        let error = serde_json::from_slice::<ApiError>(body)
            .unwrap_or_else(|_| ApiError::new(plain_text(body), ""));
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let retry_after = error
            .retry_after_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .filter(|&seconds| seconds > 0)
            .or_else(|| text("retry-after")?.parse().ok())
            .map(Duration::from_secs);
        let request_id = text("x-request-id").map(str::to_owned);
        Self { status, error, retry_after, request_id }
    }

    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self.status {
            400 | 405 | 413 | 414 | 416 | 422 | 431 => ErrorKind::Invalid,
            401 => ErrorKind::Unauthorized,
            403 => ErrorKind::Forbidden,
            404 => ErrorKind::NotFound,
            409 | 410 => ErrorKind::Conflict,
            429 => ErrorKind::Limited,
            501 => ErrorKind::Unsupported,
            502..=504 => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ApiError { error, message, errors, .. } = &self.error;
        let text = if message.is_empty() { error } else { message };
        if !text.is_empty() {
            f.write_str(text)?;
        } else if (300..400).contains(&self.status) {
            write!(f, "the server answered {} (redirects are not followed)", self.status)?;
        } else {
            let reason = http::StatusCode::from_u16(self.status)
                .ok()
                .and_then(|status| status.canonical_reason())
                .unwrap_or("unknown status");
            write!(f, "the server answered {} ({reason})", self.status)?;
        }
        for more in errors.iter().filter(|more| *more != text) {
            write!(f, "; {more}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// Makes a body that is not JSON presentable: one line, no control characters, no HTML pages.
fn plain_text(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(500)]);
    let text = text.trim();
    if text.starts_with('<') {
        return String::new();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_shown_before_the_code() {
        let body = br#"{"error":"sprite_creation_rate_limited","message":"too many","limit":10,
            "retry_after_seconds":30}"#;
        let refusal = Refusal::read(429, &HeaderMap::new(), body);
        assert_eq!(refusal.to_string(), "too many");
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(30)));
        assert_eq!(refusal.kind(), ErrorKind::Limited);
        assert_eq!(refusal.error.limit, Some(10));
    }

    #[test]
    fn bodies_that_are_not_json_still_say_something() {
        let read = |status, body: &[u8]| Refusal::read(status, &HeaderMap::new(), body).to_string();
        assert_eq!(read(400, b"No command\x1b[31m specified\n"), "No command [31m specified");
        assert_eq!(read(502, b"<html>"), "the server answered 502 (Bad Gateway)");
        assert!(read(302, b"").contains("redirects are not followed"));
    }

    #[test]
    fn the_header_says_when_to_retry_if_the_body_does_not() {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "7".parse().unwrap());
        let refusal = Refusal::read(503, &headers, br#"{"error":"sprite_unavailable"}"#);
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(7)));
        assert_eq!(refusal.kind(), ErrorKind::Unavailable);
    }
}
