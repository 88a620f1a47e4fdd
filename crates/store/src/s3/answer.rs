//! What a bucket answers: bodies of known length, and refusals that say what to do.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Limited};
use sprite_types::Timestamp;

use super::{Answer, text, xml};
use crate::Failure;
use crate::backend::Body;

/// Largest error answer that is read.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// Returns the length of a body, if it was said.
pub(super) fn announced(headers: &HeaderMap) -> Option<u64> {
    text(headers, "content-length").and_then(|text| text.parse().ok())
}

/// Reads a body of at most `bytes_max` bytes. One that ends early is returned as it is.
pub(super) async fn body(answer: Answer, bytes_max: u64) -> Result<Body, Failure> {
    let announced = announced(answer.headers());
    if let Some(size_bytes) = announced.filter(|size| *size > bytes_max) {
        return Err(Failure::TooLarge { size_bytes });
    }
    let mut bytes = BytesMut::with_capacity(usize::try_from(announced.unwrap_or(0)).unwrap_or(0));
    let mut incoming = answer.into_body();
    while let Some(frame) = incoming.frame().await {
        let Ok(frame) = frame else {
            let got = bytes.len();
            return Err(Failure::transient(format!("the connection broke after {got} bytes")));
        };
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() as u64 > bytes_max {
            return Err(Failure::TooLarge { size_bytes: bytes.len() as u64 });
        }
    }
    let bytes = bytes.freeze();
    // Without a length the end of the body is marked, and a missing mark is an error above.
    Ok(Body { announced: announced.unwrap_or(bytes.len() as u64), bytes })
}

/// Reads the rest of an answer of no interest, so that its connection can be used again.
pub(super) async fn drain(answer: Answer) {
    let _ = Limited::new(answer.into_body(), REFUSAL_BYTES_MAX).collect().await;
}

/// Refuses bodies that are not the object's own bytes.
pub(super) fn plain(headers: &HeaderMap) -> Result<(), Failure> {
    match text(headers, "content-encoding") {
        None | Some("" | "identity" | "aws-chunked") => Ok(()),
        Some(_) => Err(Failure::refused("the store or a proxy encodes objects on their way")),
    }
}

/// Returns first and last byte, and the object's length, of an answer to a range request.
pub(super) fn content_range(headers: &HeaderMap) -> Option<(u64, u64, Option<u64>)> {
    let value = text(headers, "content-range")?.strip_prefix("bytes ")?;
    let (range, size) = value.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, size.parse().ok()))
}

/// Reads `Wed, 21 Oct 2015 07:28:00 GMT`. Source: RFC 9110, *Date/Time Formats*.
pub(super) fn http_date(text: &str) -> Option<Timestamp> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut parts = text.split(' ').skip(1);
    let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
    let (time, zone) = (parts.next()?, parts.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    if zone != "GMT" {
        return None;
    }
    Timestamp::parse_rfc3339(&format!("{year}-{month:02}-{day:0>2}T{time}Z"))
}

/// Says what broke a connection; the texts are ours or the kernel's.
pub(super) fn connection(error: &hyper_util::client::legacy::Error) -> String {
    let mut reason = String::from(if error.is_connect() { "connect" } else { "send" });
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reason.push_str(": ");
        reason.push_str(&cause.to_string());
        source = cause.source();
    }
    reason
}

/// An answer that is no success.
pub(super) struct Refusal {
    status: StatusCode,
    /// The store's own word for it, such as `NoSuchKey`; empty if it gave none.
    code: String,
    retry_after: Option<Duration>,
    size_bytes: Option<u64>,
    region: Option<String>,
    /// Answers to HEAD have no body, so no code.
    is_head: bool,
}

impl Refusal {
    pub(super) async fn read(answer: Answer, is_head: bool) -> Self {
        let headers = answer.headers();
        let retry_after = text(headers, "retry-after").and_then(|text| text.parse().ok());
        let size = text(headers, "content-range").and_then(|text| text.strip_prefix("bytes */"));
        let mut refusal = Self {
            status: answer.status(),
            code: String::new(),
            retry_after: retry_after.map(Duration::from_secs),
            size_bytes: size.and_then(|text| text.parse().ok()),
            region: text(headers, "x-amz-bucket-region").and_then(word),
            is_head,
        };
        let body = Limited::new(answer.into_body(), REFUSAL_BYTES_MAX).collect().await;
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_else(|_| Bytes::new());
        let document = String::from_utf8_lossy(&body);
        let leaf = |path: &str, value: String| match path {
            "Code" => refusal.code = word(&value).unwrap_or_default(),
            "ActualObjectSize" => refusal.size_bytes = value.parse().ok(),
            _ => {}
        };
        // Whatever else it is, the status counts.
        let _ = xml::visit(&document, "Error", leaf);
        refusal
    }

    /// Says whether newer credentials may help.
    pub(super) fn blames_credentials(&self) -> bool {
        matches!(self.status.as_u16(), 401 | 403)
            || matches!(self.code.as_str(), "ExpiredToken" | "InvalidToken")
    }

    pub(super) fn failure(self) -> Failure {
        let status = self.status.as_u16();
        let said = if self.code.is_empty() { String::new() } else { format!(" {}", self.code) };
        let reason = format!("the store answered {status}{said}");
        let transient = |reason| Failure::Transient { reason, retry_after: self.retry_after };
        match (status, self.code.as_str()) {
            (_, "NoSuchBucket") => Failure::refused("there is no such bucket"),
            (404, "NoSuchKey" | "NotFound") => Failure::Missing,
            (404, "") if self.is_head => Failure::Missing,
            (304 | 412, _) => Failure::Taken,
            (416, _) => Failure::OutOfRange { size_bytes: self.size_bytes },
            (_, "ExpiredToken") => transient(reason),
            (_, "RequestTimeTooSkewed") => {
                Failure::Denied { reason: format!("{reason}: this host's clock is wrong") }
            }
            (401 | 403, _) => Failure::Denied { reason },
            // Two writers at once, and bodies that did not arrive as they were sent.
            (408 | 409 | 425 | 429, _)
            | (
                400,
                "RequestTimeout" | "BadDigest" | "XAmzContentSHA256Mismatch" | "IncompleteBody",
            ) => transient(reason),
            (501, _) => Failure::refused(format!("{reason}: it does not know such requests")),
            (500.., _) => transient(reason),
            (301 | 307 | 308, _) | (400, "AuthorizationHeaderMalformed") => {
                let region = self.region.map(|region| format!(" `{region}`")).unwrap_or_default();
                let hint = "set `region=` or `endpoint=` in the store's URL";
                Failure::refused(format!("{reason}: the bucket is elsewhere{region}; {hint}"))
            }
            _ => Failure::refused(reason),
        }
    }
}

/// Lets through only what is a plain word: the text comes from outside and goes into logs.
fn word(text: &str) -> Option<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    let fits = !text.is_empty() && text.len() <= 64 && text.bytes().all(plain);
    fits.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use sprite_types::ErrorKind;

    use super::*;
    use crate::{Operation, StoreError};

    fn failure(status: u16, code: &str) -> Failure {
        Refusal {
            status: StatusCode::from_u16(status).unwrap(),
            code: code.to_owned(),
            retry_after: None,
            size_bytes: None,
            region: Some("eu-west-1".to_owned()),
            is_head: false,
        }
        .failure()
    }

    #[test]
    fn refusals_say_what_to_do() {
        for (status, code) in [
            (500, "InternalError"),
            (503, "SlowDown"),
            (429, ""),
            (502, ""),
            (409, "ConditionalRequestConflict"),
            (400, "BadDigest"),
            (400, "ExpiredToken"),
        ] {
            assert!(matches!(failure(status, code), Failure::Transient { .. }), "{status} {code}");
        }
        for (status, code) in [(403, "AccessDenied"), (403, "SignatureDoesNotMatch"), (401, "")] {
            assert!(matches!(failure(status, code), Failure::Denied { .. }), "{status} {code}");
        }
        for (status, code) in [
            (404, "NoSuchBucket"),
            (400, "InvalidArgument"),
            (301, "PermanentRedirect"),
            (501, "NotImplemented"),
            (405, ""),
            (404, "SomethingElse"),
            (404, ""),
        ] {
            assert!(matches!(failure(status, code), Failure::Refused { .. }), "{status} {code}");
        }
        assert_eq!(failure(412, "PreconditionFailed"), Failure::Taken);
        assert_eq!(failure(404, "NoSuchKey"), Failure::Missing);
        let elsewhere = failure(301, "PermanentRedirect").to_string();
        assert!(elsewhere.contains("`eu-west-1`") && elsewhere.contains("region="), "{elsewhere}");
        let denied = StoreError::Denied {
            operation: Operation::Get,
            name: "a".to_owned(),
            source: failure(403, "RequestTimeTooSkewed"),
        };
        assert_eq!(denied.kind(), ErrorKind::Forbidden);
    }

    #[test]
    fn words_from_outside_are_plain() {
        assert_eq!(word("NoSuchKey"), Some("NoSuchKey".to_owned()));
        for bad in ["", "a b", "a\nb", "<x>", &"x".repeat(65)] {
            assert_eq!(word(bad), None);
        }
    }

    #[test]
    fn dates_of_headers_are_read() {
        let at = http_date("Wed, 21 Oct 2015 07:28:00 GMT").unwrap();
        assert_eq!(at.rfc3339(), "2015-10-21T07:28:00.000000Z");
        for bad in ["", "Wed, 21 Oct 2015 07:28:00 CET", "Wed, 99 Oct 2015 07:28:00 GMT", "x y z"] {
            assert_eq!(http_date(bad), None, "{bad}");
        }
    }
}
