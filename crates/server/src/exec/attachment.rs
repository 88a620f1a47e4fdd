//! Follows one session on a guest, across broken links.
//!
//! Output and input carry absolute offsets; when the stream breaks, a new one is opened under
//! the same attachment id and says what each side has. So every byte arrives once, in order.
//!
//! # Invariants
//! - [`Attachment::next`] may be cancelled at any await and called again; nothing is lost.
//! - [`Event::Attached`] comes once and before any output; [`Event::Exit`], [`Event::Lost`],
//!   [`Event::StartFailed`] and [`Event::Dropped`] are last.
//!
//! # Not here
//! The client's socket (`socket`, `post`); what a machine is (`machine`).

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::future::BoxFuture;
use sprite_api::session::TerminalSize;
use sprite_link::guest::{Attached, PortEvent};
use sprite_link::session::{AttachQuery, Output, SessionFrame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::input::{InputBuffer, NextInput};
use super::machine::{StartError, Started, Starting, unguessable};
use super::stream::{self, ConnectError, Io};

/// Output is acknowledged in steps of this many bytes; well below the guest's window.
const ACK_STEP: u64 = 128 * 1024;
/// Bytes read at a time: few while little comes, since every open session holds this much.
const READ_BYTES_MIN: usize = 8 * 1024;
const READ_BYTES_MAX: usize = 256 * 1024;
/// Input encoded ahead of what the stream takes, in bytes.
const WRITE_BYTES: usize = 256 * 1024;
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
/// Streams in a row that may break before the guest has said anything on them.
const SILENT_BREAKS_MAX: u32 = 20;
/// Signals kept for a session that is still starting.
const SIGNALS_MAX: usize = 64;

/// What happens to a session.
pub(crate) enum Event {
    Attached(Box<Attached>),
    /// `end` is the offset behind the bytes; acknowledge it when they have been delivered.
    Output {
        output: Output,
        bytes: Bytes,
        end: u64,
    },
    Port(PortEvent),
    /// The session took input, so there may be room for more.
    InputTaken,
    Exit(i32),
    StartFailed(StartError),
    /// The guest gave up on us for being too slow.
    Dropped,
    /// The machine has ended, and the session with it.
    Lost,
}

enum Phase {
    Starting(Starting),
    Connecting { session: Started, connect: BoxFuture<'static, Result<Io, ConnectError>> },
    Following { session: Started, stream: Stream },
    Over,
}

struct Stream {
    read: ReadHalf<Io>,
    write: WriteHalf<Io>,
    unflushed: bool,
    /// The guest has said where input has to begin.
    greeted: bool,
}

/// One client's view of a session.
pub(crate) struct Attachment {
    phase: Phase,
    /// The part of the query that stays the same, and the terminal's size.
    id: String,
    owner: bool,
    size: TerminalSize,
    greeted: bool,
    silent_breaks: u32,
    /// The last frame to send is queued or sent.
    is_leaving: bool,
    inbound: BytesMut,
    read_bytes: usize,
    outbound: BytesMut,
    controls: VecDeque<SessionFrame>,
    /// Signals in `outbound`, as long as none of it was written.
    unsent_signals: Vec<i32>,
    input: InputBuffer,
    /// The next output byte wanted.
    output_next: u64,
    output_delivered: u64,
    output_acked: u64,
}

impl Attachment {
    /// Follows a command from its very start. This is its owner.
    pub(crate) fn start(starting: Starting, size: TerminalSize) -> Self {
        Self::new(Phase::Starting(starting), true, size)
    }

    /// Follows a session that runs already, beginning with what it printed lately.
    ///
    /// # Errors
    /// There is no such session, or the machine has ended.
    pub(crate) async fn attach(session: Started, size: TerminalSize) -> Result<Self, ConnectError> {
        let mut attachment = Self::new(Phase::Over, false, size);
        let io = attachment.connect(&session).await?;
        attachment.follow(session, io);
        Ok(attachment)
    }

    fn new(phase: Phase, owner: bool, size: TerminalSize) -> Self {
        Self {
            phase,
            id: unguessable(),
            owner,
            size,
            greeted: false,
            silent_breaks: 0,
            is_leaving: false,
            inbound: BytesMut::new(),
            read_bytes: READ_BYTES_MIN,
            outbound: BytesMut::new(),
            controls: VecDeque::new(),
            unsent_signals: Vec::new(),
            input: InputBuffer::default(),
            output_next: 0,
            output_delivered: 0,
            output_acked: 0,
        }
    }

    /// Returns how many bytes of input wait here.
    pub(crate) fn input_len(&self) -> u64 {
        self.input.len()
    }

    pub(crate) fn push_input(&mut self, bytes: Bytes) {
        self.input.push(bytes);
    }

    pub(crate) fn close_input(&mut self) {
        self.input.close();
    }

    /// Changes the terminal's size; of several waiting changes only the last counts.
    pub(crate) fn resize(&mut self, cols: u16, rows: u16) {
        self.size = TerminalSize { cols: Some(cols), rows: Some(rows) };
        self.controls.retain(|frame| !matches!(frame, SessionFrame::Resize { .. }));
        self.controls.push_back(SessionFrame::Resize { cols, rows });
    }

    pub(crate) fn signal(&mut self, number: i32) {
        if self.controls.len() < SIGNALS_MAX {
            self.controls.push_back(SessionFrame::Signal { number });
        }
    }

    /// Output before `end` has reached the client.
    pub(crate) fn delivered(&mut self, end: u64) {
        self.output_delivered = self.output_delivered.max(end);
    }

    /// Waits for the next event, and moves input meanwhile. Output is read only if `may_read`.
    pub(crate) async fn next(&mut self, may_read: bool) -> Event {
        loop {
            if let Some(event) = self.advance(may_read).await {
                return event;
            }
        }
    }

    /// Makes some progress, which may be an event.
    async fn advance(&mut self, may_read: bool) -> Option<Event> {
        match &mut self.phase {
            Phase::Over => std::future::pending().await,
            Phase::Starting(starting) => {
                let started = starting.await;
                self.phase = Phase::Over;
                match started {
                    Ok(session) => self.reconnect(session),
                    Err(error) => return Some(Event::StartFailed(error)),
                }
                None
            }
            Phase::Connecting { connect, .. } => {
                let result = connect.await;
                let Phase::Connecting { session, .. } =
                    std::mem::replace(&mut self.phase, Phase::Over)
                else {
                    return None;
                };
                match result {
                    Ok(io) => self.follow(session, io),
                    Err(ConnectError::Refused(failure)) if !self.greeted => {
                        return Some(Event::StartFailed(StartError::Refused(failure)));
                    }
                    // It ran; so it is lost, whatever took it.
                    Err(_) => return Some(Event::Lost),
                }
                None
            }
            Phase::Following { .. } => {
                if may_read {
                    match SessionFrame::decode(&mut self.inbound) {
                        Ok(Some(frame)) => return self.frame(frame),
                        Ok(None) => {}
                        Err(error) => {
                            tracing::warn!(%error, "session stream is damaged");
                            return self.broken();
                        }
                    }
                }
                if let Err(error) = self.exchange(may_read).await {
                    tracing::debug!(%error, "session stream broke");
                    return self.broken();
                }
                None
            }
        }
    }

    /// Reads or writes once.
    async fn exchange(&mut self, may_read: bool) -> std::io::Result<()> {
        self.fill_outbound();
        let Phase::Following { stream, .. } = &mut self.phase else { return Ok(()) };
        let Stream { read, write, unflushed, .. } = stream;
        if may_read {
            self.inbound.reserve(self.read_bytes);
        }
        let outbound = &mut self.outbound;
        let writes = !outbound.is_empty();
        let writing = async {
            if writes { write.write_buf(outbound).await } else { write.flush().await.map(|()| 0) }
        };
        tokio::select! {
            count = writing, if writes || *unflushed => {
                let count = count?;
                *unflushed = writes;
                self.unsent_signals.clear();
                if writes && count == 0 { Err(ErrorKind::WriteZero.into()) } else { Ok(()) }
            }
            count = read.read_buf(&mut self.inbound), if may_read => {
                let count = count?;
                self.read_bytes = (count * 2).clamp(READ_BYTES_MIN, READ_BYTES_MAX);
                if count == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
            }
            else => std::future::pending().await,
        }
    }

    fn fill_outbound(&mut self) {
        let ready = matches!(&self.phase, Phase::Following { stream, .. } if stream.greeted);
        if !self.outbound.is_empty() || !ready {
            return;
        }
        self.unsent_signals.clear();
        for frame in self.controls.drain(..) {
            if let SessionFrame::Signal { number } = frame {
                self.unsent_signals.push(number);
            }
            frame.encode(&mut self.outbound);
        }
        if self.output_delivered >= self.output_acked + ACK_STEP {
            self.output_acked = self.output_delivered;
            SessionFrame::OutputAck { offset: self.output_acked }.encode(&mut self.outbound);
        }
        while self.outbound.len() < WRITE_BYTES {
            match self.input.take() {
                Some(NextInput::Data { offset, bytes }) => {
                    SessionFrame::Input { offset, bytes }.encode(&mut self.outbound);
                }
                Some(NextInput::Eof { offset }) => {
                    SessionFrame::InputEof { offset }.encode(&mut self.outbound);
                }
                None => break,
            }
        }
    }

    fn frame(&mut self, frame: SessionFrame) -> Option<Event> {
        match frame {
            SessionFrame::Attached(json) => return self.attached(&json),
            SessionFrame::Output { output, offset, mut bytes } => {
                let end = offset.saturating_add(bytes.len() as u64);
                // Sent again after a break.
                let known = self.output_next.saturating_sub(offset).min(bytes.len() as u64);
                bytes.advance(usize::try_from(known).unwrap_or(bytes.len()));
                self.output_next = self.output_next.max(end);
                if !bytes.is_empty() && self.greeted {
                    return Some(Event::Output { output, bytes, end });
                }
            }
            SessionFrame::InputAck { offset } => {
                if let Err(error) = self.input.acknowledge(offset) {
                    tracing::warn!(%error, "session stream is damaged");
                    return self.broken();
                }
                return Some(Event::InputTaken);
            }
            SessionFrame::Port(json) if self.greeted => {
                return serde_json::from_slice(&json).ok().map(Event::Port);
            }
            SessionFrame::Exit { code } => return Some(Event::Exit(code)),
            SessionFrame::Dropped => return Some(Event::Dropped),
            _ => {}
        }
        None
    }

    fn attached(&mut self, json: &[u8]) -> Option<Event> {
        let Ok(attached) = serde_json::from_slice::<Attached>(json) else {
            tracing::warn!("session stream begins with something unreadable");
            return self.broken();
        };
        if let Err(error) = self.input.rewind(attached.input_from) {
            // The guest has forgotten us, and what of our input it took.
            tracing::warn!(%error, "session cannot be followed on");
            return Some(Event::Lost);
        }
        if self.greeted && attached.output_from > self.output_next {
            let missing = attached.output_from - self.output_next;
            tracing::warn!(missing, "output was lost while the link was down");
        }
        if let Phase::Following { stream, .. } = &mut self.phase {
            stream.greeted = true;
        }
        self.output_next = self.output_next.max(attached.output_from);
        self.output_acked = self.output_acked.max(attached.output_from);
        let first = !std::mem::replace(&mut self.greeted, true);
        first.then(|| Event::Attached(Box::new(attached)))
    }

    fn follow(&mut self, session: Started, io: Io) {
        let (read, write) = tokio::io::split(io);
        let stream = Stream { read, write, unflushed: false, greeted: false };
        self.phase = Phase::Following { session, stream };
    }

    /// Gives the stream up and opens another, unless that has not helped for a while.
    fn broken(&mut self) -> Option<Event> {
        let Phase::Following { session, stream } = std::mem::replace(&mut self.phase, Phase::Over)
        else {
            return None;
        };
        if self.is_leaving && self.controls.is_empty() && self.outbound.is_empty() {
            // The guest has heard our farewell and closes; to come back would undo it.
            return Some(Event::Lost);
        }
        self.silent_breaks = if stream.greeted { 0 } else { self.silent_breaks + 1 };
        if self.silent_breaks > SILENT_BREAKS_MAX {
            tracing::warn!("session cannot be followed: its streams break at once");
            return Some(Event::Lost);
        }
        self.reconnect(session);
        None
    }

    fn reconnect(&mut self, session: Started) {
        self.inbound.clear();
        self.outbound.clear();
        for number in self.unsent_signals.drain(..).rev() {
            self.controls.push_front(SessionFrame::Signal { number });
        }
        let connect = Box::pin(self.connect(&session));
        self.phase = Phase::Connecting { session, connect };
    }

    /// Opens a stream that goes on where the last one broke.
    fn connect(
        &self,
        session: &Started,
    ) -> impl Future<Output = Result<Io, ConnectError>> + Send + use<> {
        let query = AttachQuery {
            attachment: self.id.clone(),
            from: self.greeted.then_some(self.output_next),
            owner: self.owner,
            cols: self.size.cols,
            rows: self.size.rows,
        };
        let pause = RECONNECT_PAUSE * self.silent_breaks;
        let open = stream::open(session.machine.link.clone(), session.session_id, query);
        async move {
            tokio::time::sleep(pause).await;
            open.await
        }
    }

    fn is_flushed(&self) -> bool {
        let flushed = match &self.phase {
            Phase::Following { stream, .. } => stream.greeted && !stream.unflushed,
            _ => false,
        };
        flushed && self.outbound.is_empty() && self.controls.is_empty() && self.input.is_sent()
    }

    /// The client has left: passes on what it typed before, as far as the session takes it, and
    /// lets go of the session. A command that is still starting is started first.
    pub(crate) async fn leave(mut self) {
        const STARTING: Duration = Duration::from_secs(120);
        const FAREWELL: Duration = Duration::from_secs(5);
        if !matches!(timeout(STARTING, self.drain_until(|this| this.greeted)).await, Ok(true)) {
            return;
        }
        // Input that the session does not take in time is given up; the farewell is not.
        if let Ok(false) = timeout(FAREWELL, self.drain_until(Self::is_flushed)).await {
            return;
        }
        self.input.give_up();
        self.controls.push_back(SessionFrame::Detach);
        self.is_leaving = true;
        // The guest closes the stream when it has heard it. Whatever it still sends is taken
        // until then: a guest that cannot write might not read either.
        let _ = timeout(FAREWELL, self.drain_until(|_| false)).await;
    }

    /// Goes on without a client until `done`; false if the session ended first.
    async fn drain_until(&mut self, done: impl Fn(&Self) -> bool) -> bool {
        while !done(self) {
            match self.advance(true).await {
                Some(Event::Output { end, .. }) => self.delivered(end),
                Some(event) if event.is_last() => return false,
                _ => {}
            }
        }
        true
    }
}

impl Event {
    fn is_last(&self) -> bool {
        matches!(self, Self::Exit(_) | Self::StartFailed(_) | Self::Dropped | Self::Lost)
    }
}
