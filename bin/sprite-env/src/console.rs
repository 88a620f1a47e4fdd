//! `sprite-console`: the user's shell as a login shell on a terminal. Source: contract,
//! in-sprite 8.1.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Failure;

/// Terminal descriptions are small; more is not one.
const TERMINFO_MAX: usize = 64 * 1024;

pub(crate) fn run() -> Result<(), Failure> {
    if let Err(error) = install_terminfo() {
        eprintln!("sprite-console: terminal description: {error}");
    }
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_owned());
    let wanted = std::env::var("SHELL").unwrap_or_default();
    let (name, program) = choose(&wanted, |name| find(name, &path));
    let flag = login_flag(name);
    let mut command = Command::new(&program);
    command.env("SHELL", &program).env_remove("SPRITE_TERMINFO_DATA");
    command.args(flag);
    let title = flag.map_or_else(|| name.to_owned(), |flag| format!("{name} {flag}"));
    print!("\x1b]0;{title}\x07");
    // A terminal that is gone shows itself to the shell soon enough.
    let _ = std::io::stdout().flush();
    let error = command.exec();
    Err(Failure::error(format!("run `{}`: {error}", program.display())))
}

/// Chooses the shell: the client's if we know it and have it, else bash, else sh.
fn choose(wanted: &str, find: impl Fn(&str) -> Option<PathBuf>) -> (&'static str, PathBuf) {
    let wanted = wanted.rsplit('/').next().unwrap_or_default();
    let known = ["bash", "zsh", "fish", "tcsh", "ksh"].into_iter().find(|name| *name == wanted);
    let candidates = known.into_iter().chain(["bash"]);
    let found = candidates.filter_map(|name| Some((name, find(name)?))).next();
    found.unwrap_or_else(|| ("sh", PathBuf::from("/bin/sh")))
}

fn login_flag(shell: &str) -> Option<&'static str> {
    match shell {
        "sh" => None,
        "tcsh" | "ksh" => Some("-l"),
        _ => Some("--login"),
    }
}

fn find(name: &str, path: &str) -> Option<PathBuf> {
    let candidates = std::env::split_paths(path).map(|folder| folder.join(name));
    candidates.into_iter().find(|candidate| {
        let meta = std::fs::metadata(candidate);
        meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

/// Puts the client's terminal description where programs look for it, unless there is one.
fn install_terminfo() -> Result<(), String> {
    let Ok(data) = std::env::var("SPRITE_TERMINFO_DATA") else { return Ok(()) };
    let term = std::env::var("TERM").unwrap_or_default();
    let home = std::env::var("HOME").map_err(|_| "no HOME")?;
    let Some(relative) = terminfo_path(&term) else { return Err("odd TERM".to_owned()) };
    let file = Path::new(&home).join(".terminfo").join(relative);
    if file.exists() || data.is_empty() {
        return Ok(());
    }
    let bytes = decode_base64(&data).filter(|bytes| bytes.len() <= TERMINFO_MAX);
    let bytes = bytes.ok_or("SPRITE_TERMINFO_DATA is not base64 of a terminal description")?;
    let write = || {
        std::fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
        std::fs::write(&file, bytes)
    };
    write().map_err(|error| format!("`{}`: {error}", file.display()))
}

/// Returns where below `.terminfo` a terminal is described; `None` for a name that is no name.
fn terminfo_path(term: &str) -> Option<String> {
    let first = term.chars().next().filter(char::is_ascii_alphanumeric)?;
    let valid = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
    (term.len() <= 64 && term.chars().all(valid)).then(|| format!("{first}/{term}"))
}

/// Decodes standard base64, padded or not.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.trim().trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'\n' | b'\r' => continue,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xff) as u8);
        }
    }
    (count < 6).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_shell_is_taken_if_it_is_known_and_there() {
        let has = |names: &'static [&'static str]| {
            move |name: &str| names.contains(&name).then(|| PathBuf::from(name))
        };
        assert_eq!(choose("/opt/bin/zsh", has(&["bash", "zsh"])).0, "zsh");
        assert_eq!(choose("/bin/zsh", has(&["bash"])).0, "bash");
        assert_eq!(choose("/bin/nu", has(&["bash", "nu"])).0, "bash");
        assert_eq!(choose("../../x", has(&[])), ("sh", PathBuf::from("/bin/sh")));
        assert_eq!((login_flag("tcsh"), login_flag("fish")), (Some("-l"), Some("--login")));
        assert_eq!(login_flag("sh"), None);
    }

    #[test]
    fn a_terminals_name_cannot_lead_elsewhere() {
        assert_eq!(terminfo_path("xterm-kitty").as_deref(), Some("x/xterm-kitty"));
        for term in ["", "../x", "a/b", ".x", "x y", &"x".repeat(65)] {
            assert_eq!(terminfo_path(term), None, "{term}");
        }
    }

    #[test]
    fn base64_matches_rfc_4648() {
        for (text, expected) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo")] {
            assert_eq!(decode_base64(text).unwrap(), expected.as_bytes());
        }
        assert_eq!(decode_base64("Zm9vYmFy\n").unwrap(), b"foobar");
        assert_eq!(decode_base64("Z"), None);
        assert_eq!(decode_base64("Z!=="), None);
    }
}
