//! A terminal for a command: a pseudo-terminal that is its controlling one.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::harness::{Reaped, World, eventually};

/// A command on a terminal.
pub(crate) struct OnTerminal {
    child: Reaped,
    master: OwnedFd,
    /// Kept open, so that the terminal outlives the command.
    slave: OwnedFd,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl OnTerminal {
    pub(crate) fn start(world: &World, arguments: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
        resize(&master, 100, 30);
        let end = || Stdio::from(slave.try_clone().unwrap());
        // `setsid -c` makes the terminal the controlling one, so that signals come from it.
        let sprite = [&["-c", env!("CARGO_BIN_EXE_sprite")], arguments].concat();
        let mut command = world.any_command("setsid", &sprite);
        command.env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end());
        let child = Reaped(command.spawn().unwrap());
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (reader, shown) = (master.try_clone().unwrap(), screen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = rustix::io::read(&reader, &mut buffer) {
                shown.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self { child, master, slave, screen }
    }

    pub(crate) fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) {
        for _ in 0..3000 {
            if self.screen().contains(text) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{text:?} never appeared on\n{:?}", self.screen());
    }

    pub(crate) fn type_keys(&self, keys: &str) {
        let mut master = File::from(self.master.try_clone().unwrap());
        std::io::Write::write_all(&mut master, keys.as_bytes()).unwrap();
    }

    pub(crate) fn resize(&self, cols: u16, rows: u16) {
        resize(&self.master, cols, rows);
    }

    /// Whether keys are handed over at once and without echo.
    pub(crate) fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child().id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn child(&self) -> &Child {
        &self.child.0
    }

    /// Waits for the command's end and returns its exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let child = &mut self.child.0;
        let mut code = None;
        eventually("the command ends", || {
            code = child.try_wait().unwrap();
            code.is_some()
        });
        code.unwrap().code()
    }
}

fn resize(master: &impl AsFd, cols: u16, rows: u16) {
    let size = Winsize { ws_col: cols, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).unwrap();
}
