//! Decides what happens in one session; does none of it.
//!
//! The session's task ([`crate::task`]) feeds in what happened and performs the [`Effect`]s.
//!
//! # Invariants
//! - Every attachment is sent every byte of output at or after its start, once per stream, in
//!   order; a stream that takes over from a broken one goes on exactly where its host says.
//! - The process is read no further while an attachment is [`OUTPUT_WINDOW`] behind, so what an
//!   attachment lacks is always still in the log; nobody holds the process back for longer than
//!   [`PATIENCE`] without progress.
//! - `Exit` is the last frame on every stream, after all output.
//!
//! # Not here
//! I/O, and the process (`task`); finding sessions (`sessions`).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sprite_link::session::{AttachQuery, OUTPUT_WINDOW, Output, PATIENCE, SessionFrame};
use tokio::time::Instant;

use crate::attachment::{Attachment, CREDITS, Stream};
use crate::batch::{self, Batch};
use crate::input::{InputError, InputQueue};
use crate::log::OutputLog;

/// Clients that may follow one session at a time.
pub const ATTACHMENTS_MAX: usize = 64;
/// Time between the polite signal and SIGKILL when an abandoned command is ended.
pub const TERMINATION_GRACE: Duration = Duration::from_secs(5);
/// After the process ended, output is complete when this passes without any.
const DRAIN_QUIET: Duration = Duration::from_millis(100);
/// Descendants that go on writing are not waited for any longer than this.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// Why nobody can attach.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AttachError {
    /// There is no such session, or it has ended.
    #[error("session not found: {id}")]
    NotFound { id: String },
    /// Too many clients follow it.
    #[error("session has {ATTACHMENTS_MAX} attachments already")]
    TooMany,
}

impl AttachError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> sprite_types::ErrorKind {
        match self {
            Self::NotFound { .. } => sprite_types::ErrorKind::NotFound,
            Self::TooMany => sprite_types::ErrorKind::Limited,
        }
    }
}

/// Something for the session's task to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Resize {
        cols: u16,
        rows: u16,
    },
    Signal {
        number: i32,
    },
    /// Ask the abandoned process to end.
    Terminate,
    /// Make it end.
    Kill,
    /// End a stream now; if `last` is given and the stream can take it, send that first.
    Close {
        stream: u64,
        last: Option<Bytes>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// The process ended; output is read until `quiet_by` or `end_by`.
    Draining {
        code: i32,
        quiet_by: Instant,
        end_by: Instant,
    },
    Ended {
        code: i32,
    },
}

/// State of one session.
#[derive(Debug)]
pub(crate) struct Core {
    session: String,
    tty: bool,
    phase: Phase,
    log: OutputLog,
    input: InputQueue,
    attachments: Vec<Attachment>,
    next_number: u64,
    /// Until when the creator is expected; output is kept for it from the start.
    owner_by: Option<Instant>,
    max_run_unattended: Option<Duration>,
    unattended_since: Option<Instant>,
    kill_at: Option<Instant>,
    terminated: bool,
    /// After the end: when a client last made progress.
    last_progress: Instant,
    /// Bytes of output that may be outstanding, and that are kept for later.
    window: u64,
}

impl Core {
    /// Starts with a process that runs and nobody attached yet.
    pub(crate) fn new(
        session: String,
        tty: bool,
        input: bool,
        max_run_unattended: Option<Duration>,
        now: Instant,
    ) -> Self {
        let mut queue = InputQueue::default();
        if !input {
            queue.close();
        }
        Self {
            session,
            tty,
            phase: Phase::Running,
            log: OutputLog::new(),
            input: queue,
            attachments: Vec::new(),
            next_number: 1,
            owner_by: Some(now + PATIENCE),
            max_run_unattended,
            unattended_since: Some(now),
            kill_at: None,
            terminated: false,
            last_progress: now,
            window: OUTPUT_WINDOW,
        }
    }

    /// Changes how much output may be outstanding. It takes effect with the next change.
    pub(crate) fn set_window(&mut self, window: u64) {
        self.window = window.min(OUTPUT_WINDOW);
    }

    /// Returns about how much memory the session's bytes take.
    pub(crate) fn memory(&self) -> usize {
        self.log.memory() + self.input.len()
    }

    fn not_found(&self) -> AttachError {
        AttachError::NotFound { id: self.session.clone() }
    }

    /// Begins a stream, for a new attachment or one that lost its stream. `greet` makes the
    /// first message from the offsets where output and input go on.
    ///
    /// Returns the stream's number, and the effect of closing a stream that it replaces.
    pub(crate) fn attach(
        &mut self,
        query: &AttachQuery,
        greet: impl FnOnce(u64, u64) -> Bytes,
        now: Instant,
    ) -> Result<(u64, Option<Effect>), AttachError> {
        let known = self.attachments.iter().position(|a| a.id == query.attachment);
        let index = match known {
            Some(index) => index,
            None => {
                let invited = query.owner && self.owner_by.is_some();
                if matches!(self.phase, Phase::Ended { .. }) && !invited {
                    return Err(self.not_found());
                }
                if self.attachments.len() >= ATTACHMENTS_MAX {
                    return Err(AttachError::TooMany);
                }
                let from = self.log.start();
                let key = self.number();
                self.attachments.push(Attachment::new(key, query.attachment.clone(), from));
                self.attachments.len() - 1
            }
        };
        if query.owner {
            self.owner_by = None;
        }
        let number = self.number();
        let (start, end) = (self.log.start(), self.log.end());
        let attachment = &mut self.attachments[index];
        attachment.sent = query.from.unwrap_or(start).clamp(start, end);
        attachment.acked = if known.is_some() {
            attachment.acked.clamp(start, attachment.sent)
        } else {
            attachment.sent
        };
        attachment.broken_since = None;
        let greeting = greet(attachment.sent, attachment.input.taken);
        let stream = Stream { number, credits: CREDITS, greeting: Some(greeting), finished: false };
        let replaced = attachment.stream.replace(stream);
        self.last_progress = now;
        self.after_change(now);
        Ok((number, replaced.map(|old| Effect::Close { stream: old.number, last: None })))
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn position(&self, stream: u64) -> Option<usize> {
        self.attachments.iter().position(|a| a.stream.as_ref().is_some_and(|s| s.number == stream))
    }

    /// Takes a frame from a stream. Frames of streams that were replaced are ignored.
    pub(crate) fn frame(
        &mut self,
        stream: u64,
        frame: SessionFrame,
        now: Instant,
    ) -> Result<Option<Effect>, InputError> {
        let Some(index) = self.position(stream) else { return Ok(None) };
        let attachment = &mut self.attachments[index];
        match frame {
            SessionFrame::Input { offset, bytes } => {
                self.input.push(attachment.key, &mut attachment.input, offset, bytes)?;
            }
            // A terminal's input has no end; Ctrl-D is a byte like any other.
            SessionFrame::InputEof { .. } if self.tty => {}
            SessionFrame::InputEof { offset } => {
                self.input.push_eof(&attachment.input, offset)?;
            }
            SessionFrame::OutputAck { offset } => {
                let acked = offset.min(attachment.sent);
                if acked > attachment.acked {
                    attachment.acked = acked;
                    attachment.blocked_since = None;
                    self.last_progress = now;
                    self.after_change(now);
                }
            }
            SessionFrame::Detach => {
                self.attachments.remove(index);
                self.after_change(now);
                return Ok(Some(Effect::Close { stream, last: None }));
            }
            SessionFrame::Resize { cols, rows } => return Ok(Some(Effect::Resize { cols, rows })),
            SessionFrame::Signal { number } if self.phase == Phase::Running => {
                return Ok(Some(Effect::Signal { number }));
            }
            // Our own kinds echoed, or something newer than this build.
            _ => {}
        }
        Ok(None)
    }

    /// Notes that a stream is gone without a farewell: its host may come back.
    pub(crate) fn broken(&mut self, stream: u64, now: Instant) {
        if let Some(index) = self.position(stream) {
            let attachment = &mut self.attachments[index];
            attachment.stream = None;
            attachment.broken_since = Some(now);
        }
    }

    /// Notes that a stream has written a batch.
    pub(crate) fn wants(&mut self, stream: u64, now: Instant) {
        if let Some(index) = self.position(stream)
            && let Some(stream) = &mut self.attachments[index].stream
        {
            stream.credits = (stream.credits + 1).min(CREDITS);
            self.last_progress = now;
        }
    }

    /// Queues a port event for everybody attached.
    pub(crate) fn port(&mut self, event: &Bytes) {
        for attachment in &mut self.attachments {
            attachment.push_port(event.clone());
        }
    }

    /// Returns the next batch that some stream is ready for.
    pub(crate) fn next_batch(&mut self) -> Option<Batch> {
        let ended = match self.phase {
            Phase::Ended { code } => Some(code),
            _ => None,
        };
        let Self { attachments, log, .. } = self;
        attachments.iter_mut().find_map(|attachment| batch::fill(attachment, log, ended))
    }

    /// Returns the offset from which on output must be kept.
    fn floor(&self) -> u64 {
        if self.owner_by.is_some() {
            return 0;
        }
        self.attachments.iter().map(|a| a.acked).min().unwrap_or(u64::MAX)
    }

    fn is_blocked(&self) -> bool {
        let end = self.log.end();
        self.log.is_fragmented() || end.saturating_sub(self.floor()) >= self.window
    }

    /// Returns whether the process's output should be read.
    pub(crate) fn may_read(&self) -> bool {
        !matches!(self.phase, Phase::Ended { .. }) && !self.is_blocked()
    }

    /// Adds output.
    pub(crate) fn append(&mut self, output: Output, bytes: &[u8], now: Instant) {
        self.log.append(output, bytes);
        if let Phase::Draining { quiet_by, .. } = &mut self.phase {
            *quiet_by = now + DRAIN_QUIET;
        }
        self.after_change(now);
    }

    /// Brings everything that follows from the state up to date.
    fn after_change(&mut self, now: Instant) {
        let was_blocked = self.is_blocked();
        let keep = if matches!(self.phase, Phase::Ended { .. }) { 0 } else { self.window };
        self.log.trim(usize::try_from(keep).unwrap_or(usize::MAX), self.floor());
        let blocked = self.is_blocked();
        let (end, fragmented) = (self.log.end(), self.log.is_fragmented());
        for attachment in &mut self.attachments {
            let behind = end - attachment.acked;
            if behind >= self.window || (fragmented && behind > 0) {
                attachment.blocked_since.get_or_insert(now);
            } else {
                attachment.blocked_since = None;
            }
        }
        if let Phase::Draining { quiet_by, end_by, .. } = &mut self.phase
            && (was_blocked || blocked)
        {
            *quiet_by = now + DRAIN_QUIET;
            *end_by = now + DRAIN_MAX;
        }
        if self.attachments.is_empty() {
            self.unattended_since.get_or_insert(now);
        } else {
            self.unattended_since = None;
        }
    }

    /// Returns the input to write next.
    pub(crate) fn input_front(&self) -> Option<&Bytes> {
        self.input.front()
    }

    /// Returns whether the process's input must be closed now.
    pub(crate) fn input_at_eof(&self) -> bool {
        self.input.at_eof()
    }

    /// Notes that the process took `len` bytes of [`Core::input_front`].
    pub(crate) fn input_written(&mut self, len: usize) {
        let Some(key) = self.input.written(len) else { return };
        // An attachment may be gone while its input is still being written.
        if let Some(attachment) = self.attachments.iter_mut().find(|a| a.key == key) {
            attachment.input.written += len as u64;
        }
    }

    /// Notes that the process will never read again.
    pub(crate) fn input_closed(&mut self) {
        self.input.close();
        for attachment in &mut self.attachments {
            attachment.input.written = attachment.input.taken;
        }
    }

    /// Notes that the process ended.
    pub(crate) fn exited(&mut self, code: i32, now: Instant) {
        if self.phase == Phase::Running {
            let (quiet_by, end_by) = (now + DRAIN_QUIET, now + DRAIN_MAX);
            self.phase = Phase::Draining { code, quiet_by, end_by };
            self.kill_at = None;
            self.last_progress = now;
        }
    }

    /// Returns whether the process still runs.
    pub(crate) fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Returns whether the process ended and its output may be taken as complete.
    pub(crate) fn drain_is_due(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Draining { quiet_by, end_by, .. }
            if !self.is_blocked() && now >= quiet_by.min(end_by))
    }

    /// Notes that all output has been read.
    pub(crate) fn output_complete(&mut self, now: Instant) {
        if let Phase::Draining { code, .. } = self.phase {
            self.phase = Phase::Ended { code };
            self.last_progress = now;
            self.after_change(now);
        }
    }

    /// Returns whether nobody needs this session any more.
    pub(crate) fn is_finished(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Ended { .. })
            && ((self.attachments.is_empty() && self.owner_by.is_none())
                || now >= self.last_progress + PATIENCE)
    }

    /// Returns when to call [`Core::tick`] again at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let drain = match self.phase {
            Phase::Draining { quiet_by, end_by, .. } if !self.is_blocked() => {
                Some(quiet_by.min(end_by))
            }
            _ => None,
        };
        let finish =
            matches!(self.phase, Phase::Ended { .. }).then_some(self.last_progress + PATIENCE);
        let patience = self
            .attachments
            .iter()
            .flat_map(|a| [a.blocked_since, a.broken_since])
            .flatten()
            .min()
            .map(|since| since + PATIENCE);
        let all = [drain, finish, patience, self.owner_by, self.terminate_at(), self.kill_at];
        all.into_iter().flatten().min()
    }

    fn terminate_at(&self) -> Option<Instant> {
        if self.phase != Phase::Running || self.terminated {
            return None;
        }
        Some(self.unattended_since? + self.max_run_unattended?)
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        let due = |since: Option<Instant>| since.is_some_and(|since| now >= since + PATIENCE);
        self.attachments.retain(|attachment| {
            if !due(attachment.blocked_since) && !due(attachment.broken_since) {
                return true;
            }
            if let Some(stream) = &attachment.stream {
                let mut last = BytesMut::new();
                SessionFrame::Dropped.encode(&mut last);
                let last = (stream.credits > 0).then(|| last.freeze());
                effects.push(Effect::Close { stream: stream.number, last });
            }
            false
        });
        if self.owner_by.is_some_and(|by| now >= by) {
            self.owner_by = None;
        }
        self.after_change(now);
        if self.terminate_at().is_some_and(|at| now >= at) {
            self.terminated = true;
            self.kill_at = Some(now + TERMINATION_GRACE);
            effects.push(Effect::Terminate);
        }
        if self.kill_at.is_some_and(|at| now >= at) {
            self.kill_at = None;
            effects.push(Effect::Kill);
        }
        effects
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
