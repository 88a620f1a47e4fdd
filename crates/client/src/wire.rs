//! HTTP/1.1 request and answer heads, written and read by hand: targets may be long.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::chunked::ChunkDecoder;
use crate::target::Target;
use crate::{Endpoint, Refusal, Token};

/// Largest answer head accepted, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most headers accepted in an answer.
const HEADERS_MAX: usize = 128;
/// How much of an error's body is read, in bytes.
const ERROR_BODY_BYTES_MAX: usize = 64 * 1024;
/// How long an error's body may take.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer's head.
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
}

impl Head {
    pub(crate) fn text(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.text("transfer-encoding").eq_ignore_ascii_case("chunked")
    }
}

/// Returns a request head as bytes. `headers` must not contain line breaks.
pub(crate) fn request_head(
    method: &str,
    endpoint: &Endpoint,
    target: &Target,
    token: &Token,
    headers: &[(&str, &str)],
) -> Vec<u8> {
    let mut head = String::with_capacity(target.as_str().len() + 512);
    head.push_str(method);
    head.push(' ');
    head.push_str(&endpoint.prefix);
    head.push_str(target.as_str());
    head.push_str(" HTTP/1.1\r\nHost: ");
    head.push_str(&endpoint.authority);
    head.push_str("\r\nAuthorization: ");
    head.push_str(&token.header());
    for (name, value) in headers {
        debug_assert!(!value.contains(['\r', '\n']));
        for part in ["\r\n", name, ": ", value] {
            head.push_str(part);
        }
    }
    head.push_str("\r\n\r\n");
    head.into_bytes()
}

/// Reads an answer's head; what follows it stays in `buffer`. Skips interim (1xx) answers
/// other than 101.
pub(crate) async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> io::Result<Head> {
    loop {
        if let Some((head, used)) = parse_head(buffer)? {
            buffer.advance(used);
            if head.status >= 200 || head.status == 101 {
                return Ok(head);
            }
            continue;
        }
        if buffer.len() > HEAD_BYTES_MAX {
            return Err(invalid("the answer's head is too large"));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection was closed before the answer",
            ));
        }
    }
}

/// Parses an answer's head and returns it with its length, or `None` if more bytes are needed.
fn parse_head(bytes: &[u8]) -> io::Result<Option<(Head, usize)>> {
    let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut slots);
    let used = match response.parse(bytes) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(invalid("the answer is not HTTP")),
    };
    let mut headers = HeaderMap::new();
    for header in response.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let value = HeaderValue::from_bytes(header.value);
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let status = response.code.ok_or_else(|| invalid("the answer has no status"))?;
    Ok(Some((Head { status, headers }, used)))
}

/// Reads the rest of an answer that is an error, bounded in size and time.
pub(crate) async fn read_refusal(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    head: &Head,
) -> Refusal {
    let mut body = Vec::new();
    let read = read_error_body(stream, buffer, head, &mut body);
    // A body that breaks off is better than none.
    let _ = tokio::time::timeout(ERROR_BODY_TIMEOUT, read).await;
    Refusal::read(head.status, &head.headers, &body)
}

async fn read_error_body(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    head: &Head,
    body: &mut Vec<u8>,
) -> io::Result<()> {
    let length = head.text("content-length").parse().unwrap_or(ERROR_BODY_BYTES_MAX);
    let mut chunks = head.is_chunked().then(ChunkDecoder::default);
    while body.len() < length.min(ERROR_BODY_BYTES_MAX) {
        if let Some(chunks) = &mut chunks {
            while let Some(chunk) = chunks.next(buffer)? {
                if chunk.is_empty() {
                    return Ok(());
                }
                body.extend_from_slice(&chunk);
            }
        } else if !buffer.is_empty() {
            body.extend_from_slice(&buffer.split());
            continue;
        }
        if stream.read_buf(buffer).await? == 0 {
            break;
        }
    }
    body.truncate(length.min(ERROR_BODY_BYTES_MAX));
    Ok(())
}

pub(crate) fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_head_in_pieces_leaves_what_follows() {
        let pieces =
            ["HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 20", "0 OK\r\nA: b", "\r\n\r\n", "body"];
        let (mut stream, mut server) = tokio::io::duplex(64);
        tokio::spawn(async move {
            for piece in pieces {
                server.write_all(piece.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut buffer = BytesMut::new();
        let head = read_head(&mut stream, &mut buffer).await.unwrap();
        assert_eq!((head.status, head.text("a")), (200, "b"));
        while stream.read_buf(&mut buffer).await.unwrap() > 0 {}
        assert_eq!(&buffer[..], b"body");
    }

    #[tokio::test]
    async fn garbage_and_endless_heads_are_refused() {
        let mut buffer = BytesMut::new();
        assert!(read_head(&mut &b"SSH-2.0-x\r\n"[..], &mut buffer).await.is_err());
        let endless = [b"HTTP/1.1 200 OK\r\nA: ".to_vec(), vec![b'a'; 2 * HEAD_BYTES_MAX]].concat();
        let mut buffer = BytesMut::new();
        assert!(read_head(&mut &endless[..], &mut buffer).await.is_err());
    }

    #[tokio::test]
    async fn an_error_body_is_read_in_every_framing() {
        let json = br#"{"error":"no","message":"such sprite"}"#;
        let chunked = format!("{:x}\r\n{}\r\n0\r\n\r\n", json.len(), str::from_utf8(json).unwrap());
        for (headers, body) in [
            (format!("Content-Length: {}", json.len()), json.to_vec()),
            ("Connection: close".to_owned(), json.to_vec()),
            ("Transfer-Encoding: chunked".to_owned(), chunked.into_bytes()),
        ] {
            let answer =
                [format!("HTTP/1.1 404 X\r\n{headers}\r\n\r\n").into_bytes(), body].concat();
            let (mut stream, mut buffer) = (&answer[..], BytesMut::new());
            let head = read_head(&mut stream, &mut buffer).await.unwrap();
            let refusal = read_refusal(&mut stream, &mut buffer, &head).await;
            assert_eq!((refusal.status, refusal.to_string()), (404, "such sprite".to_owned()));
        }
    }
}
