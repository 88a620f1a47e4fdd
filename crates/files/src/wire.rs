//! Frames between the agent and a helper, over one unix socket.
//!
//! ```text
//! frame = kind u8 | len u32 little-endian | payload
//! agent to helper:  request, then (of a write) data… end
//! helper to agent:  alive…, head, (data | alive)…, end
//! ```
//! Without its `end` a body is incomplete. The agent trusts a helper no more than the user's
//! own programs: lengths are bounded, and bodies are passed on unread.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Bytes before the payload.
pub(crate) const HEADER_LEN: usize = 5;
/// Largest payload, in bytes.
pub(crate) const PAYLOAD_MAX: usize = 256 * 1024;
/// How often a helper that is busy says so.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// Kinds of frames.
pub(crate) const REQUEST: u8 = b'Q';
pub(crate) const HEAD: u8 = b'H';
pub(crate) const DATA: u8 = b'D';
pub(crate) const END: u8 = b'E';
pub(crate) const ALIVE: u8 = b'A';

/// How an answer begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// HTTP status.
    pub status: u16,
    /// Whether the body is JSON; otherwise it is a file's bytes.
    pub json: bool,
    /// Length of the body in bytes, if known.
    pub length: Option<u64>,
    /// Of partial content: first byte, last byte (included), size of the file.
    pub range: Option<(u64, u64, u64)>,
}

/// Returns a frame's header.
pub(crate) fn header(kind: u8, len: usize) -> [u8; HEADER_LEN] {
    let len = u32::try_from(len).expect("payloads are at most 256 KiB");
    let [a, b, c, d] = len.to_le_bytes();
    [kind, a, b, c, d]
}

/// Reads a frame's header; an error if the payload is longer than allowed.
pub(crate) fn parse_header(header: [u8; HEADER_LEN]) -> io::Result<(u8, usize)> {
    let [kind, a, b, c, d] = header;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    if len > PAYLOAD_MAX {
        return Err(io::Error::other("frame longer than allowed"));
    }
    Ok((kind, len))
}

/// The helper's end: blocking.
pub(crate) struct Channel {
    stream: UnixStream,
    last_sent: Instant,
    /// A frame that was read ahead.
    peeked: Option<(u8, Vec<u8>)>,
}

impl Channel {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, last_sent: Instant::now(), peeked: None }
    }

    /// Reads the next frame. The buffer given is used again.
    pub(crate) fn receive(&mut self, mut buffer: Vec<u8>) -> io::Result<(u8, Vec<u8>)> {
        if let Some(peeked) = self.peeked.take() {
            return Ok(peeked);
        }
        let mut header = [0; HEADER_LEN];
        self.stream.read_exact(&mut header)?;
        let (kind, len) = parse_header(header)?;
        buffer.resize(len, 0);
        self.stream.read_exact(&mut buffer)?;
        Ok((kind, buffer))
    }

    /// Returns the next frame's kind and leaves it to be received.
    pub(crate) fn peek(&mut self) -> io::Result<u8> {
        let frame = self.receive(Vec::new())?;
        let kind = frame.0;
        self.peeked = Some(frame);
        Ok(kind)
    }

    /// Sends a frame of at most [`PAYLOAD_MAX`] bytes.
    pub(crate) fn send(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        self.stream.write_all(&header(kind, payload.len()))?;
        self.stream.write_all(payload)?;
        self.last_sent = Instant::now();
        Ok(())
    }

    /// Sends data whose first [`HEADER_LEN`] bytes are room for the header.
    pub(crate) fn send_framed(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let len = buffer.len() - HEADER_LEN;
        buffer[..HEADER_LEN].copy_from_slice(&header(DATA, len));
        self.stream.write_all(buffer)?;
        self.last_sent = Instant::now();
        Ok(())
    }

    /// Sends a whole answer.
    pub(crate) fn answer(&mut self, head: &Head, body: &[u8]) -> io::Result<()> {
        self.send(HEAD, &serde_json::to_vec(head)?)?;
        for chunk in body.chunks(PAYLOAD_MAX) {
            self.send(DATA, chunk)?;
        }
        self.send(END, &[])
    }

    /// Says, if it was not said lately, that work goes on.
    pub(crate) fn alive(&mut self) -> io::Result<()> {
        if self.last_sent.elapsed() < ALIVE_EVERY {
            return Ok(());
        }
        self.send(ALIVE, &[])
    }
}
