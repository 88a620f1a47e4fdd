//! Processes of this host, run as the current user.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::termios::Winsize;
use tokio::sync::oneshot;

use crate::spawn::{SpawnFailure, SpawnRequest, Spawned, Stdio};

/// Starts processes directly on this host. No isolation whatsoever.
#[derive(Clone, Debug, Default)]
pub struct PlainSpawner {
    /// Working directory of commands that name none; absent: `HOME` of their environment.
    pub home: Option<PathBuf>,
}

/// The streams of a process about to be started.
struct Streams {
    child: [OwnedFd; 3],
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
}

impl PlainSpawner {
    /// Starts a process. Blocks for as long as a fork takes.
    ///
    /// # Errors
    /// See [`SpawnFailure`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn(&self, request: SpawnRequest) -> Result<Spawned, SpawnFailure> {
        let dir = self.directory(&request)?;
        let name = request.path.as_deref().or(request.argv.first().map(String::as_str));
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Err(command(127, "no command"));
        };
        let program = find_program(name, &request.env, &dir)?;
        let streams =
            make_streams(request.stdio).map_err(|error| internal("make its streams", error))?;

        let [stdin, stdout, stderr] = streams.child;
        let mut child = std::process::Command::new(&program);
        child
            .args(request.argv.iter().skip(1))
            .env_clear()
            .envs(request.env.iter().map(|(k, v)| (k, v)))
            .current_dir(&dir)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr);
        if let Some(arg0) = request.argv.first() {
            std::os::unix::process::CommandExt::arg0(&mut child, arg0);
        }
        crate::sys::lead_session(&mut child, matches!(request.stdio, Stdio::Terminal { .. }));
        let mut child = tokio::process::Command::from(child)
            // When the runtime goes, so does the process: a failed test leaves nothing behind.
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| spawn_failure(name, &error))?;

        let pid = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or_default();
        let (tell, exit) = oneshot::channel();
        tokio::spawn(async move {
            let code = match child.wait().await {
                Ok(status) => status.code().unwrap_or(128 + status.signal().unwrap_or(0)),
                Err(_) => 255,
            };
            // Nobody listens any more when the session was given up.
            let _ = tell.send(code);
        });
        Ok(Spawned {
            pid,
            program: program.to_string_lossy().into_owned(),
            dir: dir.to_string_lossy().into_owned(),
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            exit,
        })
    }

    fn directory(&self, request: &SpawnRequest) -> Result<PathBuf, SpawnFailure> {
        let home = || {
            let home = request.env.iter().find(|(key, _)| key == "HOME");
            home.map_or_else(|| PathBuf::from("/"), |(_, home)| PathBuf::from(home))
        };
        let base = self.home.clone().unwrap_or_else(home);
        let dir = request.dir.as_ref().map_or_else(|| base.clone(), |dir| base.join(dir));
        match std::fs::metadata(&dir) {
            Ok(meta) if meta.is_dir() => Ok(dir),
            Ok(_) => Err(command(1, format!("chdir {}: not a directory", dir.display()))),
            Err(error) => Err(command(1, format!("chdir {}: {}", dir.display(), text(&error)))),
        }
    }
}

fn command(exit_code: u8, message: impl Into<String>) -> SpawnFailure {
    SpawnFailure::Command { exit_code, message: message.into() }
}

fn internal(what: &str, error: std::io::Error) -> SpawnFailure {
    SpawnFailure::Internal { detail: format!("{what}: {error}") }
}

/// The operating system's words, without the number in parentheses that `std` adds.
fn text(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

fn spawn_failure(name: &str, error: &std::io::Error) -> SpawnFailure {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => command(127, format!("{name}: no such file or directory")),
        Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE) => {
            SpawnFailure::Internal { detail: error.to_string() }
        }
        _ => command(126, format!("{name}: {}", text(error))),
    }
}

fn find_program(name: &str, env: &[(String, String)], dir: &Path) -> Result<PathBuf, SpawnFailure> {
    if name.contains('/') {
        return Ok(dir.join(name));
    }
    let path = env.iter().find(|(key, _)| key == "PATH").map_or("", |(_, path)| path.as_str());
    let mut denied = false;
    for folder in std::env::split_paths(OsStr::from_bytes(path.as_bytes())) {
        let candidate = dir.join(folder).join(name);
        let Ok(meta) = std::fs::metadata(&candidate) else { continue };
        if !meta.is_file() {
            continue;
        }
        if rustix::fs::access(&candidate, rustix::fs::Access::EXEC_OK).is_ok() {
            return Ok(candidate);
        }
        denied = true;
    }
    if denied {
        return Err(command(126, format!("{name}: permission denied")));
    }
    Err(command(127, format!("{name}: executable file not found in $PATH")))
}

fn make_streams(stdio: Stdio) -> std::io::Result<Streams> {
    match stdio {
        Stdio::Terminal { cols, rows } => {
            use rustix::pty::OpenptFlags;
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            let master = rustix::pty::openpt(flags)?;
            rustix::pty::grantpt(&master)?;
            rustix::pty::unlockpt(&master)?;
            set_size(&master, cols, rows)?;
            let name = rustix::pty::ptsname(&master, Vec::new())?;
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            let slave = rustix::fs::open(name.as_c_str(), flags, Mode::empty())?;
            let child = [slave.try_clone()?, slave.try_clone()?, slave];
            Ok(Streams { child, stdin: None, stdout: master, stderr: None })
        }
        Stdio::Pipes { stdin } => {
            let (input, theirs) = if stdin {
                let (read, write) = pipe()?;
                (Some(write), read)
            } else {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                (None, rustix::fs::open("/dev/null", flags, Mode::empty())?)
            };
            let (out_read, out_write) = pipe()?;
            let (error_read, error_write) = pipe()?;
            let child = [theirs, out_write, error_write];
            Ok(Streams { child, stdin: input, stdout: out_read, stderr: Some(error_read) })
        }
    }
}

fn pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // A big pipe saves wake-ups; users have a budget of such pages, so it may be refused.
    let _ = rustix::pipe::fcntl_setpipe_size(&write, 1024 * 1024);
    Ok((read, write))
}

/// Sets a terminal's size in characters.
pub(crate) fn set_size(terminal: &OwnedFd, cols: u16, rows: u16) -> rustix::io::Result<()> {
    let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
}
