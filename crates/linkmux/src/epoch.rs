//! One epoch of a link as a plain byte stream for the multiplexer.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures::io::{AsyncRead, AsyncWrite};
use sprite_link::frame::{self, Decoder, Frame, Hello};
use tokio::io::ReadBuf;

use crate::Io;

/// Bytes that may wait to be written before the multiplexer is told to wait.
const WRITE_BUFFER: usize = 256 * 1024;
/// Bytes read at a time.
const READ_CHUNK: usize = 256 * 1024;

/// The raw stream and what was read from it, shared by successive epochs.
pub(crate) struct Raw<T> {
    io: T,
    decoder: Decoder,
    out: BytesMut,
    /// A hello that arrived while an epoch ran: the next epoch begins with it.
    next: Option<(u32, Hello)>,
}

/// A handle to the raw stream that survives the epochs on it.
pub(crate) struct Shared<T>(Arc<Mutex<Raw<T>>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Io> Shared<T> {
    pub(crate) fn new(io: T) -> Self {
        let raw = Raw { io, decoder: Decoder::new(), out: BytesMut::new(), next: None };
        Self(Arc::new(Mutex::new(raw)))
    }

    fn lock(&self) -> MutexGuard<'_, Raw<T>> {
        self.0.lock().expect("no code path panics while it holds the link's lock")
    }

    /// Waits for the next hello, skipping everything else. An EOF is `UnexpectedEof`.
    pub(crate) async fn hello(&self) -> io::Result<(u32, Hello)> {
        std::future::poll_fn(|cx| {
            let raw = &mut *self.lock();
            if let Some(hello) = raw.next.take() {
                return Poll::Ready(Ok(hello));
            }
            loop {
                while let Some(frame) = raw.decoder.next_frame() {
                    if let Frame::Hello { epoch, hello } = frame {
                        return Poll::Ready(Ok((epoch, hello)));
                    }
                }
                ready!(raw.poll_fill(cx))?;
            }
        })
        .await
    }

    /// Refuses the last hello: nothing is believed until the next one.
    pub(crate) fn distrust(&self) {
        self.lock().decoder.mark_gap();
    }

    /// Writes a hello at once, dropping what an older epoch had not written yet.
    pub(crate) async fn send_hello(&self, epoch: u32, hello: &Hello) -> io::Result<()> {
        {
            let raw = &mut *self.lock();
            frame::encode_hello(epoch, hello, &mut raw.out);
        }
        std::future::poll_fn(|cx| self.lock().poll_drain(cx)).await
    }

    /// Returns the byte stream of one epoch.
    pub(crate) fn epoch(&self, epoch: u32) -> EpochIo<T> {
        EpochIo { shared: self.clone(), epoch, ready: Bytes::new() }
    }
}

impl<T: Io> Raw<T> {
    /// Reads more bytes into the decoder.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let buffer = self.decoder.buffer_mut();
        buffer.reserve(READ_CHUNK);
        let read = ready!(poll_read_buf(Pin::new(&mut self.io), cx, buffer))?;
        if read == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(Ok(()))
    }

    /// Writes until nothing waits.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }
}

fn poll_read_buf<T: Io>(
    io: Pin<&mut T>,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    tokio_util::io::poll_read_buf(io, cx, buffer)
}

/// The multiplexer's view: the payload of one epoch's frames, in both directions.
///
/// A hello from the other side ends it with `ConnectionReset`.
pub(crate) struct EpochIo<T> {
    shared: Shared<T>,
    epoch: u32,
    /// Payload of the frame that is being read.
    ready: Bytes,
}

impl<T: Io> AsyncRead for EpochIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut filled = ReadBuf::new(out);
        loop {
            let count = this.ready.len().min(filled.remaining());
            filled.put_slice(&this.ready.split_to(count));
            if filled.remaining() == 0 {
                return Poll::Ready(Ok(filled.filled().len()));
            }
            let raw = &mut *this.shared.lock();
            if raw.next.is_some() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            match raw.decoder.next_frame() {
                Some(Frame::Data { epoch, bytes }) if epoch == this.epoch => this.ready = bytes,
                // A late frame of an epoch that is over.
                Some(Frame::Data { .. }) => {}
                Some(Frame::Hello { epoch, hello }) => raw.next = Some((epoch, hello)),
                None if !filled.filled().is_empty() => {
                    return Poll::Ready(Ok(filled.filled().len()));
                }
                None => ready!(raw.poll_fill(cx))?,
            }
        }
    }
}

impl<T: Io> AsyncWrite for EpochIo<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let raw = &mut *self.shared.lock();
        if raw.next.is_some() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if raw.out.len() >= WRITE_BUFFER {
            ready!(raw.poll_drain(cx))?;
        }
        frame::encode_data(self.epoch, bytes, &mut raw.out);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.lock().poll_drain(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.lock().poll_drain(cx)
    }
}
