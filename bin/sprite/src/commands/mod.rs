//! The commands, one module per group.

mod api;
mod auth;
mod checkpoint;
mod console;
mod create;
mod destroy;
mod exec;
mod file;
mod info;
mod list;
mod org;
mod sessions;
mod tunnel;
mod uploads;
mod use_sprite;

use clap::CommandFactory;

use crate::args::{Cli, Command, JsonArgs, UpgradeArgs};
use crate::context::Context;
use crate::output::out;
use crate::report::{Exit, WithHint};

/// Runs a command.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<Exit> {
    let Cli { global, command } = cli;
    match command {
        Command::Completion { shell } => return completion(shell),
        Command::Version(JsonArgs { json }) => return version(json),
        Command::Upgrade(args) => return upgrade(&args),
        _ => {}
    }
    let context = Context::new(global)?;
    match command {
        Command::Login(args) => auth::login(&context, &args).await,
        Command::Logout(args) => auth::logout(&context, &args),
        Command::Auth(command) => auth::setup(&context, command).await,
        Command::Org(command) => org::run(&context, command).await,
        Command::Create(args) => create::run(&context, args).await,
        Command::Use(args) => use_sprite::run(&context, args).await,
        Command::List(args) => list::run(&context, &args).await,
        Command::Info(args) => info::info(&context, &args).await,
        Command::Url(args) => info::url(&context, args).await,
        Command::Config(command) => info::config(&context, command).await,
        Command::Destroy(args) => destroy::run(&context, &args).await,
        Command::Exec(args) => exec::run(&context, args).await,
        Command::Console(args) => console::run(&context, &args).await,
        Command::Sessions(command) => sessions::run(&context, command).await,
        Command::Attach(args) => sessions::attach(&context, &args).await,
        Command::Cp(args) => file::cp(&context, args).await,
        Command::File(command) => file::run(&context, command).await,
        Command::Checkpoint(command) => checkpoint::run(&context, command).await,
        Command::Restore(args) => checkpoint::restore(&context, &args.id).await,
        Command::Proxy(args) => tunnel::run(&context, &args).await,
        Command::Api(args) => api::run(&context, args).await,
        Command::Completion { .. } | Command::Version(_) | Command::Upgrade(_) => {
            unreachable!("answered above, without a context")
        }
    }
}

fn completion(shell: clap_complete::Shell) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sprite", &mut script);
    out!("{}", String::from_utf8_lossy(&script).trim_end())?;
    Ok(Exit::SUCCESS)
}

fn version(json: bool) -> anyhow::Result<Exit> {
    let version = env!("CARGO_PKG_VERSION");
    if json {
        crate::output::json(&serde_json::json!({ "version": version }))?;
    } else {
        out!("sprite {version}")?;
    }
    Ok(Exit::SUCCESS)
}

fn upgrade(args: &UpgradeArgs) -> anyhow::Result<Exit> {
    let UpgradeArgs { check: _, force: _, wanted: _, channel: _ } = args;
    Err(anyhow::anyhow!("this client does not update itself"))
        .hint("build or install the newer version the way this one came to you")
}
