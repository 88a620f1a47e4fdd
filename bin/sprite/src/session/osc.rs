//! Looks after what a remote terminal session does to the local terminal. Pure; fed in pieces
//! of any size.
//!
//! - Window titles (`OSC 0`, `1`, `2`) get the sprite's name in front; the local title comes back
//!   at the end.
//! - `OSC 9999 ; browser-open ; url` is taken out and handed over.
//! - Modes that outlive a program (alternate screen, mouse, hidden cursor, …) are remembered, so
//!   that [`Filter::finish`] can undo them when the session is left in the middle of one.
//!
//! # Invariants
//! - Everything else passes unchanged, whatever the pieces are.
//! - At most [`TITLE_BYTES_MAX`] or [`COMMAND_BYTES_MAX`] bytes are held back.

use super::modes::Modes;

/// Longest title that is held back for its end, in bytes; the rest of a longer one passes.
const TITLE_BYTES_MAX: usize = 2048;
/// Longest command of ours, in bytes; a longer one is dropped.
const COMMAND_BYTES_MAX: usize = 8192;
/// Longest parameters of a control sequence that are looked at, in bytes.
const CSI_BYTES_MAX: usize = 64;

const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;
const ESC: u8 = 0x1b;

/// Puts the title on the terminal's stack, and takes it from there.
const PUSH_TITLE: &[u8] = b"\x1b[22;2t";
const POP_TITLE: &[u8] = b"\x1b[23;2t";

/// Where in the stream of bytes we are.
enum State {
    Ground,
    /// After ESC, which is held back.
    Escape,
    /// In a control sequence, whose bytes have passed.
    Csi {
        parameters: Vec<u8>,
    },
    /// In an operating system command, before its kind is known. Held back.
    OscNumber {
        digits: Vec<u8>,
    },
    /// In a title. Held back.
    Title {
        number: u8,
        text: Vec<u8>,
        escape: bool,
    },
    /// In a command of ours. Held back; `None` when it has become too long.
    Command {
        text: Option<Vec<u8>>,
        escape: bool,
    },
    /// In a string that passes, after an ESC that is held back if `escape`. `bell` ends it too
    /// if it is an operating system command.
    Pass {
        bell: bool,
        escape: bool,
    },
}

/// What the session asks of us.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Filtered {
    /// For the terminal.
    pub(crate) bytes: Vec<u8>,
    /// URLs to open, unchecked.
    pub(crate) links: Vec<String>,
}

/// Filters one session's terminal output.
pub(crate) struct Filter {
    prefix: String,
    state: State,
    modes: Modes,
    title_pushed: bool,
}

impl Filter {
    /// Makes a filter for a session in the named sprite.
    pub(crate) fn new(sprite: &str) -> Self {
        let prefix = sprite.chars().filter(|c| !c.is_control()).collect();
        Self { prefix, state: State::Ground, modes: Modes::default(), title_pushed: false }
    }

    /// Filters the next piece.
    pub(crate) fn push(&mut self, input: &[u8]) -> Filtered {
        let mut out = Filtered { bytes: Vec::with_capacity(input.len() + 64), links: Vec::new() };
        let mut rest = input;
        while let Some((&byte, after)) = rest.split_first() {
            if matches!(self.state, State::Ground) {
                // The usual case, without a look at each byte.
                let plain = rest.iter().position(|&b| b == ESC).unwrap_or(rest.len());
                if plain > 0 {
                    out.bytes.extend_from_slice(&rest[..plain]);
                    rest = &rest[plain..];
                    continue;
                }
            }
            self.step(byte, &mut out);
            rest = after;
        }
        out
    }

    /// Ends the session: returns what was held back and what undoes its lasting effects.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match std::mem::replace(&mut self.state, State::Ground) {
            State::Escape | State::Ground | State::OscNumber { .. } | State::Title { .. } => {}
            State::Command { .. } => {}
            // The terminal still waits for the end of something.
            State::Csi { .. } | State::Pass { .. } => bytes.push(CAN),
        }
        bytes.extend(self.modes.undo());
        if std::mem::take(&mut self.title_pushed) {
            bytes.extend_from_slice(POP_TITLE);
        }
        bytes
    }

    fn step(&mut self, byte: u8, out: &mut Filtered) {
        let state = std::mem::replace(&mut self.state, State::Ground);
        self.state = match state {
            State::Ground if byte == ESC => State::Escape,
            State::Ground => pass(byte, State::Ground, out),
            State::Escape => self.escape(byte, out),
            State::Csi { parameters } => self.csi(byte, parameters, out),
            State::OscNumber { digits } => self.osc_number(byte, digits, out),
            State::Title { number, text, escape } => self.title(byte, number, text, escape, out),
            State::Command { text, escape } => self.command(byte, text, escape, out),
            State::Pass { bell, escape } => self.passing(byte, bell, escape, out),
        };
    }

    fn escape(&mut self, byte: u8, out: &mut Filtered) -> State {
        match byte {
            b']' => return State::OscNumber { digits: Vec::new() },
            // A second ESC begins anew.
            ESC => return pass(ESC, State::Escape, out),
            _ => out.bytes.push(ESC),
        }
        match byte {
            b'[' => pass(byte, State::Csi { parameters: Vec::new() }, out),
            b'P' | b'X' | b'^' | b'_' => {
                pass(byte, State::Pass { bell: false, escape: false }, out)
            }
            _ => {
                self.modes.escape(byte);
                pass(byte, State::Ground, out)
            }
        }
    }

    fn passing(&mut self, byte: u8, bell: bool, escape: bool, out: &mut Filtered) -> State {
        match byte {
            // An operating system command is broken off by another sequence.
            _ if escape && bell && byte != b'\\' => return self.escape(byte, out),
            _ if escape => out.bytes.push(ESC),
            _ => {}
        }
        match byte {
            b'\\' if escape => pass(byte, State::Ground, out),
            CAN | SUB => pass(byte, State::Ground, out),
            BEL if bell => pass(byte, State::Ground, out),
            ESC => State::Pass { bell, escape: true },
            _ => pass(byte, State::Pass { bell, escape: false }, out),
        }
    }

    fn csi(&mut self, byte: u8, mut parameters: Vec<u8>, out: &mut Filtered) -> State {
        match byte {
            ESC => return State::Escape,
            CAN | SUB => return pass(byte, State::Ground, out),
            0x40..=0x7e => {
                if parameters.len() < CSI_BYTES_MAX {
                    self.modes.csi(&parameters, byte);
                }
                return pass(byte, State::Ground, out);
            }
            0x20..=0x3f if parameters.len() < CSI_BYTES_MAX => parameters.push(byte),
            _ => {}
        }
        pass(byte, State::Csi { parameters }, out)
    }

    fn osc_number(&mut self, byte: u8, mut digits: Vec<u8>, out: &mut Filtered) -> State {
        if byte.is_ascii_digit() && digits.len() < 4 {
            digits.push(byte);
            return State::OscNumber { digits };
        }
        match (byte, digits.as_slice()) {
            (b';', [number @ b'0'..=b'2']) => {
                return State::Title { number: *number, text: Vec::new(), escape: false };
            }
            (b';', b"9999") => return State::Command { text: Some(Vec::new()), escape: false },
            _ => {}
        }
        out.bytes.extend_from_slice(b"\x1b]");
        out.bytes.extend_from_slice(&digits);
        match byte {
            BEL | CAN | SUB => pass(byte, State::Ground, out),
            ESC => State::Pass { bell: true, escape: true },
            _ => pass(byte, State::Pass { bell: true, escape: false }, out),
        }
    }

    fn title(
        &mut self,
        byte: u8,
        number: u8,
        mut text: Vec<u8>,
        escape: bool,
        out: &mut Filtered,
    ) -> State {
        match byte {
            b'\\' if escape => {
                self.put_title(number, &text, out);
                out.bytes.extend_from_slice(b"\x1b\\");
                State::Ground
            }
            // The title was broken off by another sequence.
            _ if escape => {
                self.state = State::Ground;
                self.escape(byte, out)
            }
            BEL => {
                self.put_title(number, &text, out);
                pass(BEL, State::Ground, out)
            }
            CAN | SUB => pass(byte, State::Ground, out),
            ESC => State::Title { number, text, escape: true },
            _ if text.len() >= TITLE_BYTES_MAX => {
                self.put_title(number, &text, out);
                pass(byte, State::Pass { bell: true, escape: false }, out)
            }
            _ => {
                text.push(byte);
                State::Title { number, text, escape: false }
            }
        }
    }

    fn put_title(&mut self, number: u8, text: &[u8], out: &mut Filtered) {
        if !self.title_pushed {
            self.title_pushed = true;
            out.bytes.extend_from_slice(PUSH_TITLE);
        }
        let text = String::from_utf8_lossy(text);
        let text = text.chars().filter(|c| !c.is_control()).collect::<String>();
        out.bytes.extend_from_slice(&[ESC, b']', number, b';']);
        out.bytes.extend_from_slice(self.prefix.as_bytes());
        if !text.is_empty() {
            out.bytes.extend_from_slice(b": ");
            out.bytes.extend_from_slice(text.as_bytes());
        }
    }

    fn command(
        &mut self,
        byte: u8,
        text: Option<Vec<u8>>,
        escape: bool,
        out: &mut Filtered,
    ) -> State {
        match byte {
            b'\\' if escape => {
                out.links.extend(text.and_then(|text| link(&text)));
                State::Ground
            }
            _ if escape => self.escape(byte, out),
            BEL => {
                out.links.extend(text.and_then(|text| link(&text)));
                State::Ground
            }
            CAN | SUB => State::Ground,
            ESC => State::Command { text, escape: true },
            _ => {
                let text = text.filter(|text| text.len() < COMMAND_BYTES_MAX).map(|mut text| {
                    text.push(byte);
                    text
                });
                State::Command { text, escape: false }
            }
        }
    }
}

fn pass(byte: u8, next: State, out: &mut Filtered) -> State {
    out.bytes.push(byte);
    next
}

/// Reads `browser-open ; url`, perhaps followed by `; port,port`.
fn link(text: &[u8]) -> Option<String> {
    let url = str::from_utf8(text).ok()?.strip_prefix("browser-open;")?;
    let is_ports = |tail: &str| tail.bytes().all(|b| b.is_ascii_digit() || b == b',');
    let url = match url.rsplit_once(';') {
        Some((url, tail)) if is_ports(tail) => url,
        _ => url,
    };
    Some(url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Filters in pieces of every size and checks that the size makes no difference.
    fn filtered(input: &[u8]) -> (String, Vec<String>) {
        let whole = Filter::new("demo").push(input);
        for step in 1..input.len() {
            let mut filter = Filter::new("demo");
            let mut joined = Filtered::default();
            for piece in input.chunks(step) {
                let part = filter.push(piece);
                joined.bytes.extend(part.bytes);
                joined.links.extend(part.links);
            }
            assert_eq!(joined, whole, "pieces of {step}");
        }
        (String::from_utf8(whole.bytes).unwrap(), whole.links)
    }

    fn text(input: &str) -> String {
        filtered(input.as_bytes()).0
    }

    const PUSH: &str = "\x1b[22;2t";

    #[test]
    fn titles_get_the_sprite_in_front_and_keep_their_end() {
        assert_eq!(text("a\x1b]0;bash\x07b"), format!("a{PUSH}\x1b]0;demo: bash\x07b"));
        assert_eq!(text("\x1b]2;vim x\x1b\\"), format!("{PUSH}\x1b]2;demo: vim x\x1b\\"));
        assert_eq!(text("\x1b]1;\x07"), format!("{PUSH}\x1b]1;demo\x07"));
        assert_eq!(
            text("\x1b]0;ü\u{9b}\x01\x07\x1b]0;y\x07"),
            format!("{PUSH}\x1b]0;demo: ü\x07\x1b]0;demo: y\x07")
        );
    }

    /// bash and zsh put titles into prompts, between marks of zero width that only they know;
    /// what surrounds a title must stay as it is.
    #[test]
    fn prompts_of_bash_and_zsh_stay_whole() {
        let bash = "\x1b[?2004h\x1b]0;sprite@demo: ~\x07\x1b[01;32msprite@demo\x1b[00m:~$ ";
        let renamed = format!("{PUSH}\x1b]0;demo: sprite@demo: ~\x07");
        assert_eq!(text(bash), bash.replace("\x1b]0;sprite@demo: ~\x07", &renamed));
        let zsh =
            "\x1b[1m\x1b[7m%\x1b[27m\x1b[1m\x1b[0m   \r \r\x1b]2;%n\x1b\\\r\x1b[0m\x1b[J% \x1b[K";
        let renamed = format!("{PUSH}\x1b]2;demo: %n\x1b\\");
        assert_eq!(text(zsh), zsh.replace("\x1b]2;%n\x1b\\", &renamed));
    }

    #[test]
    fn everything_else_passes_unchanged() {
        for same in [
            "plain \x07 text\r\n",
            "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\",
            "\x1b]52;c;aGk=\x07",
            "\x1b]133;A\x07$ ",
            "\x1b]10;?\x07",
            "\x1b]104\x07",
            "\x1b]l title\x1b\\",
            "\x1b]12345;x\x07",
            "\x1bP+q544e\x1b\\ok",
            "\x1bPtmux;\x1b\x1b]0;inner\x07\x1b\\after",
            "\x1b_Gi=1;AAAA\x1b\\",
            "\x1b[31mred\x1b[0m\x1b(B\x1b=\x1b>\x1b7\x1b8",
            "\x1b\x1b[A",
            "\x1b[1\x18x\x1b[2\x1b[3m",
        ] {
            assert_eq!(text(same), same);
        }
    }

    #[test]
    fn broken_off_titles_do_not_swallow_what_follows() {
        assert_eq!(text("\x1b]0;bro\x1b[31mken\x07"), "\x1b[31mken\x07");
        assert_eq!(text("\x1b]0;bro\x18ken"), "\x18ken");
        let (out, _) = filtered(format!("\x1b]0;{}\x07after", "x".repeat(3000)).as_bytes());
        assert_eq!(out, format!("{PUSH}\x1b]0;demo: {}\x07after", "x".repeat(3000)));
    }

    #[test]
    fn links_are_taken_out() {
        let (out, links) = filtered(
            b"a\x1b]9999;browser-open;https://h/?a=1;b=2\x1b\\b\
              \x1b]9999;browser-open;http://h/cb;8080,9090\x07c\x1b]9999;other;x\x07d",
        );
        assert_eq!(out, "abcd");
        assert_eq!(links, ["https://h/?a=1;b=2", "http://h/cb"]);
        let long = [b"\x1b]9999;browser-open;", &[b'x'; 9000][..], b"\x07e"].concat();
        assert_eq!(Filter::new("d").push(&long), Filtered { bytes: b"e".to_vec(), links: vec![] });
    }

    #[test]
    fn leaving_in_the_middle_undoes_lasting_effects() {
        let mut filter = Filter::new("demo");
        filter.push(b"\x1b[?1049h\x1b[?25l\x1b[?1002;1006h\x1b]0;vim\x07\x1b]52;c;half");
        let undo = String::from_utf8(filter.finish()).unwrap();
        assert!(undo.starts_with('\x18'), "{undo:?}");
        for part in ["\x1b[?1049l", "\x1b[?25h", "\x1b[?1002l", "\x1b[?1006l", "\x1b[23;2t"] {
            assert!(undo.contains(part), "{part:?} in {undo:?}");
        }
        assert_eq!(Filter::new("demo").finish(), b"");
    }

    #[test]
    fn any_bytes_are_survived() {
        const ALPHABET: &[u8] = b"\x1b\x1b]]02;\x07\\[?h[l\x18Pax9\xff\xc3";
        let mut bytes = Vec::new();
        let mut seed = 7_u32;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let pick = (seed >> 16) as usize;
            bytes.push(ALPHABET[pick % ALPHABET.len()]);
        }
        let mut filter = Filter::new("demo");
        for piece in bytes.chunks(7) {
            filter.push(piece);
        }
        filter.finish();
    }
}
