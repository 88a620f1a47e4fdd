//! Remembers terminal modes that outlive the program that set them. Pure.

/// Private modes that a shell does not expect, with the value they should return to.
const PRIVATE: [(u16, bool); 15] = [
    (1, false),    // cursor keys as applications like them
    (9, false),    // mouse
    (25, true),    // cursor shown
    (47, false),   // alternate screen
    (1000, false), // mouse
    (1002, false),
    (1003, false),
    (1004, false), // focus
    (1005, false),
    (1006, false),
    (1015, false),
    (1047, false), // alternate screen
    (1049, false),
    (2004, false), // bracketed paste
    (2026, false), // synchronised output
];

/// Which modes are not as they should be.
#[derive(Default)]
pub(crate) struct Modes {
    changed: [bool; PRIVATE.len()],
    keypad: bool,
    keyboard_pushes: u16,
    styled: bool,
}

impl Modes {
    /// Takes note of `ESC` and a byte.
    pub(crate) fn escape(&mut self, byte: u8) {
        match byte {
            b'=' => self.keypad = true,
            b'>' => self.keypad = false,
            b'c' => *self = Self::default(),
            _ => {}
        }
    }

    /// Takes note of a control sequence.
    pub(crate) fn csi(&mut self, parameters: &[u8], last: u8) {
        let Ok(parameters) = str::from_utf8(parameters) else { return };
        match (parameters.as_bytes().first(), last) {
            (Some(b'?'), b'h' | b'l') => {
                for mode in parameters[1..].split(';').filter_map(|mode| mode.parse().ok()) {
                    self.set(mode, last == b'h');
                }
            }
            // The kitty keyboard protocol keeps a stack.
            (Some(b'>'), b'u') => self.keyboard_pushes = self.keyboard_pushes.saturating_add(1),
            (Some(b'<'), b'u') => {
                let count = parameters[1..].parse().unwrap_or(1);
                self.keyboard_pushes = self.keyboard_pushes.saturating_sub(count);
            }
            (_, b'm') => self.styled = !matches!(parameters, "" | "0" | "00"),
            _ => {}
        }
    }

    fn set(&mut self, mode: u16, on: bool) {
        if let Some(index) = PRIVATE.iter().position(|(known, _)| *known == mode) {
            self.changed[index] = on != PRIVATE[index].1;
        }
    }

    /// Returns what makes all modes what they should be, and forgets them.
    pub(crate) fn undo(&mut self) -> Vec<u8> {
        let mut text = String::new();
        for (&(mode, usual), &changed) in PRIVATE.iter().zip(&self.changed) {
            if changed {
                text.push_str(&format!("\x1b[?{mode}{}", if usual { 'h' } else { 'l' }));
            }
        }
        if self.keypad {
            text.push_str("\x1b>");
        }
        if self.keyboard_pushes > 0 {
            text.push_str(&format!("\x1b[<{}u", self.keyboard_pushes));
        }
        if self.styled {
            text.push_str("\x1b[0m");
        }
        *self = Self::default();
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_changed_is_undone() {
        let mut modes = Modes::default();
        modes.csi(b"?1049", b'h');
        modes.csi(b"?2004;25", b'h');
        modes.csi(b"?2004", b'l');
        modes.csi(b">1", b'u');
        modes.csi(b"1;31", b'm');
        modes.escape(b'=');
        assert_eq!(modes.undo(), b"\x1b[?1049l\x1b>\x1b[<1u\x1b[0m");
        assert_eq!(modes.undo(), b"");
    }

    #[test]
    fn a_reset_forgets_all() {
        let mut modes = Modes::default();
        modes.csi(b"?25", b'l');
        modes.csi(b"?99999999;;x", b'h');
        modes.escape(b'c');
        assert_eq!(modes.undo(), b"");
    }
}
