//! Renaming.

use std::path::Path;

use rustix::io::Errno;
use sprite_api::fs::Moved;

use crate::error::FsError;
use crate::helper::{Outcome, Report, answer_json, copy, remove};
use crate::wire::Channel;

pub(crate) fn run(channel: &mut Channel, source: &str, dest: &str) -> Outcome {
    if source == "/" || dest == "/" {
        return Err(FsError::invalid(source, "the root directory cannot be renamed").into());
    }
    match std::fs::rename(source, dest) {
        Ok(()) => {}
        // The temporary directory is a file system of its own; `mv` copes, so do we.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::XDEV) => {
            move_across(channel, source, dest)?;
        }
        Err(error) => {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            let source_is_there = std::fs::symlink_metadata(source).is_ok();
            let path = if missing && source_is_there { dest } else { source };
            return Err(FsError::io(&error, "rename", path).into());
        }
    }
    answer_json(channel, &Moved { source: source.to_owned(), dest: dest.to_owned() })
}

fn move_across(channel: &mut Channel, source: &str, dest: &str) -> Outcome {
    let meta = std::fs::symlink_metadata(source);
    let meta = meta.map_err(|error| FsError::io(&error, "rename", source))?;
    if let Ok(there) = std::fs::symlink_metadata(dest) {
        if there.is_dir() && !meta.is_dir() {
            return Err(FsError::new(Errno::ISDIR, "rename", dest).into());
        }
        if !there.is_dir() && meta.is_dir() {
            return Err(FsError::new(Errno::NOTDIR, "rename", dest).into());
        }
        // Fails for a directory that holds something, as a rename would.
        remove::remove(channel, Path::new(dest), false, &mut Report::new())?;
    }
    let mut tree = copy::Tree::new(true);
    tree.copy(channel, Path::new(source), Path::new(dest), false)?;
    remove::remove(channel, Path::new(source), true, &mut Report::new())
}
