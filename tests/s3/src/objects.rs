//! Requests about one object.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method};
use sprite_store::{Key, ObjectInfo, sha256_hex};
use sprite_types::Timestamp;
use time::OffsetDateTime;

use crate::reply::{Refusal, Reply, with_body};
use crate::server::State;

pub(crate) async fn object(
    head: &Parts,
    key: &Key,
    body: Bytes,
    state: &State,
) -> Result<Reply, Refusal> {
    // A query other than the SDKs' note to themselves asks for what we do not have.
    let query = head.uri.query().unwrap_or_default();
    if query.split('&').any(|pair| !pair.is_empty() && !pair.starts_with("x-id=")) {
        return Err(Refusal::new(501, "NotImplemented"));
    }
    match head.method {
        Method::PUT => put(head, key, body, state).await,
        Method::GET => get(head, key, state).await,
        Method::HEAD => {
            let info = state.backend.head(key).await?;
            let mut reply = with_body(200, Bytes::new());
            describe(&mut reply, &info);
            reply.headers_mut().insert("content-length", HeaderValue::from(info.size));
            Ok(reply)
        }
        Method::DELETE => {
            state.backend.delete(key).await?;
            Ok(with_body(204, Bytes::new()))
        }
        _ => Err(Refusal::new(405, "MethodNotAllowed")),
    }
}

async fn put(head: &Parts, key: &Key, body: Bytes, state: &State) -> Result<Reply, Refusal> {
    let tag = format!("\"{}\"", &sha256_hex(&body)[..32]);
    let condition = head.headers.get("if-none-match").map(HeaderValue::as_bytes);
    match condition {
        Some(b"*") if !state.quirks().ignores_conditions => state.backend.create(key, body).await?,
        Some(b"*") | None if !head.headers.contains_key("if-match") => {
            state.backend.overwrite(key, body).await?;
        }
        _ => return Err(Refusal::new(501, "NotImplemented")),
    }
    let mut reply = with_body(200, Bytes::new());
    reply.headers_mut().insert("etag", HeaderValue::from_str(&tag).expect("hex"));
    Ok(reply)
}

async fn get(head: &Parts, key: &Key, state: &State) -> Result<Reply, Refusal> {
    let info = state.backend.head(key).await?;
    let range = head.headers.get("range").and_then(|value| value.to_str().ok());
    let range = range.filter(|_| !state.quirks().ignores_ranges);
    let mut reply = match range {
        None => with_body(200, state.backend.get(key, u64::MAX).await?.bytes),
        Some(range) => {
            let (first, last) = parse_range(range, info.size).ok_or_else(|| {
                let size = format!("bytes */{}", info.size);
                Refusal::new(416, "InvalidRange").with_header("content-range", &size)
            })?;
            let body = state.backend.get_range(key, first, last - first + 1).await?;
            let mut reply = with_body(206, body.bytes);
            let range = format!("bytes {first}-{last}/{}", info.size);
            let range = HeaderValue::from_str(&range).expect("digits");
            reply.headers_mut().insert("content-range", range);
            reply
        }
    };
    describe(&mut reply, &info);
    Ok(reply)
}

/// Returns first and last byte; `None` if the range begins beyond the end.
fn parse_range(text: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = match (first, last) {
        ("", suffix) => (size.saturating_sub(suffix.parse().ok()?), size.checked_sub(1)?),
        (first, "") => (first.parse().ok()?, size.checked_sub(1)?),
        (first, last) => {
            let last: u64 = last.parse().ok()?;
            (first.parse().ok()?, last.min(size.checked_sub(1)?))
        }
    };
    (first <= last).then_some((first, last))
}

fn describe(reply: &mut Reply, info: &ObjectInfo) {
    let headers = reply.headers_mut();
    let modified = HeaderValue::from_str(&http_date(info.modified)).expect("a date");
    headers.insert("last-modified", modified);
    headers.insert("accept-ranges", HeaderValue::from_static("bytes"));
    headers.insert("content-type", HeaderValue::from_static("application/octet-stream"));
}

/// Source: RFC 9110, *Date/Time Formats*.
fn http_date(at: Timestamp) -> String {
    let at = OffsetDateTime::from_unix_timestamp(at.as_secs());
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (weekday, month) = (at.weekday().to_string(), at.month().to_string());
    let (day, year) = (at.day(), at.year());
    let (hour, minute, second) = at.to_hms();
    format!(
        "{}, {day:02} {} {year:04} {hour:02}:{minute:02}:{second:02} GMT",
        &weekday[..3],
        &month[..3]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_the_end_of_the_object() {
        assert_eq!(parse_range("bytes=0-4", 10), Some((0, 4)));
        assert_eq!(parse_range("bytes=8-20", 10), Some((8, 9)));
        assert_eq!(parse_range("bytes=3-", 10), Some((3, 9)));
        assert_eq!(parse_range("bytes=-4", 10), Some((6, 9)));
        assert_eq!(parse_range("bytes=-40", 10), Some((0, 9)));
        for bad in ["bytes=10-11", "bytes=5-4", "bytes=a-b", "items=0-1", "bytes=-0"] {
            assert_eq!(parse_range(bad, 10), None, "{bad}");
        }
        assert_eq!(parse_range("bytes=0-0", 0), None);
    }

    #[test]
    fn dates_have_the_form_of_headers() {
        let at = Timestamp::parse_rfc3339("2015-10-21T07:28:00.9Z").unwrap();
        assert_eq!(http_date(at), "Wed, 21 Oct 2015 07:28:00 GMT");
    }
}
