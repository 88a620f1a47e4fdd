//! Runs a session: local stdin, stdout, terminal and signals on one side, the remote command on
//! the other.
//!
//! # Invariants
//! - Neither side can block the other: while stdout is stuck, nothing more is read from the
//!   server, and while the server is stuck, nothing more is read from stdin; signals are heard
//!   in both cases.
//! - All output is written before [`run`] returns, and the terminal has its settings back.

mod browser;
mod detach;
mod modes;
mod osc;
mod pump;
mod signals;
pub(crate) mod stdio;
pub(crate) mod terminal;
mod uplink;

use std::io::{self, IsTerminal};

use bytes::Bytes;
use sprite_client::exec::Session;
use tokio::sync::mpsc;

use self::pump::Pump;
use self::stdio::Output;
use self::terminal::RawMode;
use crate::report::WithHint;

/// What a session is like.
pub(crate) struct Setup<'a> {
    /// The sprite's name.
    pub(crate) sprite: &'a str,
    /// The command has a terminal.
    pub(crate) tty: bool,
    /// We did not start the command.
    pub(crate) attached: bool,
    /// Tell about ports that the command opens.
    pub(crate) ports: bool,
    /// Program whose absence is to be returned as [`End::NotFound`] instead of shown.
    pub(crate) optional: Option<&'a str>,
}

/// How a session ended for us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// The command ended with this code.
    Exit(u8),
    /// The user left; the session goes on if it can.
    Detached { session: Option<String> },
    /// A signal made us leave; our exit code.
    Left { code: u8, session: Option<String> },
    /// The optional program is not there.
    NotFound,
}

/// Stdin, read by its own thread from the first use on.
pub(crate) struct Stdin {
    pieces: mpsc::Receiver<Bytes>,
    ended: bool,
}

impl Stdin {
    pub(crate) fn start() -> Self {
        Self { pieces: stdio::read_stdin(), ended: false }
    }

    pub(crate) fn into_pieces(self) -> mpsc::Receiver<Bytes> {
        self.pieces
    }
}

/// Runs a session to its end. Without `stdin` none is forwarded.
pub(crate) async fn run(
    session: Session,
    setup: &Setup<'_>,
    stdin: Option<&mut Stdin>,
) -> anyhow::Result<End> {
    let raw = setup.tty && stdin.is_some() && terminal::stdin_is_terminal();
    let raw = raw.then(RawMode::enter).transpose()?;
    let output = Output::start();
    let filtered = setup.tty && io::stdout().is_terminal();
    let mut pump = Pump::new(session, setup, &output, raw.as_ref(), filtered)?;
    let end = pump.run(stdin).await;
    let hint = pump.hint();
    let goes_on = matches!(end, Ok(End::Detached { .. } | End::Left { .. }));
    let mut signals = pump.finish(goes_on).await;
    let written = tokio::select! {
        written = output.finish() => written,
        // Nobody may be reading what we write.
        () = signals.leave() => Ok(()),
    };
    drop(raw);
    if end.is_err() && setup.tty {
        // The message begins on a line of its own.
        crate::output::talk!("");
    }
    let end = match (end, hint) {
        (Err(error), Some(hint)) => return Err(error).hint(hint),
        (end, _) => end?,
    };
    written?;
    Ok(end)
}
