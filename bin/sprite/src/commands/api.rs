//! The API through curl. The token reaches curl through a pipe, never as an argument.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;

use anyhow::Context as _;
use rustix::io::{FdFlags, fcntl_setfd};
use sprite_client::Token;

use crate::args::ApiArgs;
use crate::context::Context;
use crate::output::talk;
use crate::report::{Exit, WithHint};

pub(super) async fn run(context: &Context, args: ApiArgs) -> anyhow::Result<Exit> {
    let connection = context.connect()?;
    let sprite = match is_absolute(&args.path) {
        true => None,
        false => Some(context.sprite(&connection, None).await?.name().to_owned()),
    };
    let base = connection.client.endpoint().to_string();
    let url = url(&base, sprite.as_deref(), &args.path);
    let org = connection.org.as_deref().unwrap_or("-");
    talk!("Calling API: {org} {}", sprite.as_deref().unwrap_or("-"));
    talk!("URL: {url}\n");

    let secret = secret_file(&connection.token)?;
    let status = std::process::Command::new("curl")
        .arg("--config")
        .arg(format!("/dev/fd/{}", secret.as_raw_fd()))
        .args(&args.curl)
        .arg(&url)
        .status();
    let status =
        status.context("start curl").hint("install curl, for example: apt install curl")?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(Exit(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

fn is_absolute(path: &str) -> bool {
    path == "/v1" || path.starts_with("/v1/") || path.starts_with("/v1?")
}

fn url(base: &str, sprite: Option<&str>, path: &str) -> String {
    match sprite {
        None => format!("{base}{path}"),
        Some(sprite) => match path.trim_start_matches('/') {
            "" => format!("{base}/v1/sprites/{sprite}"),
            query if query.starts_with('?') => format!("{base}/v1/sprites/{sprite}{query}"),
            path => format!("{base}/v1/sprites/{sprite}/{path}"),
        },
    }
}

/// Returns the reading end of a pipe that holds curl's configuration and is inherited.
fn secret_file(token: &Token) -> anyhow::Result<OwnedFd> {
    // Tokens have visible ASCII only; these two would end or change the quoted text.
    let token = token.reveal().replace('\\', "\\\\").replace('"', "\\\"");
    let config = format!("header = \"Authorization: Bearer {token}\"\n");
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // A pipe takes this much without a reader.
    anyhow::ensure!(config.len() <= 4096, "the token is too long");
    rustix::io::write(&writer, config.as_bytes())?;
    fcntl_setfd(&reader, FdFlags::empty())?;
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_sprite_unless_they_begin_with_v1() {
        for (path, expected) in [
            ("/exec", "http://h/v1/sprites/demo/exec"),
            ("fs/list?path=/", "http://h/v1/sprites/demo/fs/list?path=/"),
            ("/", "http://h/v1/sprites/demo"),
            ("", "http://h/v1/sprites/demo"),
        ] {
            assert!(!is_absolute(path));
            assert_eq!(url("http://h", Some("demo"), path), expected);
        }
        assert!(is_absolute("/v1/sprites") && !is_absolute("/v1x"));
        assert_eq!(url("http://h", None, "/v1/sprites?x=1"), "http://h/v1/sprites?x=1");
    }
}
