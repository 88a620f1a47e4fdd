//! Stored orgs.

use anyhow::anyhow;
use serde_json::json;

use crate::args::{ForceArgs, KeyringCommand, OrgCommand};
use crate::config::{Config, normal_url, split_org};
use crate::context::Context;
use crate::output::{Style, To, clean, json as print_json, out, paint, success};
use crate::report::{Exit, WithHint};

use super::auth;

pub(super) async fn run(context: &Context, command: OrgCommand) -> anyhow::Result<Exit> {
    match command {
        OrgCommand::Auth(args) => auth::login(context, &args).await,
        OrgCommand::List { server, json } => list(context, server.as_deref(), json.json),
        OrgCommand::Logout(args) => logout(context, &args),
        OrgCommand::Keyring(KeyringCommand::Enable) => Err(anyhow!(
            "keeping tokens in the system keyring is not supported"
        ))
        .hint(format!("they are in {}, readable by you only", context.file.path().display())),
        OrgCommand::Keyring(KeyringCommand::Disable) => {
            out!("Tokens are kept in {}, readable by you only.", context.file.path().display())?;
            Ok(Exit::SUCCESS)
        }
    }
}

struct Row {
    url: String,
    alias: Option<String>,
    org: String,
    selected: bool,
}

fn rows(config: &Config, server: Option<&str>) -> Vec<Row> {
    let wanted =
        server.map(|server| config.url_of_alias(server).unwrap_or_else(|| normal_url(server)));
    let selection = config.selection();
    let mut rows = Vec::new();
    for url in config.urls().into_iter().filter(|url| wanted.as_ref().is_none_or(|w| w == url)) {
        for org in config.orgs(&url) {
            let selected = selection == (Some(url.clone()), Some(org.clone()));
            rows.push(Row { url: url.clone(), alias: config.alias_of_url(&url), org, selected });
        }
    }
    rows
}

fn list(context: &Context, server: Option<&str>, json: bool) -> anyhow::Result<Exit> {
    let rows = rows(&context.file.load()?, server);
    if json {
        let entries: Vec<_> = rows
            .iter()
            .map(|row| {
                json!({ "org": row.org, "url": row.url, "alias": row.alias, "selected": row.selected })
            })
            .collect();
        print_json(&entries)?;
        return Ok(Exit::SUCCESS);
    }
    if rows.is_empty() {
        out!("No orgs are stored. `sprite login <url>` stores one.")?;
    }
    for row in rows {
        let mark = if row.selected { paint("*", Style::Good, To::Stdout) } else { " ".to_owned() };
        let alias = row.alias.map(|alias| format!(" ({})", clean(&alias))).unwrap_or_default();
        let place = paint(&format!("{}{alias}", clean(&row.url)), Style::Dim, To::Stdout);
        out!("{mark} {}  {place}", clean(&row.org))?;
    }
    Ok(Exit::SUCCESS)
}

fn logout(context: &Context, args: &ForceArgs) -> anyhow::Result<Exit> {
    let Some(named) = context.global.org.as_deref() else {
        if !args.force && !auth::confirmed("Remove all stored tokens?")? {
            out!("Cancelled.")?;
            return Ok(Exit::SUCCESS);
        }
        let count = context.file.update(Config::remove_all)?;
        success(&format!(
            "Removed the tokens of {count} org{}",
            if count == 1 { "" } else { "s" }
        ))?;
        return Ok(Exit::SUCCESS);
    };
    let (alias, org) = split_org(named);
    let config = context.file.load()?;
    let of_alias = alias.and_then(|alias| config.url_of_alias(alias));
    let urls: Vec<_> = config
        .urls()
        .into_iter()
        .filter(|url| config.has_org(url, org))
        .filter(|url| alias.is_none() || of_alias.as_ref() == Some(url))
        .collect();
    if urls.is_empty() {
        return Err(anyhow!("no token of org `{named}` is stored")).hint("`sprite org list`");
    }
    let question = format!("Remove the token of org `{org}` at {}?", urls.join(", "));
    if !args.force && !auth::confirmed(&question)? {
        out!("Cancelled.")?;
        return Ok(Exit::SUCCESS);
    }
    context.file.update(|config| {
        for url in &urls {
            config.remove(url, org);
        }
    })?;
    success(&format!("Removed the token of org {org}"))?;
    Ok(Exit::SUCCESS)
}
