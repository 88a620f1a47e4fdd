//! Commands over `POST …/exec`: input in the body, one chunk per output frame.

use std::io;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use sprite_api::exec as frames;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::chunked::{ChunkDecoder, encode_chunk};
use crate::connect::Stream;
use crate::exec::{Event, ExecRequest};
use crate::wire;
use crate::{Error, SpriteClient};

/// How long the answer's head may take; waking a sprite is part of it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A command started by `POST`. Dropping it closes the connection.
pub struct PostedExec {
    what: String,
    reader: ReadHalf<Stream>,
    buffer: BytesMut,
    chunks: ChunkDecoder,
    ended: bool,
    upload: Upload,
}

/// Writes the input while the output is read.
struct Upload(JoinHandle<()>);

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl SpriteClient {
    /// Starts a command with the pieces of `stdin` as its input; it ends with the channel.
    /// Without `stdin` the command has none. Terminals, detaching and attaching are not
    /// possible here and ignored.
    ///
    /// # Errors
    /// As every call.
    pub async fn exec_post(
        &self,
        request: &ExecRequest,
        stdin: Option<mpsc::Receiver<Bytes>>,
    ) -> Result<PostedExec, Error> {
        let program = request.argv.first().map_or("", String::as_str);
        let what = format!("run `{program}` in `{}`", self.name);
        let target = request.add_common(self.target().segment("exec"));
        let target = target.flag("stdin", stdin.is_some());
        let client = &self.client;
        let body = match stdin {
            Some(_) => ("Transfer-Encoding", "chunked"),
            None => ("Content-Length", "0"),
        };
        let headers = [body, ("Connection", "close"), ("User-Agent", client.user_agent())];
        let head = wire::request_head("POST", client.endpoint(), &target, client.token(), &headers);

        let begin = Instant::now();
        let stream = client.connector().connect().await?;
        let (mut reader, writer) = tokio::io::split(stream);
        // Ends with the answer at the latest: a server that does not read all input has its
        // reasons, and tells them in the answer.
        let upload = Upload(tokio::spawn(async move {
            let _ = send(writer, head, stdin).await;
        }));
        let mut buffer = BytesMut::with_capacity(16 * 1024);
        let answer = wire::read_head(&mut reader, &mut buffer);
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, answer)
            .await
            .map_err(|_| Error::Timeout { what: what.clone(), seconds: ANSWER_TIMEOUT.as_secs() })?
            .map_err(|error| Error::transport(&what, error))?;
        let elapsed_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(path = target.path(), status = answer.status, elapsed_ms, "exec answered");
        if answer.status != 200 {
            let refusal = wire::read_refusal(&mut reader, &mut buffer, &answer).await;
            return Err(Error::refused(&what, refusal));
        }
        if !answer.is_chunked() {
            return Err(Error::protocol(&what, "the answer has no frames (it is not chunked)"));
        }
        let chunks = ChunkDecoder::default();
        Ok(PostedExec { what, reader, buffer, chunks, ended: false, upload })
    }
}

async fn send(
    mut writer: WriteHalf<Stream>,
    head: Vec<u8>,
    stdin: Option<mpsc::Receiver<Bytes>>,
) -> io::Result<()> {
    writer.write_all(&head).await?;
    writer.flush().await?;
    let Some(mut stdin) = stdin else { return Ok(()) };
    while let Some(data) = stdin.recv().await {
        if !data.is_empty() {
            writer.write_all(&encode_chunk(&data)).await?;
            writer.flush().await?;
        }
    }
    writer.write_all(b"0\r\n\r\n").await?;
    writer.flush().await
}

impl PostedExec {
    /// Returns the next event, or `None` after [`Event::Exit`].
    ///
    /// # Errors
    /// The connection broke or the answer ended without an exit code.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        while !self.ended {
            let broken = |error| Error::transport(&self.what, error);
            match self.chunks.next(&mut self.buffer).map_err(broken)? {
                Some(chunk) if chunk.is_empty() => return Err(self.cut_off()),
                Some(chunk) => {
                    if let Some(event) = read_frame(chunk) {
                        self.ended = matches!(event, Event::Exit(_));
                        return Ok(Some(event));
                    }
                }
                None => {
                    self.buffer.reserve(16 * 1024);
                    if self.reader.read_buf(&mut self.buffer).await.map_err(broken)? == 0 {
                        return Err(self.cut_off());
                    }
                }
            }
        }
        self.upload.0.abort();
        Ok(None)
    }

    fn cut_off(&self) -> Error {
        Error::transport(&self.what, "the connection was closed before the command ended")
    }
}

fn read_frame(mut chunk: Bytes) -> Option<Event> {
    match chunk.split_to(1)[0] {
        frames::STDOUT => Some(Event::Stdout(chunk)),
        frames::STDERR => Some(Event::Stderr(chunk)),
        frames::EXIT => chunk.first().map(|&code| Event::Exit(code)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_apart_by_their_first_byte() {
        let read = |bytes: &'static [u8]| read_frame(Bytes::from_static(bytes));
        assert_eq!(read(b"\x01a"), Some(Event::Stdout("a".into())));
        assert_eq!(read(b"\x02b"), Some(Event::Stderr("b".into())));
        assert_eq!(read(b"\x03\x7f"), Some(Event::Exit(127)));
        assert_eq!(read(b"\x03"), None);
        assert_eq!(read(b"\x09"), None);
    }
}
