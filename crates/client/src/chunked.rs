//! Chunked transfer coding, chunk by chunk: in `POST …/exec` a chunk is a frame.

use std::io;

use bytes::{Buf, Bytes, BytesMut};

use crate::wire::invalid;

/// Largest chunk accepted, in bytes; the server sends at most 8 KiB.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Longest line with a chunk's size, in bytes.
const LINE_BYTES_MAX: usize = 1024;

/// Splits a body into its chunks.
#[derive(Default)]
pub(crate) struct ChunkDecoder {
    size: Option<usize>,
}

impl ChunkDecoder {
    /// Takes the next chunk out of `buffer`, or returns `None` if more bytes are needed. The
    /// last chunk is empty; trailers are not read.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Bytes>> {
        let size = match self.size {
            Some(size) => size,
            None => match take_size(buffer)? {
                Some(size) => *self.size.insert(size),
                None => return Ok(None),
            },
        };
        if size == 0 {
            return Ok(Some(Bytes::new()));
        }
        if buffer.len() < size + 2 {
            return Ok(None);
        }
        let chunk = buffer.split_to(size).freeze();
        if !buffer.starts_with(b"\r\n") {
            return Err(invalid("a chunk does not end where it should"));
        }
        buffer.advance(2);
        self.size = None;
        Ok(Some(chunk))
    }
}

fn take_size(buffer: &mut BytesMut) -> io::Result<Option<usize>> {
    let Some(end) = buffer.iter().take(LINE_BYTES_MAX).position(|&b| b == b'\n') else {
        let too_long = buffer.len() >= LINE_BYTES_MAX;
        return if too_long { Err(invalid("a chunk's size line is too long")) } else { Ok(None) };
    };
    let line = buffer.split_to(end + 1);
    let text = str::from_utf8(&line).unwrap_or("");
    let digits = text.split(';').next().unwrap_or("").trim();
    usize::from_str_radix(digits, 16)
        .ok()
        .filter(|&size| size <= CHUNK_BYTES_MAX && !digits.starts_with('+'))
        .map(Some)
        .ok_or_else(|| invalid("a chunk has no valid size"))
}

/// Returns bytes as one chunk; empty bytes end the body.
pub(crate) fn encode_chunk(data: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", data.len()).into_bytes();
    chunk.extend_from_slice(data);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_found_however_the_bytes_arrive() {
        let body =
            [encode_chunk(b"\x01hi\n"), encode_chunk(b"\x03\x00"), encode_chunk(b"")].concat();
        for step in 1..body.len() {
            let (mut decoder, mut buffer) = (ChunkDecoder::default(), BytesMut::new());
            let mut chunks = Vec::new();
            for piece in body.chunks(step) {
                buffer.extend_from_slice(piece);
                while chunks.last().is_none_or(|last: &Bytes| !last.is_empty())
                    && let Some(chunk) = decoder.next(&mut buffer).unwrap()
                {
                    chunks.push(chunk);
                }
            }
            assert_eq!(chunks, [&b"\x01hi\n"[..], b"\x03\x00", b""], "step {step}");
        }
    }

    #[test]
    fn bad_sizes_are_refused() {
        for body in ["zz\r\n", "ffffffffff\r\n", "\r\n", "-1\r\n", "+1\r\na\r\n", "1\r\nabc\r\n"] {
            let mut buffer = BytesMut::from(body);
            assert!(ChunkDecoder::default().next(&mut buffer).is_err(), "{body:?}");
        }
        let mut buffer = BytesMut::from(&[b'1'; LINE_BYTES_MAX][..]);
        assert!(ChunkDecoder::default().next(&mut buffer).is_err());
    }
}
