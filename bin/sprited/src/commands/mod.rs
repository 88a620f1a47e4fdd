//! The commands beside `up`. They ask a running `sprited`, and open the data themselves only
//! when none runs.

mod doctor;
mod image;
pub(crate) mod records;
mod stop;

pub(crate) use doctor::doctor;
pub(crate) use image::image;
pub(crate) use stop::stop;

use std::process::ExitCode;

use anyhow::bail;
use http::Method;

use crate::admin::{AdminClient, AdminError, MadeToken, NewOrg, NewToken, OrgEntry, TokenEntry};
use crate::cli::{OrgCommand, TokenCommand};
use crate::config::Config;
use crate::sprites::open_catalog;

/// Prints rows as columns.
pub(crate) fn print_table(heading: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heading[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |cells: &[&str]| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", padded.join("  ").trim_end());
    };
    line(heading);
    for row in rows {
        line(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

pub(crate) async fn token(config: &Config, command: TokenCommand) -> anyhow::Result<ExitCode> {
    let client = AdminClient::new(&config.admin_socket());
    match command {
        TokenCommand::Create { org, description, quiet } => {
            let new = NewToken { org, description };
            let made: MadeToken = match client.call(Method::POST, "/v1/tokens", Some(&new)).await {
                Err(AdminError::NotRunning) => {
                    records::create_token(&open_catalog(config)?, &new).await?
                }
                result => result?,
            };
            if quiet {
                println!("{}", made.token);
            } else {
                println!("{}", made.token);
                eprintln!(
                    "Token {} of org {}. It is shown only this once.\n\
                     hint: sprite login http://{}   (and paste it)",
                    made.id, new.org, config.listen
                );
            }
        }
        TokenCommand::List { org, json } => {
            let path = format!("/v1/tokens?org={}", checked(&org)?);
            let tokens: Vec<TokenEntry> = match client.call(Method::GET, &path, NOTHING).await {
                Err(AdminError::NotRunning) => {
                    records::list_tokens(&open_catalog(config)?, &org).await?
                }
                result => result?,
            };
            if json {
                println!("{}", serde_json::to_string_pretty(&tokens)?);
            } else {
                let row = |t: &TokenEntry| {
                    vec![t.id.clone(), t.created_at.clone(), t.description.clone()]
                };
                print_table(
                    &["ID", "CREATED", "DESCRIPTION"],
                    &tokens.iter().map(row).collect::<Vec<_>>(),
                );
            }
        }
        TokenCommand::Revoke { org, id } => {
            let path = format!("/v1/tokens/{}/{}", checked(&org)?, checked(&id)?);
            match client.call::<()>(Method::DELETE, &path, NOTHING).await {
                Err(AdminError::NotRunning) => {
                    records::revoke_token(&open_catalog(config)?, &org, &id).await?;
                }
                result => result?,
            }
            eprintln!("Revoked {id}.");
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn org(config: &Config, command: OrgCommand) -> anyhow::Result<ExitCode> {
    let client = AdminClient::new(&config.admin_socket());
    match command {
        OrgCommand::Create { name } => {
            let new = NewOrg { name };
            let org: OrgEntry = match client.call(Method::POST, "/v1/orgs", Some(&new)).await {
                Err(AdminError::NotRunning) => {
                    records::create_org(&open_catalog(config)?, &new).await?
                }
                result => result?,
            };
            println!("{}", org.name);
            eprintln!("hint: sprited token create --org {}", org.name);
        }
        OrgCommand::List { json } => {
            let orgs: Vec<OrgEntry> = match client.call(Method::GET, "/v1/orgs", NOTHING).await {
                Err(AdminError::NotRunning) => records::list_orgs(&open_catalog(config)?).await,
                result => result?,
            };
            if json {
                println!("{}", serde_json::to_string_pretty(&orgs)?);
            } else {
                let row = |o: &OrgEntry| vec![o.name.clone(), o.id.clone(), o.created_at.clone()];
                print_table(&["NAME", "ID", "CREATED"], &orgs.iter().map(row).collect::<Vec<_>>());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

const NOTHING: Option<&()> = None;

/// Lets through what can stand in a path as it is.
fn checked(text: &str) -> anyhow::Result<&str> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        bail!("`{}` is not a name or an id", text.escape_debug());
    }
    Ok(text)
}
