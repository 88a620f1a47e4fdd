//! A shell in a sprite.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sprite_client::exec::{ExecRequest, TerminalSize};

use crate::args::ConsoleArgs;
use crate::context::{Connection, Context, variable};
use crate::report::{Exit, Usage};
use crate::session::{self, End, Setup, Stdin, terminal};

use super::exec;

/// What to run, best first; the later ones for sprites without the earlier ones.
const SHELLS: [&[&str]; 3] = [&["sprite-console"], &["bash", "--login"], &["sh", "-l"]];
/// Terminals that every system knows.
const USUAL_TERMINALS: [&str; 12] = [
    "ansi",
    "dumb",
    "linux",
    "rxvt",
    "screen",
    "screen-256color",
    "tmux",
    "tmux-256color",
    "vt100",
    "vt220",
    "xterm",
    "xterm-256color",
];
/// Largest description of a terminal that is sent, in bytes.
const TERMINFO_BYTES_MAX: u64 = 32 * 1024;

pub(super) async fn run(context: &Context, args: &ConsoleArgs) -> anyhow::Result<Exit> {
    let connection = context.connect()?;
    let name = context.sprite(&connection, args.name.as_deref()).await?.name().to_owned();
    let args = ConsoleArgs { name: Some(name), no_port_forward: args.no_port_forward };
    open(&connection, &args).await
}

/// Opens a shell in the named sprite.
pub(super) async fn open(connection: &Connection, args: &ConsoleArgs) -> anyhow::Result<Exit> {
    if !terminal::stdin_is_terminal() {
        let text = "a console needs a terminal; `sprite exec` runs commands without one";
        return Err(Usage(text.to_owned()).into());
    }
    let sprite = connection.client.sprite(args.name.as_deref().unwrap_or_default());
    let mut stdin = Stdin::start();
    for shell in SHELLS {
        let size = terminal::size().unwrap_or(TerminalSize { cols: 80, rows: 24 });
        let request = ExecRequest {
            argv: shell.iter().map(|&word| word.to_owned()).collect(),
            env: environment(),
            tty: Some(size),
            stdin: true,
            ..ExecRequest::default()
        };
        let session = exec::start(&sprite, &request).await?;
        let setup = Setup {
            sprite: sprite.name(),
            tty: true,
            attached: false,
            ports: !args.no_port_forward,
            optional: Some(shell[0]),
        };
        let end = session::run(session, &setup, Some(&mut stdin)).await?;
        if end != End::NotFound {
            return Ok(exec::finish(end, sprite.name(), true));
        }
    }
    anyhow::bail!("sprite `{}` has no shell", sprite.name())
}

fn environment() -> Vec<(String, String)> {
    let mut env = exec::with_terminal_variables(Vec::new(), variable);
    env.extend(variable("SHELL").map(|shell| ("SHELL".to_owned(), shell)));
    let term = variable("TERM").unwrap_or_default();
    env.extend(terminfo(&term).map(|data| ("SPRITE_TERMINFO_DATA".to_owned(), data)));
    env
}

/// Returns the description of an unusual terminal, in base64.
fn terminfo(term: &str) -> Option<String> {
    let plain = term.bytes().all(|b| b.is_ascii_alphanumeric() || b"-+._".contains(&b));
    let first = term.chars().next().filter(|_| plain && !term.starts_with('.'))?;
    if USUAL_TERMINALS.contains(&term) {
        return None;
    }
    let own = [variable("TERMINFO"), variable("HOME").map(|home| format!("{home}/.terminfo"))];
    let system = ["/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo"].map(str::to_owned);
    let folders = own.into_iter().flatten().chain(system);
    let mut files = folders.flat_map(|folder| {
        let by_hex = format!("{folder}/{:x}/{term}", u32::from(first));
        [format!("{folder}/{first}/{term}"), by_hex]
    });
    files.find_map(|file| {
        let small = Path::new(&file).metadata().ok()?.len() <= TERMINFO_BYTES_MAX;
        small.then(|| std::fs::read(&file).ok()).flatten().map(|data| STANDARD.encode(data))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_and_odd_terminal_names_have_no_description() {
        for term in ["xterm-256color", "", "../../etc/passwd", ".", "no-such-terminal"] {
            assert_eq!(terminfo(term), None, "{term}");
        }
    }
}
