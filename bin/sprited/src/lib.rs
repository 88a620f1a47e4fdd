//! Host daemon: public API and sprite lifecycle in one process.
//!
//! Wiring only. In reading order:
//! - [`cli`], [`config`]: what a person can set, by flag, environment or file;
//! - `up`: opens everything in order, serves, and closes it again;
//! - `admin`: the root-only socket that the other commands use while `up` runs;
//! - `commands`: what those commands do;
//! - `doctor`: what may be wrong with this host, and how to mend it.

pub mod admin;
pub mod cli;
mod commands;
pub mod config;
pub mod doctor;
mod host;
mod image;
mod sprites;
mod up;

use std::process::ExitCode;

use anyhow::Context;
use cli::{Cli, Command};
use config::Config;

/// Runs one command.
///
/// # Errors
/// Says what failed, why, and where possible what to do.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { config, log_format, settings, command } = cli;
    let config = Config::load(config.as_deref(), settings)?;
    let logs = sprite_telemetry::LogSettings {
        format: log_format.parse().map_err(anyhow::Error::msg)?,
        default_filter: match command {
            Command::Up(_) => "info",
            _ => "warn",
        }
        .to_owned(),
    };
    sprite_telemetry::init(&logs).context("set up the log")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let code = runtime.block_on(async {
        match command {
            Command::Up(up) => up::run(config, up).await,
            Command::Stop => commands::stop(&config).await,
            Command::Token(token) => commands::token(&config, token).await,
            Command::Org(org) => commands::org(&config, org).await,
            Command::Image(image) => commands::image(&config, image).await,
            Command::Doctor(doctor) => commands::doctor(&config, doctor).await,
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    code
}
