//! The `sprite` command; see [`sprite_cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    sprite_cli::main(std::env::args_os().collect())
}
