//! A command's standard streams: our ends and its ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{InputModes, OptionalActions, Winsize};

use crate::spec::Stdio;

/// Wanted capacity of pipes, in bytes. Saves wake-ups when a lot goes through.
const PIPE_SIZE: usize = 1 << 20;
/// Group of terminals inside (`tty`).
const TTY_GROUP: u32 = 5;

/// Both ends of a command's streams.
pub(crate) struct Streams {
    /// Where to write the command's input.
    pub(crate) stdin: Option<OwnedFd>,
    /// Where to read its output; for a terminal, and write its input.
    pub(crate) stdout: OwnedFd,
    /// Where to read its errors.
    pub(crate) stderr: Option<OwnedFd>,
    /// The command's ends: the terminal, or \[input,\] output and error.
    pub(crate) theirs: Vec<OwnedFd>,
}

impl Streams {
    /// Makes the streams. Our ends do not block.
    ///
    /// A terminal is made in the container's own devpts instance, through the mount's
    /// descriptor: no path inside the container is resolved.
    pub(crate) fn open(stdio: Stdio, devpts: impl AsFd, id_base: u32) -> io::Result<Self> {
        match stdio {
            Stdio::Terminal { cols, rows } => Self::terminal(devpts, id_base, cols, rows),
            Stdio::Pipes { stdin } => Self::pipes(stdin, id_base),
        }
    }

    fn terminal(devpts: impl AsFd, id_base: u32, cols: u16, rows: u16) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let ours = rustix::fs::openat(devpts, "ptmx", flags, Mode::empty())?;
        unlockpt(&ours)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let theirs = ioctl_tiocgptpeer(&ours, flags)?;
        // The child hands it on to the command's user.
        let group = Gid::from_raw(id_base + TTY_GROUP);
        rustix::fs::fchown(&theirs, Some(Uid::from_raw(id_base)), Some(group))?;
        let mut modes = rustix::termios::tcgetattr(&theirs)?;
        modes.input_modes |= InputModes::IUTF8;
        rustix::termios::tcsetattr(&theirs, OptionalActions::Now, &modes)?;
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&ours, size)?;
        Ok(Self { stdin: None, stdout: ours, stderr: None, theirs: vec![theirs] })
    }

    fn pipes(stdin: bool, id_base: u32) -> io::Result<Self> {
        let mut theirs = Vec::new();
        let mut input = None;
        if stdin {
            let (read, write) = pipe()?;
            theirs.push(read);
            input = Some(not_blocking(write)?);
        }
        let (stdout, write) = pipe()?;
        theirs.push(write);
        let (stderr, write) = pipe()?;
        theirs.push(write);
        for pipe in &theirs {
            // The child hands them on to the command's user.
            let (uid, gid) = (Uid::from_raw(id_base), Gid::from_raw(id_base));
            rustix::fs::fchown(pipe, Some(uid), Some(gid))?;
        }
        Ok(Self {
            stdin: input,
            stdout: not_blocking(stdout)?,
            stderr: Some(not_blocking(stderr)?),
            theirs,
        })
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // Only a wish: there is a limit per user.
    let _ = fcntl_setpipe_size(&write, PIPE_SIZE);
    Ok((read, write))
}

fn not_blocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
    Ok(fd)
}
