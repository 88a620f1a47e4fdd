//! Finding a command's program, and the words for not finding it.

use std::io;

use rustix::fs::{Access, AtFlags, CWD, FileType};

use crate::error::SpawnError;

/// Search path of commands whose environment has none.
pub(crate) const DEFAULT_PATH: &str =
    "/.sprite/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Finds the file to execute. A name with a `/` is taken as it is; another is searched in the
/// directories of `path`. Runs inside the container as the command's user.
pub(crate) fn find_program(name: &str, path: &str) -> Result<String, SpawnError> {
    find_with(name, path, probe)
}

/// What a candidate turned out to be.
#[derive(Clone, Copy, PartialEq)]
enum Probe {
    Missing,
    Forbidden,
    Executable,
}

fn find_with(name: &str, path: &str, probe: impl Fn(&str) -> Probe) -> Result<String, SpawnError> {
    if name.is_empty() {
        return Err(not_found(name));
    }
    if name.contains('/') {
        // Whether it can be executed is for the kernel to say.
        return Ok(name.to_owned());
    }
    let mut forbidden = None;
    for directory in path.split(':') {
        let candidate = match directory {
            "" => format!("./{name}"),
            directory => format!("{}/{name}", directory.trim_end_matches('/')),
        };
        match probe(&candidate) {
            Probe::Executable => return Ok(candidate),
            Probe::Forbidden => forbidden = forbidden.or(Some(candidate)),
            Probe::Missing => {}
        }
    }
    match forbidden {
        Some(candidate) => {
            Err(SpawnError::NotExecutable { message: format!("{candidate}: Permission denied") })
        }
        None => Err(not_found(name)),
    }
}

fn probe(candidate: &str) -> Probe {
    match rustix::fs::stat(candidate) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
            match rustix::fs::accessat(CWD, candidate, Access::EXEC_OK, AtFlags::empty()) {
                Ok(()) => Probe::Executable,
                Err(_) => Probe::Forbidden,
            }
        }
        _ => Probe::Missing,
    }
}

fn not_found(name: &str) -> SpawnError {
    SpawnError::NotFound { message: format!("{name}: executable file not found in $PATH") }
}

/// Says why executing `program` failed.
pub(crate) fn exec_error(program: &str, error: &io::Error) -> SpawnError {
    let message = format!("{program}: {}", describe(error));
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => SpawnError::NotFound { message },
        Some(libc::E2BIG) => SpawnError::TooLong { message },
        _ => SpawnError::NotExecutable { message },
    }
}

/// Says why the working directory could not be entered.
pub(crate) fn directory_error(directory: &str, error: &io::Error) -> SpawnError {
    SpawnError::BadDirectory { message: format!("chdir {directory}: {}", describe(error)) }
}

/// The C library's text for an error, without Rust's ` (os error 2)`.
fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe_list(candidate: &str) -> Probe {
        match candidate {
            "/usr/bin/ls" | "/bin/ls" | "./here" => Probe::Executable,
            "/opt/secret" | "/opt/ls" => Probe::Forbidden,
            _ => Probe::Missing,
        }
    }

    #[test]
    fn the_first_executable_in_the_path_wins() {
        let found = find_with("ls", "/opt:/usr/bin/:/bin", probe_list);
        assert_eq!(found.as_deref(), Ok("/usr/bin/ls"));
        assert_eq!(find_with("here", "/bin:", probe_list).as_deref(), Ok("./here"));
    }

    #[test]
    fn names_with_a_slash_are_not_searched() {
        assert_eq!(find_with("./x", "/bin", probe_list).as_deref(), Ok("./x"));
        assert_eq!(find_with("/no/such", "/bin", probe_list).as_deref(), Ok("/no/such"));
    }

    #[test]
    fn the_words_are_those_of_the_contract() {
        let error = find_with("foo", "/bin", probe_list).unwrap_err();
        assert_eq!(error.exit_code(), Some(127));
        assert_eq!(error.message(), "foo: executable file not found in $PATH");
        let error = find_with("secret", "/bin:/opt", probe_list).unwrap_err();
        assert_eq!(error.exit_code(), Some(126));
        assert_eq!(error.message(), "/opt/secret: Permission denied");
        assert_eq!(find_with("", "/bin", probe_list).unwrap_err().exit_code(), Some(127));
    }

    #[test]
    fn kernel_errors_become_exit_codes() {
        let code = |errno| exec_error("/x", &io::Error::from_raw_os_error(errno)).exit_code();
        assert_eq!(code(libc::ENOENT), Some(127));
        assert_eq!(code(libc::EACCES), Some(126));
        assert_eq!(code(libc::ENOEXEC), Some(126));
        assert_eq!(code(libc::E2BIG), Some(126));
        let error = directory_error("/nope", &io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(error.message(), "chdir /nope: No such file or directory");
        assert_eq!(error.exit_code(), Some(1));
    }
}
