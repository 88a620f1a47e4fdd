//! Answers of one JSON object per line.

use std::marker::PhantomData;

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use crate::Error;

/// Longest line accepted, in bytes; servers keep below 64 KiB.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Reads objects as they arrive.
pub struct JsonLines<T> {
    what: String,
    body: Incoming,
    lines: LineBuffer,
    objects: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> JsonLines<T> {
    pub(crate) fn new(what: &str, body: Incoming) -> Self {
        Self { what: what.to_owned(), body, lines: LineBuffer::default(), objects: PhantomData }
    }

    /// Returns the next object, or `None` at the end. Empty lines are skipped.
    ///
    /// # Errors
    /// The connection broke, or a line is too long or not such an object.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<T>, Error> {
        loop {
            if let Some(line) = self.lines.next() {
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|error| Error::protocol(&self.what, format!("bad line: {error}")));
            }
            if self.lines.is_too_long() {
                return Err(Error::protocol(&self.what, "a line of the answer is too long"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.lines.push(&data);
                    }
                }
                Some(Err(error)) => return Err(Error::transport(&self.what, error)),
                None if self.lines.finish() => {}
                None => return Ok(None),
            }
        }
    }
}

/// Cuts bytes into lines.
#[derive(Default)]
struct LineBuffer {
    bytes: BytesMut,
}

impl LineBuffer {
    fn push(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
    }

    /// Ends an unfinished last line; returns whether there was one.
    fn finish(&mut self) -> bool {
        let unfinished = !self.bytes.is_empty();
        if unfinished {
            self.bytes.extend_from_slice(b"\n");
        }
        unfinished
    }

    fn is_too_long(&self) -> bool {
        self.bytes.len() > LINE_BYTES_MAX
    }

    /// Takes the next line that is not blank, without its end.
    fn next(&mut self) -> Option<BytesMut> {
        while let Some(end) = self.bytes.iter().position(|&b| b == b'\n') {
            let line = self.bytes.split_to(end);
            self.bytes.advance(1);
            if !line.trim_ascii().is_empty() {
                return Some(line);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_however_the_bytes_arrive() {
        let mut lines = LineBuffer::default();
        lines.push(b"{\"a\":");
        assert_eq!(lines.next(), None);
        lines.push(b"1}\n\r\n\n{}\nrest");
        assert_eq!(lines.next().as_deref(), Some(&b"{\"a\":1}"[..]));
        assert_eq!(lines.next().as_deref(), Some(&b"{}"[..]));
        assert_eq!(lines.next(), None);
        assert!(lines.finish());
        assert_eq!(lines.next().as_deref(), Some(&b"rest"[..]));
        assert!(!lines.finish());
    }
}
