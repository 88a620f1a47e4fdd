//! Just enough HTTP/1.1 for one request over a unix socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use crate::Failure;

/// Where the management API listens. Source: contract, in-sprite 4.
pub(crate) const SOCKET: &str = "/.sprite/api.sock";
/// Longest line of a head or of a chunk's size, in bytes.
const LINE_MAX: u64 = 64 * 1024;
const HEADERS_MAX: usize = 128;

/// An answer whose body is still to be read.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: BufReader<Body>,
}

/// Returns the socket's path; the variable is for tests.
pub(crate) fn socket_path() -> PathBuf {
    std::env::var_os("SPRITE_API_SOCKET").map_or_else(|| SOCKET.into(), PathBuf::from)
}

/// Sends a request and reads the answer's head.
pub(crate) fn send(method: &str, path: &str, body: Option<&str>) -> Result<Answer, Failure> {
    let socket = socket_path();
    let stream = UnixStream::connect(&socket).map_err(|error| {
        let socket = socket.display();
        Failure::error(format!("connect to `{socket}`: {error}\nhint: this works inside a sprite"))
    })?;
    exchange(stream, method, path, body)
        .map_err(|error| Failure::error(format!("talk to the runtime: {error}")))
}

fn exchange(
    mut stream: UnixStream,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> io::Result<Answer> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: sprite\r\nConnection: close\r\n");
    if let Some(body) = body {
        let length = body.len();
        head += &format!("Content-Type: application/json\r\nContent-Length: {length}\r\n");
    }
    head += "\r\n";
    head += body.unwrap_or_default();
    match stream.write_all(head.as_bytes()) {
        // Answered before it was all read; the answer says why.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        result => result?,
    }
    let mut reader = BufReader::new(stream);
    let status = line(&mut reader)?;
    let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| bad("status line"))?;
    let mut length = None;
    let mut chunked = false;
    for count in 0.. {
        if count > HEADERS_MAX {
            return Err(bad("head"));
        }
        let text = line(&mut reader)?;
        if text.is_empty() {
            break;
        }
        let (name, value) = text.split_once(':').ok_or_else(|| bad("header"))?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.parse().map_err(|_| bad("length"))?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.eq_ignore_ascii_case("chunked");
        }
    }
    let state = match (chunked, length) {
        (true, _) => State::BetweenChunks { first: true },
        (false, Some(left)) => State::Left(left),
        (false, None) if status == 204 => State::Left(0),
        (false, None) => State::ToTheEnd,
    };
    Ok(Answer { status, body: BufReader::new(Body { reader, state }) })
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("bad {what}"))
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    reader.take(LINE_MAX).read_until(b'\n', &mut bytes)?;
    if bytes.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    String::from_utf8(bytes).map_err(|_| bad("text"))
}

enum State {
    /// So many bytes are left of the body.
    Left(u64),
    ToTheEnd,
    /// So many bytes are left of a chunk.
    InChunk(u64),
    BetweenChunks {
        first: bool,
    },
}

/// The body of an answer, without its framing.
pub(crate) struct Body {
    reader: BufReader<UnixStream>,
    state: State,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let State::BetweenChunks { first } = self.state {
            if !first && !line(&mut self.reader)?.is_empty() {
                return Err(bad("chunk"));
            }
            let size = line(&mut self.reader)?;
            let size = size.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| bad("chunk"))?;
            self.state = if size == 0 { State::Left(0) } else { State::InChunk(size) };
        }
        let (left, in_chunk) = match self.state {
            State::Left(left) => (left, false),
            State::InChunk(left) => (left, true),
            State::ToTheEnd | State::BetweenChunks { .. } => (u64::MAX, false),
        };
        let max = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if max == 0 {
            return Ok(0);
        }
        let len = self.reader.read(&mut buffer[..max])?;
        if len == 0 && left != u64::MAX {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let left = left.saturating_sub(len as u64);
        match (in_chunk, left) {
            (true, 0) => self.state = State::BetweenChunks { first: false },
            (true, left) => self.state = State::InChunk(left),
            (false, left) if matches!(self.state, State::Left(_)) => {
                self.state = State::Left(left);
            }
            _ => {}
        }
        Ok(len)
    }
}

/// Percent-encodes one segment of a path or value of a query.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &'static str) -> io::Result<(u16, String)> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || {
            theirs.write_all(text.as_bytes()).unwrap();
            let mut seen = [0; 64];
            let len = theirs.read(&mut seen).unwrap();
            String::from_utf8_lossy(&seen[..len]).into_owned()
        });
        let result = exchange(ours, "GET", "/v1/info", None);
        assert!(server.join().unwrap().starts_with("GET /v1/info HTTP/1.1\r\n"));
        let mut answer = result?;
        let mut body = String::new();
        answer.body.read_to_string(&mut body)?;
        Ok((answer.status, body))
    }

    #[test]
    fn bodies_of_every_framing_are_read() {
        let ok = |text| answer(text).unwrap();
        let sized = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
        assert_eq!(ok(sized), (200, "hi".into()));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                       2\r\nhi\r\n3;x=y\r\n ho\r\n0\r\n\r\n";
        assert_eq!(ok(chunked), (200, "hi ho".into()));
        assert_eq!(ok("HTTP/1.0 404 No\r\n\r\nrest"), (404, "rest".into()));
        assert_eq!(ok("HTTP/1.1 204 No Content\r\n\r\n"), (204, String::new()));
    }

    #[test]
    fn broken_answers_are_errors() {
        for text in [
            "nonsense\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhiXX",
        ] {
            assert!(answer(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_cannot_leave_their_segment() {
        assert_eq!(encode("a/../b?c d"), "a%2F..%2Fb%3Fc%20d");
    }
}
