//! Logging in and out.

use std::io::{self, IsTerminal, Read};

use anyhow::Context as _;
use sprite_client::{Client, Token};
use sprite_types::ErrorKind;

use crate::args::{AuthCommand, ForceArgs, LoginArgs, TokenArgs};
use crate::config::split_org;
use crate::context::Context;
use crate::output::{out, success, talk};
use crate::prompt;
use crate::report::{Exit, Usage, WithHint};

/// Longest token read from stdin, in bytes.
const TOKEN_BYTES_MAX: u64 = 16 * 1024;

pub(super) async fn login(context: &Context, args: &LoginArgs) -> anyhow::Result<Exit> {
    let url = context.server(args.server.as_deref())?;
    let token = read_token(&args.token, &url)?;
    store(context, &url, &token).await
}

pub(super) async fn setup(context: &Context, command: AuthCommand) -> anyhow::Result<Exit> {
    let AuthCommand::Setup(args) = command;
    let url = context.server(None)?;
    let token = read_token(&args, &url)?;
    store(context, &url, &token).await
}

/// Takes the token from the flag, the environment, a pipe, or a person.
fn read_token(args: &TokenArgs, url: &str) -> anyhow::Result<Token> {
    let text = if let Some(token) = &args.token {
        token.clone()
    } else if let Some(token) = Context::token_variable() {
        token
    } else if prompt::is_interactive() {
        talk!("A token comes from the server's administrator: `sprited token create --org <org>`");
        prompt::secret(&format!("Token for {url}: "))?
    } else if io::stdin().is_terminal() {
        String::new()
    } else {
        let mut text = String::new();
        let mut stdin = io::stdin().lock().take(TOKEN_BYTES_MAX);
        stdin.read_to_string(&mut text).context("read the token from stdin")?;
        text
    };
    Token::new(&text).hint("type it, pipe it in, or set SPRITE_TOKEN")
}

/// Checks a token with the server and remembers it.
async fn store(context: &Context, url: &str, token: &Token) -> anyhow::Result<Exit> {
    let named = context.global.org.as_deref().map(split_org);
    let named_org = named.map(|(_, org)| org).filter(|org| !org.is_empty());
    let org = match (token.org(), named_org) {
        (Some(org), Some(named)) if org != named => {
            let text = format!("this token belongs to org `{org}`, not to `{named}`");
            return Err(Usage(text)).hint(format!("-o {org}, or leave out -o"));
        }
        (Some(org), _) => org.to_owned(),
        (None, Some(named)) => named.to_owned(),
        (None, None) => "default".to_owned(),
    };
    let client = Client::new(url.parse()?, token.clone());
    if let Err(error) = client.sprites_page(None, 1, None).await {
        let refused = matches!(error.kind(), ErrorKind::Unauthorized | ErrorKind::Forbidden);
        let error = anyhow::Error::new(error).context("check the token");
        return if refused {
            Err(error).hint("`sprited token create --org <org>` on the server makes a new one")
        } else {
            Err(error)
        };
    }
    let alias = named.and_then(|(alias, _)| alias);
    context.file.update(|config| config.store(url, alias, &org, token.reveal()))?;
    success(&format!("Logged in to {url} as org {org}"))?;
    Ok(Exit::SUCCESS)
}

pub(super) fn logout(context: &Context, args: &ForceArgs) -> anyhow::Result<Exit> {
    let path = context.file.path();
    if !args.force && !confirmed("Remove the configuration with all stored tokens?")? {
        out!("Cancelled.")?;
        return Ok(Exit::SUCCESS);
    }
    if context.file.remove()? {
        success(&format!("Removed {}", path.display()))?;
    } else {
        out!("There was no configuration.")?;
    }
    Ok(Exit::SUCCESS)
}

/// Asks, or says that there is nobody to ask.
pub(super) fn confirmed(question: &str) -> anyhow::Result<bool> {
    if !prompt::is_interactive() {
        return Err(Usage("there is no terminal to ask for confirmation".to_owned()))
            .hint("--force goes ahead without asking");
    }
    prompt::confirm(question)
}
