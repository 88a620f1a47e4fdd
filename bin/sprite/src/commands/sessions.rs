//! Running commands: list, attach, kill.

use std::io::{self, IsTerminal};

use comfy_table::Table;
use comfy_table::presets::{NOTHING, UTF8_FULL_CONDENSED};
use sprite_api::exec::SessionEntry;
use sprite_types::{ByteSize, Clock, ErrorKind, SystemClock, Timestamp};

use crate::args::{AttachArgs, SessionsCommand};
use crate::context::Context;
use crate::output::{clean, json, out, success};
use crate::report::{Exit, WithHint};
use crate::session::{self, Setup, Stdin, terminal};
use crate::when::ago_text;

use super::exec;

/// Longest command shown, in characters.
const COMMAND_CHARS: usize = 20;

pub(super) async fn run(context: &Context, command: SessionsCommand) -> anyhow::Result<Exit> {
    match command {
        SessionsCommand::List(args) => list(context, args.json).await,
        SessionsCommand::Attach(args) => attach(context, &args).await,
        SessionsCommand::Kill { id, signal, timeout, json } => {
            kill(context, &id, signal.as_deref(), timeout.as_deref(), json.json).await
        }
    }
}

async fn list(context: &Context, as_json: bool) -> anyhow::Result<Exit> {
    let connection = context.connect()?;
    let sprite = context.sprite(&connection, None).await?;
    let sessions = sprite.sessions().await?;
    if as_json {
        json(&sessions)?;
    } else if sessions.is_empty() && io::stdout().is_terminal() {
        out!("Nothing runs in sprite {}.", sprite.name())?;
    } else {
        let preset = if io::stdout().is_terminal() { UTF8_FULL_CONDENSED } else { NOTHING };
        out!("{}", table(&sessions, SystemClock.now(), preset).trim_fmt())?;
    }
    Ok(Exit::SUCCESS)
}

fn table(sessions: &[SessionEntry], now: Timestamp, preset: &str) -> Table {
    let mut table = Table::new();
    table.load_preset(preset).set_header(["ID", "Command", "Started", "Activity"]);
    for session in sessions {
        let started = ago_text(&session.created, now);
        table.add_row([clean(&session.id), cut(&session.command), started, activity(session)]);
    }
    table
}

fn cut(command: &str) -> String {
    let mut text: String = clean(command).chars().take(COMMAND_CHARS).collect();
    if command.chars().count() > COMMAND_CHARS {
        text.pop();
        text.push('…');
    }
    text
}

fn activity(session: &SessionEntry) -> String {
    if session.bytes_per_second >= 1.0 {
        format!("{}/s", ByteSize(session.bytes_per_second as u64))
    } else if session.is_active {
        "Active".to_owned()
    } else {
        "-".to_owned()
    }
}

pub(super) async fn attach(context: &Context, args: &AttachArgs) -> anyhow::Result<Exit> {
    attach_to(context, &args.id, !args.no_port_forward).await
}

pub(super) async fn attach_to(context: &Context, id: &str, ports: bool) -> anyhow::Result<Exit> {
    let connection = context.connect()?;
    let sprite = context.sprite(&connection, None).await?;
    let opened = sprite.attach(id, terminal::size()).await;
    let (session, info) = match opened {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(error).hint(format!("`sprite sessions list -s {}`", sprite.name()));
        }
        opened => opened?,
    };
    let setup =
        Setup { sprite: sprite.name(), tty: info.tty, attached: true, ports, optional: None };
    let mut stdin = (info.tty || !terminal::stdin_is_terminal()).then(Stdin::start);
    let end = session::run(session, &setup, stdin.as_mut()).await?;
    Ok(exec::finish(end, sprite.name(), true))
}

async fn kill(
    context: &Context,
    id: &str,
    signal: Option<&str>,
    timeout: Option<&str>,
    as_json: bool,
) -> anyhow::Result<Exit> {
    let connection = context.connect()?;
    let sprite = context.sprite(&connection, None).await?;
    let mut events = match sprite.kill_session(id, signal, timeout).await {
        Err(error) if error.status() == Some(410) => {
            success(&format!("Session {} had ended already", clean(id)))?;
            return Ok(Exit::SUCCESS);
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(error).hint(format!("`sprite sessions list -s {}`", sprite.name()));
        }
        events => events?,
    };
    let mut failed = false;
    while let Some(event) = events.next().await? {
        failed |= event.kind == "error";
        if as_json {
            out!("{}", serde_json::to_string(&event)?)?;
        } else if let Some(message) = &event.message {
            out!("{}", clean(message))?;
        }
    }
    Ok(Exit(u8::from(failed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(command: &str, rate: f64, is_active: bool) -> SessionEntry {
        SessionEntry {
            id: "42".into(),
            command: command.into(),
            workdir: "/".into(),
            created: "2026-01-13T10:25:00Z".into(),
            tty: false,
            bytes_per_second: rate,
            is_active,
            last_activity: None,
        }
    }

    #[test]
    fn commands_are_cut_and_activity_is_readable() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"x".repeat(21)), format!("{}…", "x".repeat(19)));
        assert_eq!(activity(&session("a", 12.0, true)), "12 B/s");
        assert_eq!(activity(&session("a", 0.0, true)), "Active");
        assert_eq!(activity(&session("a", 0.0, false)), "-");
    }
}
