//! Questions to a person: confirmation, a secret, a choice. Asked on stderr.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::output::{clean, talk};
use crate::report::Interrupted;
use crate::session::terminal::RawMode;

/// Whether there is somebody to ask.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

fn ask(question: &str) -> io::Result<String> {
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question}")?;
    stderr.flush()?;
    let mut answer = String::new();
    if io::stdin().lock().read_line(&mut answer)? == 0 {
        writeln!(stderr)?;
    }
    Ok(answer.trim().to_owned())
}

/// Asks a yes-or-no question; anything but yes is no.
pub(crate) fn confirm(question: &str) -> anyhow::Result<bool> {
    let answer = ask(&format!("{question} [y/N] "))?;
    Ok(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Asks to choose one of several texts.
pub(crate) fn choose(question: &str, choices: &[String]) -> anyhow::Result<Option<String>> {
    for (index, choice) in choices.iter().enumerate() {
        talk!("{:>3}  {}", index + 1, clean(choice));
    }
    let answer = ask(&format!("{question} (number or name): "))?;
    Ok(pick(&answer, choices))
}

fn pick(answer: &str, choices: &[String]) -> Option<String> {
    if choices.iter().any(|choice| choice == answer) {
        return Some(answer.to_owned());
    }
    let number: usize = answer.parse().ok()?;
    choices.get(number.checked_sub(1)?).cloned()
}

/// Asks for a secret without showing it.
pub(crate) fn secret(question: &str) -> anyhow::Result<String> {
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question}")?;
    stderr.flush()?;
    let raw = RawMode::enter()?;
    let mut secret = Vec::new();
    let ended = loop {
        let mut byte = [0];
        if rustix::io::retry_on_intr(|| rustix::io::read(io::stdin(), &mut byte))? == 0 {
            break true;
        }
        match byte[0] {
            b'\r' | b'\n' => break true,
            0x04 if secret.is_empty() => break true,
            0x03 => break false,
            0x7f | 0x08 => {
                secret.pop();
            }
            0x15 => secret.clear(),
            byte => secret.push(byte),
        }
    };
    drop(raw);
    writeln!(stderr)?;
    if !ended {
        return Err(Interrupted.into());
    }
    Ok(String::from_utf8_lossy(&secret).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_a_number_or_a_name() {
        let choices = ["a".to_owned(), "2".to_owned(), "c".to_owned()];
        assert_eq!(pick("1", &choices).as_deref(), Some("a"));
        assert_eq!(pick("2", &choices).as_deref(), Some("2"));
        assert_eq!(pick("c", &choices).as_deref(), Some("c"));
        for nothing in ["", "0", "4", "b", "-1"] {
            assert_eq!(pick(nothing, &choices), None, "{nothing}");
        }
    }
}
