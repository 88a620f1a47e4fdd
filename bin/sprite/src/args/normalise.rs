//! Accepts `-dir` for `--dir`.
//!
//! Walks the arguments as the parser will and gives known long flags their second dash. Stops
//! where flags stop: at `--`, and at the first word of a command line for the sprite.

use std::ffi::OsString;

use clap::{Arg, Command};

/// Returns the arguments with two dashes before every long flag of ours. `root` must be built.
pub(crate) fn normalise(arguments: Vec<OsString>, root: &Command) -> Vec<OsString> {
    let mut result = Vec::with_capacity(arguments.len());
    let mut arguments = arguments.into_iter();
    result.extend(arguments.next());
    let mut command = root;
    while let Some(argument) = arguments.next() {
        let Some(text) = argument.to_str() else {
            result.push(argument);
            continue;
        };
        match read(text, command) {
            Word::End => {
                result.push(argument);
                break;
            }
            Word::Flag { spelled, takes_next } => {
                result.push(spelled.into());
                if takes_next {
                    result.extend(arguments.next());
                }
            }
            Word::Plain => {
                match command.find_subcommand(text) {
                    Some(subcommand) => command = subcommand,
                    None if takes_the_rest(command) => {
                        result.push(argument);
                        break;
                    }
                    None => {}
                }
                result.push(argument);
            }
        }
    }
    result.extend(arguments);
    result
}

enum Word {
    /// `--`.
    End,
    /// A flag, perhaps with its value in the next argument.
    Flag { spelled: String, takes_next: bool },
    /// Anything else.
    Plain,
}

fn read(text: &str, command: &Command) -> Word {
    if text == "--" {
        return Word::End;
    }
    let Some(rest) = text.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
        return Word::Plain;
    };
    let long = rest.strip_prefix('-').unwrap_or(rest);
    let (name, value) = match long.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (long, None),
    };
    // A single letter after one dash is always the short flag.
    let may_be_long = rest.starts_with('-') || name.len() > 1;
    if let Some(flag) = long_flag(command, name).filter(|_| may_be_long) {
        let takes_next =
            value.is_none() && flag.get_action().takes_values() && !flag.is_require_equals_set();
        return Word::Flag { spelled: format!("--{long}"), takes_next };
    }
    let takes_next = !rest.starts_with('-') && short_takes_next(command, rest);
    Word::Flag { spelled: text.to_owned(), takes_next }
}

fn long_flag<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|flag| {
        flag.get_long() == Some(name)
            || flag.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
    })
}

/// Whether the last of some short flags has its value in the next argument.
fn short_takes_next(command: &Command, letters: &str) -> bool {
    let mut letters = letters.chars();
    while let Some(letter) = letters.next() {
        let flag = command.get_arguments().find(|flag| flag.get_short() == Some(letter));
        if flag.is_some_and(|flag| flag.get_action().takes_values()) {
            return letters.as_str().is_empty();
        }
    }
    false
}

fn takes_the_rest(command: &Command) -> bool {
    command.get_positionals().any(Arg::is_trailing_var_arg_set)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;

    fn normal(line: &str) -> String {
        let mut command = Cli::command();
        command.build();
        let arguments = line.split(' ').map(OsString::from).collect();
        let result = normalise(arguments, &command);
        result.iter().map(|a| a.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn long_flags_may_have_one_dash() {
        for (line, expected) in [
            ("sprite exec -dir /tmp ls", "sprite exec --dir /tmp ls"),
            ("sprite exec -dir=/tmp -tty ls", "sprite exec --dir=/tmp --tty ls"),
            ("sprite -org o -sprite s list", "sprite --org o --sprite s list"),
            ("sprite x -http-post ls", "sprite x --http-post ls"),
            ("sprite -debug list -prefix a", "sprite --debug list --prefix a"),
            ("sprite -help", "sprite --help"),
            ("sprite list -w", "sprite list -w"),
            ("sprite -s demo exec -t ls", "sprite -s demo exec -t ls"),
        ] {
            assert_eq!(normal(line), expected);
        }
    }

    #[test]
    fn what_belongs_to_the_command_is_left_alone() {
        for line in [
            "sprite exec find . -name x -dir y",
            "sprite exec -- -dir",
            "sprite exec --env -dir find -dir",
            "sprite -s -org exec ls -dir",
            "sprite exec -s demo find -dir",
            "sprite exec -sdemo find -dir",
            "sprite api /x -- -json -dir",
            "sprite exec -unknown ls -dir",
        ] {
            assert_eq!(normal(line), line);
        }
    }
}
