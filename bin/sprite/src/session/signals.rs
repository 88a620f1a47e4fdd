//! Signals that reach us, and what they mean for the session.

use std::io;

use tokio::signal::unix::{Signal as Listener, SignalKind, signal};

/// Our exit code after SIGTERM.
pub(crate) const TERMINATED: u8 = 128 + 15;

/// A signal that matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Signal {
    Interrupt,
    Terminate,
    HangUp,
    Quit,
    Resize,
    Continue,
}

/// What to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// Pass it on to the command.
    Forward(&'static str),
    /// Leave, with this exit code.
    Leave(u8),
    /// Leave a session that goes on.
    Detach,
    /// Tell the new size.
    Resize,
    /// Set the terminal up again and tell its size.
    Resume,
    Nothing,
}

/// How the session uses the terminal.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Situation {
    /// The command has a terminal.
    pub(crate) tty: bool,
    /// Ours is in raw mode: keys are not signals.
    pub(crate) raw: bool,
    /// We did not start the command.
    pub(crate) attached: bool,
    /// A signal was passed on before.
    pub(crate) repeated: bool,
}

/// Decides what a signal means. The first one is for the command, the second for us.
pub(crate) fn decide(signal: Signal, situation: Situation) -> Action {
    let forward = |name, number: u8| {
        if situation.raw || situation.repeated {
            Action::Leave(128 + number)
        } else {
            Action::Forward(name)
        }
    };
    match signal {
        Signal::Interrupt => forward("INT", 2),
        Signal::Terminate => forward("TERM", 15),
        Signal::Quit if situation.attached && !situation.tty => Action::Detach,
        Signal::Quit => forward("QUIT", 3),
        Signal::HangUp => Action::Leave(128 + 1),
        Signal::Resize if situation.tty => Action::Resize,
        Signal::Continue if situation.raw => Action::Resume,
        Signal::Resize | Signal::Continue => Action::Nothing,
    }
}

/// Listens for signals. From then on none of them ends the process by itself.
pub(crate) struct Signals {
    listeners: [(Signal, Listener); 6],
}

impl Signals {
    pub(crate) fn listen() -> io::Result<Self> {
        // 18 is SIGCONT.
        Ok(Self {
            listeners: [
                (Signal::Interrupt, signal(SignalKind::interrupt())?),
                (Signal::Terminate, signal(SignalKind::terminate())?),
                (Signal::HangUp, signal(SignalKind::hangup())?),
                (Signal::Quit, signal(SignalKind::quit())?),
                (Signal::Resize, signal(SignalKind::window_change())?),
                (Signal::Continue, signal(SignalKind::from_raw(18))?),
            ],
        })
    }

    /// Waits for the next signal.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            for (signal, listener) in &mut self.listeners {
                if listener.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*signal);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Waits for a signal that means to leave.
    pub(crate) async fn leave(&mut self) {
        while matches!(self.next().await, Signal::Resize | Signal::Continue) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ctrl_c_is_for_the_command_and_the_second_for_us() {
        let first = Situation::default();
        assert_eq!(decide(Signal::Interrupt, first), Action::Forward("INT"));
        let second = Situation { repeated: true, ..first };
        assert_eq!(decide(Signal::Interrupt, second), Action::Leave(130));
        assert_eq!(decide(Signal::Terminate, second), Action::Leave(143));
    }

    #[test]
    fn on_a_raw_terminal_signals_come_from_outside_and_mean_leave() {
        let raw = Situation { tty: true, raw: true, ..Situation::default() };
        assert_eq!(decide(Signal::Terminate, raw), Action::Leave(143));
        assert_eq!(decide(Signal::HangUp, raw), Action::Leave(129));
        assert_eq!(decide(Signal::Resize, raw), Action::Resize);
        assert_eq!(decide(Signal::Continue, raw), Action::Resume);
    }

    #[test]
    fn the_detach_key_also_leaves_a_session_without_terminal() {
        let attached = Situation { attached: true, ..Situation::default() };
        assert_eq!(decide(Signal::Quit, attached), Action::Detach);
        assert_eq!(decide(Signal::Resize, attached), Action::Nothing);
    }
}
