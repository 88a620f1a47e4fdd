//! The local terminal: raw mode and size.
//!
//! # Invariants
//! - However the process ends short of SIGKILL, the terminal gets its settings back: by `Drop`,
//!   also while unwinding, and by a panic hook before the message is printed.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{self, OptionalActions, Termios};
use sprite_client::exec::TerminalSize;

/// Settings to return to; `None` while the terminal has them.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// The terminal on stdin hands every key over at once and changes nothing. Ends when dropped.
pub(crate) struct RawMode(());

impl RawMode {
    /// Enters raw mode.
    ///
    /// # Errors
    /// Stdin is no terminal.
    pub(crate) fn enter() -> io::Result<Self> {
        HOOK.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                previous(info);
            }));
        });
        let before = termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        SAVED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(before);
        let mode = Self(());
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(mode)
    }

    /// Enters raw mode once more: a shell resets the terminal while we are stopped.
    pub(crate) fn again(&self) -> io::Result<()> {
        let mut raw = termios::tcgetattr(io::stdin())?;
        raw.make_raw();
        Ok(termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(saved) = saved {
        // A terminal that is gone needs nothing.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &saved);
    }
}

/// Returns the size of the terminal we are on, if we are on one and it has a size.
pub(crate) fn size() -> Option<TerminalSize> {
    let sizes = [
        termios::tcgetwinsize(io::stdout()),
        termios::tcgetwinsize(io::stdin()),
        termios::tcgetwinsize(io::stderr()),
    ];
    sizes
        .into_iter()
        .flatten()
        .find(|size| size.ws_col > 0 && size.ws_row > 0)
        .map(|size| TerminalSize { cols: size.ws_col, rows: size.ws_row })
}

/// Whether keys come from a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}
