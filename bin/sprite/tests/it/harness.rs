//! Runs the command with a home of its own.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::fake::Server;

/// The only valid token of the fake server.
pub(crate) const TOKEN: &str = "acme/org-aaaaaaaa/tok-bbbbbbbbbb/S3cretS3cret";

/// A home, a working directory and a server.
pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) dir: tempfile::TempDir,
    /// More environment variables.
    pub(crate) env: Vec<(String, String)>,
}

/// What a run printed and how it ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl World {
    /// A world without a stored token.
    pub(crate) fn strange() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("home")).unwrap();
        std::fs::create_dir(dir.path().join("work")).unwrap();
        Self { server: Server::start(), dir, env: Vec::new() }
    }

    /// A world with a token in the environment.
    pub(crate) fn known() -> Self {
        let mut world = Self::strange();
        world.env.push(("SPRITE_TOKEN".into(), TOKEN.into()));
        world.env.push(("SPRITES_API_URL".into(), world.server.url()));
        world
    }

    /// A known world with a sprite `demo` that is used by default.
    pub(crate) fn with_demo() -> Self {
        let world = Self::known();
        world.server.add_sprite("demo");
        std::fs::write(world.work().join(".sprite"), r#"{"sprite":"demo"}"#).unwrap();
        world
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.work().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn read(&self, name: impl AsRef<Path>) -> String {
        std::fs::read_to_string(self.work().join(name)).unwrap()
    }

    /// The command, ready to start.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.any_command(env!("CARGO_BIN_EXE_sprite"), arguments)
    }

    /// Another program in this world.
    pub(crate) fn any_command(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home())
            .envs(self.env.iter().cloned())
            .current_dir(self.work())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        finish(self.command(arguments).output().unwrap())
    }

    /// Runs the command with some input.
    pub(crate) fn run_with(&self, arguments: &[&str], input: &[u8]) -> Run {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            // A command that does not read all of it is no failure here.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        finish(output)
    }
}

fn finish(output: Output) -> Run {
    Run {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Run {
    /// Checks that the command succeeded and returns what it printed.
    #[track_caller]
    pub(crate) fn good(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// Checks that the command failed with this code and returns what it said.
    #[track_caller]
    pub(crate) fn bad(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        self.stderr
    }
}

/// Ends a child when dropped, also after a panic.
pub(crate) struct Reaped(pub(crate) Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until a condition holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("never happened: {what}");
}
