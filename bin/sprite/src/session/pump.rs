//! The loop of one session.

use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sprite_client::exec::{Event, Session, SessionOutput};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use super::browser::Browser;
use super::osc::Filter;
use super::signals::{Action, Signal, Signals, Situation, TERMINATED, decide};
use super::stdio::{Output, Stream};
use super::terminal::{self, RawMode};
use super::uplink::{Control, Input, Uplink};
use super::{End, Setup, Stdin, detach};

/// How often the server hears from us.
const PING_PERIOD: Duration = Duration::from_secs(15);
/// Silence after which the connection counts as lost; servers send something every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Most output that is held back to see whether a program is missing, in bytes.
const HELD_BYTES_MAX: usize = 512;
/// How long a command may take to end after SIGTERM was passed on; whoever sent it waits too.
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long closing may take.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

pub(super) struct Pump<'a> {
    setup: &'a Setup<'a>,
    output: &'a Output,
    raw: Option<&'a RawMode>,
    downlink: SessionOutput,
    uplink: Option<Uplink>,
    signals: Signals,
    filter: Option<Filter>,
    browser: Browser,
    session: Option<String>,
    /// Output that waits for room.
    queue: VecDeque<(Stream, Bytes)>,
    /// Output of a program that may turn out to be missing.
    held: Option<BytesMut>,
    signalled: bool,
    ports_explained: bool,
}

impl<'a> Pump<'a> {
    pub(super) fn new(
        session: Session,
        setup: &'a Setup<'a>,
        output: &'a Output,
        raw: Option<&'a RawMode>,
        filtered: bool,
    ) -> io::Result<Self> {
        Ok(Self {
            setup,
            output,
            raw,
            downlink: session.output,
            uplink: Some(Uplink::start(session.input)),
            signals: Signals::listen()?,
            filter: filtered.then(|| Filter::new(setup.sprite)),
            browser: Browser::default(),
            session: None,
            queue: VecDeque::new(),
            held: setup.optional.map(|_| BytesMut::new()),
            signalled: false,
            ports_explained: false,
        })
    }

    pub(super) async fn run(&mut self, mut stdin: Option<&mut Stdin>) -> anyhow::Result<End> {
        let mut ping = interval_at(Instant::now() + PING_PERIOD, PING_PERIOD);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut waiting: Option<Input> = None;
        let mut leaving = false;
        let mut terminate_at = None;
        let input = self.uplink.as_ref().map(|uplink| uplink.input.clone());
        let input = input.expect("the uplink lives until `finish`");
        if self.setup.tty && self.setup.attached {
            // The attach told the size it began with; it may have changed since.
            self.resize();
        }
        loop {
            let readable = stdin.as_ref().is_some_and(|stdin| !stdin.ended) && waiting.is_none();
            tokio::select! {
                event = self.downlink.next(), if self.queue.is_empty() => {
                    heard = Instant::now();
                    match event? {
                        Some(event) => if let Some(end) = self.event(event) { return Ok(end) },
                        None => anyhow::bail!("the session ended without an exit code"),
                    }
                }
                room = self.output.room(), if !self.queue.is_empty() => {
                    heard = Instant::now();
                    match (room, self.queue.pop_front()) {
                        (Ok(room), Some(piece)) => room.send(piece),
                        // Stdout is gone; `Output::finish` says why.
                        _ => return Ok(End::Exit(1)),
                    }
                }
                piece = next_piece(&mut stdin), if readable => {
                    waiting = Some(match piece {
                        Some(typed) => match self.detach_key(&typed) {
                            Some(at) => {
                                leaving = true;
                                Input::Data(typed.slice(..at))
                            }
                            None => Input::Data(typed),
                        },
                        None => {
                            stdin.as_mut().expect("it was read just now").ended = true;
                            Input::End
                        }
                    });
                }
                room = input.reserve(), if waiting.is_some() => {
                    match (room, waiting.take()) {
                        (Ok(room), Some(input)) => room.send(input),
                        // The network is gone; the downlink says why.
                        _ => if let Some(stdin) = &mut stdin { stdin.ended = true },
                    }
                    if leaving {
                        return Ok(End::Detached { session: self.session.clone() });
                    }
                }
                signal = self.signals.next() => {
                    let situation = Situation {
                        tty: self.setup.tty,
                        raw: self.raw.is_some(),
                        attached: self.setup.attached,
                        repeated: self.signalled,
                    };
                    if let Some(end) = self.act(decide(signal, situation)) { return Ok(end) }
                    if signal == Signal::Terminate {
                        terminate_at.get_or_insert(Instant::now() + TERMINATE_TIMEOUT);
                    }
                }
                _ = ping.tick() => {
                    self.control(Control::Ping);
                    if self.queue.is_empty() && heard.elapsed() > SILENCE_MAX {
                        anyhow::bail!(
                            "the connection to sprite `{}` was lost: nothing heard for {} s",
                            self.setup.sprite,
                            SILENCE_MAX.as_secs()
                        );
                    }
                }
                () = self.output.broken() => return Ok(End::Exit(1)),
                () = sleep_until(terminate_at.unwrap_or(heard)), if terminate_at.is_some() => {
                    return Ok(self.left(TERMINATED));
                }
            }
        }
    }

    /// Returns how to come back to a session that may go on without us.
    pub(super) fn hint(&self) -> Option<String> {
        let id = self.session.as_ref().filter(|_| self.setup.tty || self.setup.attached)?;
        Some(format!("if it still runs: sprite attach {id} -s {}", self.setup.sprite))
    }

    /// Writes what is held back, undoes what the session did to the terminal, and leaves: a
    /// session that goes on gets all input typed so far.
    pub(super) async fn finish(mut self, goes_on: bool) -> Signals {
        self.release();
        if let Some(filter) = &mut self.filter {
            self.queue.push_back((Stream::Stdout, filter.finish().into()));
        }
        for (stream, data) in std::mem::take(&mut self.queue) {
            self.output.put(stream, data).await;
        }
        if let Some(uplink) = self.uplink.take().filter(|_| goes_on) {
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, uplink.close()).await;
        }
        self.signals
    }

    fn event(&mut self, event: Event) -> Option<End> {
        match event {
            Event::Info(info) => self.session = Some(info.session_id),
            Event::Stdout(data) => self.stdout(data),
            Event::Stderr(data) => {
                self.release();
                self.queue.push_back((Stream::Stderr, data));
            }
            Event::Exit(127) if self.held.as_ref().is_some_and(|held| !held.is_empty()) => {
                self.held = None;
                return Some(End::NotFound);
            }
            Event::Exit(code) => return Some(End::Exit(code)),
            Event::PortOpened(port) => self.port_opened(port),
            Event::PortClosed(_) | Event::Alive => {}
        }
        None
    }

    fn stdout(&mut self, data: Bytes) {
        let Some(held) = &mut self.held else { return self.show(data) };
        held.extend_from_slice(&data);
        if !may_be_missing(held, self.setup.optional.unwrap_or_default()) {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Some(held) = self.held.take() {
            self.show(held.freeze());
        }
    }

    fn show(&mut self, data: Bytes) {
        let Some(filter) = &mut self.filter else {
            return self.queue.push_back((Stream::Stdout, data));
        };
        let filtered = filter.push(&data);
        self.queue.push_back((Stream::Stdout, filtered.bytes.into()));
        for link in filtered.links {
            if let Some(url) = self.browser.open(&link) {
                let text = format!("\r\nOpen in your browser: {url}\r\n");
                self.queue.push_back((Stream::Stdout, text.into()));
            }
        }
    }

    fn port_opened(&mut self, port: u16) {
        // On a terminal session a line of ours would land in the middle of somebody's screen.
        if !self.setup.ports || self.setup.tty || !io::stderr().is_terminal() {
            return;
        }
        let mut text = format!("Port {port} is open in `{}`.\n", self.setup.sprite);
        if !std::mem::replace(&mut self.ports_explained, true) {
            text.insert_str(text.len() - 1, " (Ports are not forwarded to here yet.)");
        }
        self.queue.push_back((Stream::Stderr, text.into()));
    }

    fn detach_key(&self, typed: &[u8]) -> Option<usize> {
        self.raw.and_then(|_| detach::find(typed))
    }

    fn act(&mut self, action: Action) -> Option<End> {
        match action {
            Action::Forward(name) => {
                self.signalled = true;
                self.control(Control::Signal(name));
            }
            Action::Leave(code) => return Some(self.left(code)),
            Action::Detach => return Some(End::Detached { session: self.session.clone() }),
            Action::Resume => {
                // A terminal that is gone makes itself heard otherwise.
                let _ = self.raw.map(RawMode::again);
                self.resize();
            }
            Action::Resize => self.resize(),
            Action::Nothing => {}
        }
        None
    }

    fn left(&self, code: u8) -> End {
        End::Left { code, session: self.session.clone() }
    }

    fn resize(&self) {
        if let Some(size) = terminal::size() {
            self.control(Control::Resize(size));
        }
    }

    fn control(&self, message: Control) {
        if let Some(uplink) = &self.uplink {
            uplink.control(message);
        }
    }
}

async fn next_piece(stdin: &mut Option<&mut Stdin>) -> Option<Bytes> {
    match stdin {
        Some(stdin) => stdin.pieces.recv().await,
        None => None,
    }
}

/// Whether this may be the beginning of the message that there is no such program.
fn may_be_missing(output: &[u8], program: &str) -> bool {
    let message = format!("{program}: ");
    let message = message.as_bytes();
    output.len() < HELD_BYTES_MAX && (output.starts_with(message) || message.starts_with(output))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_message_about_the_program_is_held_back() {
        let message = b"sprite-console: executable file not found in $PATH\r\n";
        for end in 1..message.len() {
            assert!(may_be_missing(&message[..end], "sprite-console"));
        }
        for shown in [&b"\x1b]0;bash"[..], b"$ ", b"sprite@demo", b"sprite-console x"] {
            assert!(!may_be_missing(shown, "sprite-console"), "{shown:?}");
        }
        assert!(!may_be_missing(&[message, &[b'x'; 600][..]].concat(), "sprite-console"));
    }
}
