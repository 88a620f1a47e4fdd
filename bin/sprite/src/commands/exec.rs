//! Running a command.

use std::time::Duration;

use bytes::Bytes;
use sprite_client::exec::{Event, ExecRequest, Session, TerminalSize};
use sprite_client::{Error, SpriteClient};
use sprite_types::ErrorKind;

use crate::args::{ExecArgs, JsonArgs, SessionsCommand, split_env};
use crate::context::{Context, variable};
use crate::output::{clean, talk};
use crate::report::{Exit, Usage};
use crate::session::stdio::{Output, Stream};
use crate::session::{self, End, Setup, Stdin, terminal};

use super::{sessions, uploads};

/// Copied into terminal sessions unless given.
const TERMINAL_VARIABLES: [&str; 4] = ["TERM", "COLORTERM", "LANG", "LC_ALL"];
/// Size of a terminal that has none to copy.
const DEFAULT_SIZE: TerminalSize = TerminalSize { cols: 80, rows: 24 };
/// How long a sprite that comes back after a restore is waited for.
const RETRY_FOR: Duration = Duration::from_secs(30);
/// How long a server that refuses connections is.
const RETRY_CONNECT_FOR: Duration = Duration::from_secs(2);

pub(super) async fn run(context: &Context, args: ExecArgs) -> anyhow::Result<Exit> {
    if let Some(id) = &args.id {
        return sessions::attach_to(context, id, !args.no_port_forward).await;
    }
    if args.command.is_empty() {
        talk!("No command given; these run. (`sprite exec ls -l` runs one.)");
        return sessions::run(context, SessionsCommand::List(JsonArgs { json: false })).await;
    }
    let env = args.env.iter().map(|list| split_env(list)).collect::<Result<Vec<_>, _>>();
    let env = env.map_err(Usage)?.concat();
    let files = args.files.iter().map(|text| uploads::parse(text));
    let files = files.collect::<anyhow::Result<Vec<_>>>()?;

    let connection = context.connect()?;
    let sprite = context.sprite(&connection, None).await?;
    uploads::send(&sprite, &files, args.dir.as_deref()).await?;

    let stdin = !args.no_stdin && (args.tty || !terminal::stdin_is_terminal());
    let request = ExecRequest {
        argv: args.command,
        env: if args.tty { with_terminal_variables(env, variable) } else { env },
        dir: args.dir,
        tty: args.tty.then(|| terminal::size().unwrap_or(DEFAULT_SIZE)),
        stdin,
        detachable: args.detachable,
        max_run_after_disconnect: None,
        cc: args.cc,
    };
    let mut stdin = stdin.then(Stdin::start);
    if args.http_post {
        return post(&sprite, &request, stdin).await;
    }
    let session = start(&sprite, &request).await?;
    let setup = Setup {
        sprite: sprite.name(),
        tty: args.tty,
        attached: false,
        ports: !args.no_port_forward,
        optional: None,
    };
    let end = session::run(session, &setup, stdin.as_mut()).await?;
    Ok(finish(end, sprite.name(), args.tty || args.detachable))
}

/// Adds what programs on a terminal look at, unless it is given.
pub(super) fn with_terminal_variables(
    mut env: Vec<(String, String)>,
    local: impl Fn(&str) -> Option<String>,
) -> Vec<(String, String)> {
    for name in TERMINAL_VARIABLES {
        if !env.iter().any(|(given, _)| given == name)
            && let Some(value) = local(name)
        {
            env.push((name.to_owned(), value));
        }
    }
    env
}

/// Starts a command; waits for a sprite that is on its way back.
pub(super) async fn start(sprite: &SpriteClient, request: &ExecRequest) -> Result<Session, Error> {
    let begin = tokio::time::Instant::now();
    loop {
        let error = match sprite.exec(request).await {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        let (patience, pause) = patience(&error);
        if begin.elapsed() + pause > patience {
            return Err(error);
        }
        tracing::debug!(error = %error, "sprite not ready, trying again");
        tokio::time::sleep(pause).await;
    }
}

/// Returns for how long an error is worth trying again, and the pause until then.
fn patience(error: &Error) -> (Duration, Duration) {
    match error {
        Error::Connect { source, .. } if source.kind() == std::io::ErrorKind::ConnectionRefused => {
            (RETRY_CONNECT_FOR, Duration::from_millis(500))
        }
        Error::Refused { refusal, .. } if refusal.kind() == ErrorKind::Unavailable => {
            let pause = refusal.retry_after.unwrap_or(Duration::from_secs(1));
            (RETRY_FOR, pause.clamp(Duration::from_millis(200), Duration::from_secs(5)))
        }
        _ => (Duration::ZERO, Duration::from_millis(1)),
    }
}

/// Says how a session was left and returns the exit code.
pub(super) fn finish(end: End, sprite: &str, goes_on: bool) -> Exit {
    let (code, session) = match end {
        End::Exit(code) => return Exit(code),
        End::NotFound => return Exit(127),
        End::Detached { session } => (0, session),
        End::Left { code, session } => (code, session),
    };
    match session {
        Some(id) if goes_on => {
            let id = clean(&id);
            talk!("Detached from session {id}, which goes on.");
            talk!("To come back: sprite attach {id} -s {sprite}");
        }
        _ => {}
    }
    Exit(code)
}

/// Runs a command over `POST`.
async fn post(
    sprite: &SpriteClient,
    request: &ExecRequest,
    stdin: Option<Stdin>,
) -> anyhow::Result<Exit> {
    let mut command = sprite.exec_post(request, stdin.map(Stdin::into_pieces)).await?;
    let output = Output::start();
    let code = loop {
        let put = |stream, data: Bytes| output.put(stream, data);
        tokio::select! {
            event = command.next() => match event? {
                Some(Event::Stdout(data)) => put(Stream::Stdout, data).await,
                Some(Event::Stderr(data)) => put(Stream::Stderr, data).await,
                Some(Event::Exit(code)) => break code,
                Some(_) => {}
                None => anyhow::bail!("the command ended without an exit code"),
            },
            () = output.broken() => break 1,
        }
    };
    output.finish().await?;
    Ok(Exit(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_variables_are_copied_unless_given() {
        let local = |name: &str| (name != "LC_ALL").then(|| format!("local {name}"));
        let given = vec![("TERM".to_owned(), "mine".to_owned())];
        let env = with_terminal_variables(given, local);
        let text: Vec<_> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(text, ["TERM=mine", "COLORTERM=local COLORTERM", "LANG=local LANG"]);
    }
}
