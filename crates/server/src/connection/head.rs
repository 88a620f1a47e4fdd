//! Reads one request head: where it ends, how long its body is, whether its target is too long
//! for the HTTP library.
//!
//! Stricter than the library that parses it afterwards: whatever two readers of HTTP/1 could
//! understand differently (a bare CR or LF, two lengths, a length beside chunks, folded lines)
//! is refused here, so both always agree on where a request ends.
//!
//! # Not here
//! I/O and time (`adapter`); the body's own syntax (`body`).

use std::ops::Range;

/// Longest request target, in bytes.
pub(crate) const TARGET_MAX: usize = 1024 * 1024;
/// Longest path within a target, in bytes. The library takes 65,534 with our marker in it.
pub(crate) const PATH_MAX: usize = 64 * 1024 - 256;
/// Longest head without its target, in bytes.
pub(crate) const FIELDS_MAX: usize = 64 * 1024;
/// Most header fields of one request; the library's own limit.
const FIELD_COUNT_MAX: usize = 100;
/// A longer target is handed on without its query.
const REWRITE_ABOVE: usize = 16 * 1024;
/// Room for the method, the version and their separators when only the line's length is known.
const LINE_EXTRA: usize = 64;

/// Why a head was refused. The connection closes after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("the request head is not valid HTTP/1.1: {0}")]
    Malformed(&'static str),
    #[error("the request target is longer than 1 MiB, or its path than 64 KiB")]
    TargetTooLong,
    #[error("the request's header fields are longer than 64 KiB or more than 100")]
    FieldsTooLong,
    #[error("the request head did not arrive in time")]
    TooSlow,
    #[error("CONNECT is not served here")]
    Connect,
}

impl HeadError {
    /// Returns the HTTP status of the answer.
    pub(crate) const fn status(self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::Connect => 405,
            Self::TooSlow => 408,
            Self::TargetTooLong => 414,
            Self::FieldsTooLong => 431,
        }
    }
}

/// How much follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// This many bytes; often none.
    Known(u64),
    /// Chunks, up to the empty one and its trailer.
    Chunked,
}

/// What the adapter needs to know about a whole head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) body: BodyLength,
    /// Present if the query has to be moved aside.
    pub(crate) oversized: Option<Oversized>,
}

/// Places within a head whose target is too long, as byte ranges.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Oversized {
    /// The whole target.
    pub(crate) target: Range<usize>,
    /// The part that is kept.
    pub(crate) path: Range<usize>,
    /// The query, without `?` and without a fragment.
    pub(crate) query: Range<usize>,
}

/// Finds the end of a head that arrives in pieces, looking at every byte once.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    /// Everything before this was looked at.
    at: usize,
    line_start: usize,
    /// Length of the request line, once it is whole.
    request_line: Option<usize>,
}

impl Scanner {
    /// Looks at what arrived since the last call; `head` is everything so far. Returns the
    /// head's length once it is whole.
    pub(crate) fn advance(&mut self, head: &[u8]) -> Result<Option<usize>, HeadError> {
        while let Some(found) = head[self.at..].iter().position(|&b| b == b'\r' || b == b'\n') {
            let at = self.at + found;
            if head[at] == b'\n' {
                return Err(HeadError::Malformed("a line ends without a carriage return"));
            }
            match head.get(at + 1) {
                Some(b'\n') => {}
                Some(_) => return Err(HeadError::Malformed("a carriage return within a line")),
                None => {
                    self.at = at;
                    return self.check_size(head.len()).map(|()| None);
                }
            }
            let ended = at == self.line_start && self.request_line.is_some();
            self.request_line.get_or_insert(at);
            self.line_start = at + 2;
            self.at = at + 2;
            if ended {
                return self.check_size(self.at).map(|()| Some(self.at));
            }
        }
        self.at = head.len();
        self.check_size(self.at).map(|()| None)
    }

    fn check_size(&self, len: usize) -> Result<(), HeadError> {
        match self.request_line {
            None if len > TARGET_MAX + LINE_EXTRA => Err(HeadError::TargetTooLong),
            Some(line) if line > TARGET_MAX + LINE_EXTRA => Err(HeadError::TargetTooLong),
            Some(line) if len - line > FIELDS_MAX => Err(HeadError::FieldsTooLong),
            _ => Ok(()),
        }
    }
}

/// Reads a whole head, the empty line at its end included.
pub(crate) fn parse(head: &[u8]) -> Result<Head, HeadError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELD_COUNT_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(len)) if len == head.len() => {}
        Ok(_) => return Err(HeadError::Malformed("the head's end is ambiguous")),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::FieldsTooLong),
        Err(_) => return Err(HeadError::Malformed("a line breaks the syntax")),
    }
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(HeadError::Malformed("the request line is incomplete"));
    };
    if method == "CONNECT" {
        return Err(HeadError::Connect);
    }
    let body = body_length(version, request.headers)?;
    let oversized = measure_target(method.len() + 1, target)?;
    let kept = oversized.as_ref().map_or(target, |places| &target[..places.path.len()]);
    if kept.parse::<http::Uri>().is_err() {
        // The library would refuse it too, but without a word.
        return Err(HeadError::Malformed("the request target is not a URI"));
    }
    Ok(Head { body, oversized })
}

fn body_length(version: u8, fields: &[httparse::Header<'_>]) -> Result<BodyLength, HeadError> {
    let mut length = None;
    let mut chunked = false;
    let mut hosts = 0;
    for field in fields {
        if field.name.eq_ignore_ascii_case("content-length") {
            let digits = str::from_utf8(field.value).unwrap_or_default();
            let valid =
                matches!(digits.len(), 1..=18) && digits.bytes().all(|b| b.is_ascii_digit());
            let value = digits.parse::<u64>().ok().filter(|_| valid);
            let value = value.ok_or(HeadError::Malformed("bad Content-Length"))?;
            if length.replace(value).is_some() {
                return Err(HeadError::Malformed("more than one Content-Length"));
            }
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || version == 0 || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(HeadError::Malformed("a Transfer-Encoding other than chunked"));
            }
            chunked = true;
        } else if field.name.eq_ignore_ascii_case("host") {
            hosts += 1;
        }
    }
    if hosts > 1 || (hosts == 0 && version == 1) {
        return Err(HeadError::Malformed("not exactly one Host"));
    }
    match (chunked, length) {
        (true, Some(_)) => Err(HeadError::Malformed("Content-Length beside Transfer-Encoding")),
        (true, None) => Ok(BodyLength::Chunked),
        (false, length) => Ok(BodyLength::Known(length.unwrap_or(0))),
    }
}

/// `start` is where the target begins within the head.
fn measure_target(start: usize, target: &str) -> Result<Option<Oversized>, HeadError> {
    if target.len() > TARGET_MAX {
        return Err(HeadError::TargetTooLong);
    }
    let path = target.find(['?', '#']).unwrap_or(target.len());
    if path > PATH_MAX {
        return Err(HeadError::TargetTooLong);
    }
    if target.len() <= REWRITE_ABOVE {
        return Ok(None);
    }
    let query_start = if target[path..].starts_with('?') { path + 1 } else { path };
    let query_len = target[query_start..].find('#').unwrap_or(target.len() - query_start);
    let query_len = if query_start == path { 0 } else { query_len };
    Ok(Some(Oversized {
        target: start..start + target.len(),
        path: start..start + path,
        query: start + query_start..start + query_start + query_len,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Result<Head, HeadError> {
        let mut scanner = Scanner::default();
        let len = scanner.advance(head.as_bytes())?.expect("the head is whole");
        parse(&head.as_bytes()[..len])
    }

    fn head(fields: &str) -> String {
        format!("POST /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
    }

    #[test]
    fn bodies_are_measured() {
        let length = |fields: &str| read(&head(fields)).map(|head| head.body);
        assert_eq!(length(""), Ok(BodyLength::Known(0)));
        assert_eq!(length("content-LENGTH: 17\r\n"), Ok(BodyLength::Known(17)));
        assert_eq!(length("Transfer-Encoding: Chunked\r\n"), Ok(BodyLength::Chunked));
    }

    /// Each of these has been used to smuggle one request inside another.
    #[test]
    fn ambiguous_heads_are_refused() {
        for fields in [
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: 0x1\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding:\x0bchunked\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Content-Length : 1\r\n",
            "Folded: a\r\n b\r\n",
            " Content-Length: 1\r\n",
            "Bare: a\rContent-Length: 1\r\n",
            "Bare: a\nContent-Length: 1\r\n",
            "Nul: a\0b\r\n",
            "No colon\r\n",
            "Host: other\r\n",
        ] {
            let error = read(&head(fields)).expect_err(fields);
            assert_eq!(error.status(), 400, "{fields:?}");
        }
        for whole in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: h\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET / x HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /\r\n\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "\x16\x03\x01\r\n\r\n",
            "GET /<a> HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET http:// HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET a/b HTTP/1.1\r\nHost: h\r\n\r\n",
        ] {
            assert_eq!(read(whole).expect_err(whole).status(), 400, "{whole:?}");
        }
        assert_eq!(read("CONNECT a:1 HTTP/1.1\r\nHost: h\r\n\r\n"), Err(HeadError::Connect));
    }

    #[test]
    fn long_queries_are_located_and_longer_ones_refused() {
        let target = |target: &str| read(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(target("/a?b").unwrap().oversized, None);
        let long = format!("/p/q?{}#frag", "x".repeat(100_000));
        let oversized = target(&long).unwrap().oversized.unwrap();
        assert_eq!(oversized.path, 4..8);
        assert_eq!(oversized.query, 9..100_009);
        assert_eq!(oversized.target, 4..4 + long.len());
        assert!(target(&format!("/{}", "x".repeat(TARGET_MAX - 1))).is_err());
        assert!(target(&format!("/?{}", "x".repeat(TARGET_MAX - 2))).is_ok());
        assert_eq!(
            target(&format!("/?{}", "x".repeat(TARGET_MAX - 1))),
            Err(HeadError::TargetTooLong)
        );
        assert_eq!(
            target(&format!("/?{}", "x".repeat(TARGET_MAX + 1000))),
            Err(HeadError::TargetTooLong)
        );
        assert_eq!(read(&head(&"a: b\r\n".repeat(101))), Err(HeadError::FieldsTooLong));
        let long = format!("a: {}\r\n", "x".repeat(FIELDS_MAX));
        assert_eq!(read(&head(&long)), Err(HeadError::FieldsTooLong));
    }

    /// An endless line must not be collected until memory is full.
    #[test]
    fn limits_hold_before_the_head_is_whole() {
        let mut scanner = Scanner::default();
        let line = vec![b'x'; TARGET_MAX + 1000];
        assert_eq!(scanner.advance(&line), Err(HeadError::TargetTooLong));
        let mut scanner = Scanner::default();
        let fields = [b"GET / HTTP/1.1\r\na: ".to_vec(), vec![b'x'; FIELDS_MAX]].concat();
        assert_eq!(scanner.advance(&fields), Err(HeadError::FieldsTooLong));
    }

    #[test]
    fn the_end_is_found_wherever_the_pieces_split() {
        let whole = head("a: b\r\n");
        for split in 0..whole.len() {
            let mut scanner = Scanner::default();
            assert_eq!(scanner.advance(&whole.as_bytes()[..split]), Ok(None));
            assert_eq!(scanner.advance(whole.as_bytes()), Ok(Some(whole.len())));
        }
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            if let Ok(Some(len)) = Scanner::default().advance(&bytes) {
                let _ = parse(&bytes[..len]);
            }
        }
    }
}
