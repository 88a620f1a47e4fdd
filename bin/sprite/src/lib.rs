//! The `sprite` command: sprites, commands, consoles and files from a terminal.
//!
//! Data goes to stdout, talk to stderr, an error is followed by a `hint:` line. Decisions
//! (argument spelling, org and sprite, terminal bytes, copy targets) are pure functions; the
//! commands perform them.

#![warn(missing_docs)]

mod args;
mod commands;
mod config;
mod context;
mod copy;
mod debug;
mod output;
mod prompt;
mod report;
mod session;
mod when;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use crate::report::Exit;

/// Runs the command line and returns the process's exit code.
#[must_use]
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let mut command = args::Cli::command();
    command.build();
    let arguments = args::normalise(arguments, &command);
    let parsed = args::Cli::command()
        .try_get_matches_from(arguments)
        .and_then(|matches| args::Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Broken pipes have nobody to tell.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let exit = debug::start(cli.global.debug.as_deref()).and_then(|()| run(cli));
    match exit {
        Ok(Exit(code)) => ExitCode::from(code),
        Err(error) => report::print(&error),
    }
}

fn run(cli: args::Cli) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(commands::run(cli));
    // A thread may still be blocked in a read of the terminal.
    runtime.shutdown_background();
    result
}
