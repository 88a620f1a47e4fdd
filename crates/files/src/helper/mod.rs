//! The helper's side: one blocking call on one socket.

mod change;
mod copy;
mod list;
mod read;
mod remove;
mod rename;
mod write;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use serde::Serialize;
use sprite_api::fs::REPORT_MAX;

use crate::error::FsError;
use crate::request::{Operation, Request};
use crate::wire::{Channel, Head, REQUEST};

/// Why a call ended without its answer.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The call failed, and the agent is told how.
    Failed(FsError),
    /// The agent is gone, or the file broke off in the middle of its body.
    Lost(io::Error),
}

impl From<FsError> for Stop {
    fn from(error: FsError) -> Self {
        Self::Failed(error)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

pub(crate) type Outcome = Result<(), Stop>;

/// Carries out one call that comes in through `socket`, and returns an exit code.
///
/// To be run in a process of its own: it blocks for as long as the file system does, and sets
/// the process's umask.
#[must_use]
pub fn helper_main(socket: OwnedFd) -> i32 {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    i32::from(serve(socket).is_err())
}

/// Like [`helper_main`], but leaves the process as it is, so that a thread may run it.
pub(crate) fn serve(socket: OwnedFd) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&socket, false)?;
    let mut channel = Channel::new(UnixStream::from(socket));
    let (kind, payload) = channel.receive(Vec::new())?;
    if kind != REQUEST {
        return Err(io::Error::other("expected a request"));
    }
    let request: Request = serde_json::from_slice(&payload)?;
    match run(&mut channel, request.operation) {
        Ok(()) => Ok(()),
        Err(Stop::Lost(error)) => Err(error),
        Err(Stop::Failed(error)) => {
            let body = serde_json::to_vec(&error.body())?;
            let length = Some(body.len() as u64);
            let head = Head { status: error.status, json: true, length, range: None };
            channel.answer(&head, &body)
        }
    }
}

fn run(channel: &mut Channel, operation: Operation) -> Outcome {
    match operation {
        Operation::Read { path, range } => read::run(channel, &path, range),
        Operation::Write { path, mode, parents } => write::run(channel, &path, mode, parents),
        Operation::List { path, recursive, pattern } => {
            list::run(channel, &path, recursive, pattern.as_deref())
        }
        Operation::Delete { path, recursive } => remove::run(channel, &path, recursive),
        Operation::Rename { source, dest } => rename::run(channel, &source, &dest),
        Operation::Copy { source, dest, recursive, preserve } => {
            copy::run(channel, &source, &dest, recursive, preserve)
        }
        Operation::Chmod { path, mode, recursive } => {
            change::modes(channel, &path, mode, recursive)
        }
        Operation::Chown { path, uid, gid, recursive } => {
            change::owners(channel, &path, uid, gid, recursive)
        }
    }
}

/// Answers with JSON.
fn answer_json(channel: &mut Channel, value: &impl Serialize) -> Outcome {
    let body = serde_json::to_vec(value).map_err(io::Error::from)?;
    let length = Some(body.len() as u64);
    channel.answer(&Head { status: 200, json: true, length, range: None }, &body)?;
    Ok(())
}

/// A list of what was done that stops growing at some point, and a count that does not.
struct Report<T> {
    items: Vec<T>,
    count: u64,
}

impl<T> Report<T> {
    const fn new() -> Self {
        Self { items: Vec::new(), count: 0 }
    }

    fn add(&mut self, item: impl FnOnce() -> T) {
        self.count += 1;
        if self.items.len() < REPORT_MAX {
            self.items.push(item());
        }
    }
}

/// Returns the names in a directory, in byte order; those that are not UTF-8 are mangled only
/// where they are shown.
fn sorted_names(path: &std::path::Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        names.push(entry?.file_name());
    }
    names.sort_unstable();
    Ok(names)
}

fn show(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}
