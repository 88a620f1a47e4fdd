//! What people and programs see: stdout that may close, colour, safe text.

use std::io::{self, IsTerminal, Write};

/// Writes a line to stdout. Fails when the reader has gone, which ends the command quietly.
macro_rules! out {
    ($($arg:tt)*) => { $crate::output::line(format_args!($($arg)*)) };
}

/// Writes a line to stderr. Nobody reading it is no reason to stop.
macro_rules! talk {
    ($($arg:tt)*) => { $crate::output::talk_line(format_args!($($arg)*)) };
}

pub(crate) use {out, talk};

pub(crate) fn line(text: std::fmt::Arguments<'_>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_fmt(text)?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

pub(crate) fn talk_line(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes a value as JSON, indented for people on a terminal.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let text = if io::stdout().is_terminal() {
        serde_json::to_string_pretty(value)?
    } else {
        serde_json::to_string(value)?
    };
    out!("{text}")?;
    Ok(())
}

/// Replaces control characters: text from a server may not drive the terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// How a word looks on terminals that show colour.
#[derive(Clone, Copy)]
pub(crate) enum Style {
    /// Went well.
    Good,
    /// Did not.
    Bad,
    /// Less important.
    Dim,
    /// More important.
    Bold,
}

/// Where a styled word goes.
#[derive(Clone, Copy)]
pub(crate) enum To {
    /// Data.
    Stdout,
    /// Talk.
    Stderr,
}

/// Returns the text, coloured if `to` is a terminal that may show colour.
pub(crate) fn paint(text: &str, style: Style, to: To) -> String {
    let terminal = match to {
        To::Stdout => io::stdout().is_terminal(),
        To::Stderr => io::stderr().is_terminal(),
    };
    if !terminal || !colour_wanted(|key| std::env::var_os(key).is_some_and(|v| !v.is_empty())) {
        return text.to_owned();
    }
    let code = match style {
        Style::Good => 32,
        Style::Bad => 31,
        Style::Dim => 2,
        Style::Bold => 1,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

fn colour_wanted(is_set: impl Fn(&str) -> bool) -> bool {
    !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Tells that something went well: a tick on terminals, the bare text elsewhere.
pub(crate) fn success(text: &str) -> io::Result<()> {
    if io::stdout().is_terminal() {
        out!("{} {text}", paint("✓", Style::Good, To::Stdout))
    } else {
        out!("{text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_text_cannot_drive_the_terminal() {
        assert_eq!(clean("a\x1b]0;x\x07b\u{9b}1mü"), "a\u{fffd}]0;x\u{fffd}b\u{fffd}1mü");
    }

    #[test]
    fn no_color_is_honoured() {
        assert!(!colour_wanted(|key| key == "NO_COLOR"));
    }
}
