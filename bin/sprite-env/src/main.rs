//! Command line of the runtime inside a sprite: a thin client of `/.sprite/api.sock`.
//!
//! One program, three names: as `sprite-console` it starts the user's shell on a terminal, as
//! `sprite-browser` (or `xdg-open`) it asks the user's own browser to open a URL. Small and
//! without an async runtime: it is linked statically into every sprite.

mod browser;
mod commands;
mod console;
mod curl;
mod http;
mod options;
mod usage;

use std::process::ExitCode;

/// How a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Wrong usage: exit 2.
    Usage(String),
    /// Everything else: exit 1.
    Error(String),
}

impl Failure {
    fn error(text: impl Into<String>) -> Self {
        Self::Error(text.into())
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args();
    let name = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    let name = name.rsplit('/').next().unwrap_or_default();
    let (name, result) = match name {
        "sprite-console" => ("sprite-console", console::run()),
        "sprite-browser" | "xdg-open" | "www-browser" => ("sprite-browser", browser::run(&args)),
        _ => ("sprite-env", commands::run(&args)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(text)) => {
            eprintln!("{name}: {text}\nhint: {name} --help");
            ExitCode::from(2)
        }
        Err(Failure::Error(text)) => {
            eprintln!("{name}: {text}");
            ExitCode::FAILURE
        }
    }
}
