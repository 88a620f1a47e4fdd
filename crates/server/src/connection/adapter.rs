//! Sits between a byte stream and the HTTP library and reads every request head first.
//!
//! The library stops at targets of 65,534 bytes, and clients put whole scripts into the query.
//! This reader finds each head, and if its target is too long hands on a short one while the
//! query waits in the [`Signal`] for the service. Bodies pass through unchanged, but are
//! followed to their end, so that it knows where the next head begins.
//!
//! # Invariants
//! - The library sees one request at a time: the next head is handed on only when the answer
//!   to the last one is finished. So a stream that is switched to another protocol is never
//!   mistaken for HTTP, and at most one query is held.
//! - A refused head becomes a request of our own, which the service answers in turn; nothing
//!   after it is read.
//! - Memory: one head (at most 1 MiB + 64 KiB) or [`READ_AHEAD`] bytes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::io::poll_read_buf;

use super::body::BodyTracker;
use super::head::{self, HeadError, Scanner};
use super::signal::{Gate, Parked, Signal};

/// Bytes taken from the socket beyond the current request, while its answer is being made. They
/// are read at all only to notice that the client has left.
const READ_AHEAD: usize = 64 * 1024;
const READ_CHUNK: usize = 16 * 1024;
/// After an answer that leaves part of a request unread: how much more of it to throw away, so
/// that the client reads the answer rather than a reset.
const LINGER_BYTES: u64 = 64 * 1024 * 1024;

/// How long a connection may keep us waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// From a head's first byte (of a connection's first head: from the beginning) to its last.
    pub(crate) head: Duration,
    /// Between requests.
    pub(crate) idle: Duration,
    /// For the rest of a request that nobody will read.
    pub(crate) linger: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            linger: Duration::from_secs(2),
        }
    }
}

#[derive(Debug)]
enum State {
    /// The next bytes belong to a head, or will once the gate opens.
    Head(Scanner),
    /// The next bytes belong to a body.
    Body(BodyTracker),
    /// No longer HTTP.
    Switched,
    /// A refusal was handed on; the connection is about to close.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// Not for the client.
    No,
    FirstHead,
    NextRequest,
    RestOfHead,
}

/// The reader; writes pass through.
pub(crate) struct HeadAdapter<IO> {
    io: IO,
    signal: Arc<Signal>,
    state: State,
    /// From the client, not yet handed on.
    raw: BytesMut,
    /// A head on its way to the library.
    head: BytesMut,
    at_end: bool,
    timeouts: Timeouts,
    waiting: Waiting,
    timer: Pin<Box<Sleep>>,
    lingering: Option<u64>,
}

impl<IO> HeadAdapter<IO> {
    pub(crate) fn new(io: IO, signal: Arc<Signal>, timeouts: Timeouts) -> Self {
        Self {
            io,
            signal,
            state: State::Head(Scanner::default()),
            raw: BytesMut::new(),
            head: BytesMut::new(),
            at_end: false,
            timeouts,
            waiting: Waiting::FirstHead,
            timer: Box::pin(sleep(timeouts.head)),
            lingering: None,
        }
    }

    fn wait_for(&mut self, waiting: Waiting) {
        if self.waiting == waiting || self.waiting == Waiting::FirstHead {
            return;
        }
        self.waiting = waiting;
        let timeout = match waiting {
            Waiting::No => return,
            Waiting::NextRequest => self.timeouts.idle,
            Waiting::FirstHead | Waiting::RestOfHead => self.timeouts.head,
        };
        self.timer.as_mut().reset(Instant::now() + timeout);
    }

    fn refuse(&mut self, error: HeadError) {
        let key = self.signal.begin(Some(Parked::Refused(error)));
        let head = format!("GET /?{key} HTTP/1.1\r\nhost: -\r\nconnection: close\r\n\r\n");
        self.head = BytesMut::from(head.as_bytes());
        self.state = State::Refused;
        self.waiting = Waiting::No;
    }

    /// Hands on the head of `len` bytes at the start of `raw`.
    fn accept(&mut self, len: usize) -> Result<(), HeadError> {
        let parsed = head::parse(&self.raw[..len])?;
        if let Some(places) = parsed.oversized {
            let whole = &self.raw[..len];
            let query = String::from_utf8_lossy(&whole[places.query]).into_owned();
            let key = self.signal.begin(Some(Parked::Query(query)));
            let mut head = BytesMut::new();
            head.extend_from_slice(&whole[..places.target.start]);
            head.extend_from_slice(&whole[places.path]);
            head.extend_from_slice(b"?");
            head.extend_from_slice(key.as_bytes());
            head.extend_from_slice(&whole[places.target.end..]);
            self.head = head;
            // A copy of the few bytes that follow lets go of the large buffer.
            self.raw = BytesMut::from(&self.raw[len..]);
        } else {
            self.signal.begin(None);
            self.head = self.raw.split_to(len);
        }
        self.state = State::Body(BodyTracker::new(parsed.body));
        self.waiting = Waiting::No;
        Ok(())
    }
}

impl<IO: AsyncRead + Unpin> HeadAdapter<IO> {
    /// Reads more into `raw`; at the stream's end sets `at_end`.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.raw.capacity() - self.raw.len() < READ_CHUNK / 4 {
            self.raw.reserve(READ_CHUNK);
        }
        let count = ready!(poll_read_buf(Pin::new(&mut self.io), context, &mut self.raw))?;
        self.at_end |= count == 0;
        Poll::Ready(Ok(()))
    }

    /// Waits until the state is no longer `Head`; returns false at the end of the stream.
    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            let State::Head(scanner) = &mut self.state else { return Poll::Ready(Ok(true)) };
            match self.signal.gate(context) {
                Gate::Open => {}
                Gate::Switched => {
                    self.state = State::Switched;
                    continue;
                }
                Gate::Closed => return self.poll_gone(context),
            }
            if self.raw.starts_with(b"\r\n") {
                // An empty line before a request; some clients end their bodies with one.
                self.raw.advance(2);
                continue;
            }
            if !self.raw.is_empty() && self.raw[..] != b"\r"[..] {
                match scanner.advance(&self.raw) {
                    Ok(None) => self.wait_for(Waiting::RestOfHead),
                    Ok(Some(len)) => {
                        self.accept(len).unwrap_or_else(|error| self.refuse(error));
                        continue;
                    }
                    Err(error) => {
                        self.refuse(error);
                        continue;
                    }
                }
            } else {
                self.wait_for(Waiting::NextRequest);
            }
            if !self.at_end {
                if self.poll_fill(context)?.is_ready() {
                    continue;
                }
                ready!(self.timer.as_mut().poll(context));
                if !self.raw.is_empty() {
                    self.refuse(HeadError::TooSlow);
                    continue;
                }
            }
            return Poll::Ready(Ok(false));
        }
    }

    /// While the gate is closed: the client's leaving ends the answer, unless it has left
    /// further requests to be served.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while !self.at_end && self.raw.len() < READ_AHEAD {
            ready!(self.poll_fill(context))?;
        }
        if self.at_end && self.raw.is_empty() { Poll::Ready(Ok(false)) } else { Poll::Pending }
    }

    fn poll_body(
        &mut self,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let State::Body(tracker) = &mut self.state else { return Poll::Ready(Ok(())) };
        let broken = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        if self.raw.is_empty() {
            let start = out.filled().len();
            ready!(Pin::new(&mut self.io).poll_read(context, out))?;
            let taken = tracker.advance(&out.filled()[start..]).map_err(broken)?;
            self.raw.extend_from_slice(&out.filled()[start + taken..]);
            out.set_filled(start + taken);
        } else {
            let room = self.raw.len().min(out.remaining());
            let taken = tracker.advance(&self.raw[..room]).map_err(broken)?;
            out.put_slice(&self.raw[..taken]);
            self.raw.advance(taken);
        }
        Poll::Ready(Ok(()))
    }
}

fn put(from: &mut BytesMut, out: &mut ReadBuf<'_>) {
    let count = from.len().min(out.remaining());
    out.put_slice(&from[..count]);
    from.advance(count);
}

impl<IO: AsyncRead + Unpin> AsyncRead for HeadAdapter<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.head.is_empty() {
                put(&mut this.head, out);
                return Poll::Ready(Ok(()));
            }
            match &this.state {
                State::Head(_) => {
                    if !ready!(this.poll_head(context))? {
                        return Poll::Ready(Ok(()));
                    }
                }
                State::Body(tracker) if tracker.is_end() => {
                    this.state = State::Head(Scanner::default());
                }
                State::Body(_) => return this.poll_body(context, out),
                State::Switched if this.raw.is_empty() => {
                    return Pin::new(&mut this.io).poll_read(context, out);
                }
                State::Switched => {
                    put(&mut this.raw, out);
                    return Poll::Ready(Ok(()));
                }
                // The end of the stream would make the library drop the refusal's answer.
                State::Refused => return Poll::Pending,
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for HeadAdapter<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    /// Ends our side, and then reads what the client is still sending of a request that was
    /// answered early: closing at once would reset the connection and lose the answer.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut budget = match this.lingering {
            Some(budget) => budget,
            None => {
                ready!(Pin::new(&mut this.io).poll_shutdown(context))?;
                let unread = match &this.state {
                    State::Body(tracker) => !tracker.is_end() || !this.raw.is_empty(),
                    State::Head(_) => !this.raw.is_empty(),
                    State::Refused => true,
                    State::Switched => false,
                };
                this.timer.as_mut().reset(Instant::now() + this.timeouts.linger);
                if unread { LINGER_BYTES } else { 0 }
            }
        };
        let done = loop {
            this.raw.clear();
            if budget == 0 || this.at_end || this.timer.as_mut().poll(context).is_ready() {
                break true;
            }
            match this.poll_fill(context) {
                Poll::Ready(Ok(())) => budget = budget.saturating_sub(this.raw.len() as u64),
                Poll::Ready(Err(_)) => break true,
                Poll::Pending => break false,
            }
        };
        this.lingering = Some(if done { 0 } else { budget });
        if done { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}
