//! Deleting.

use std::path::Path;

use rustix::io::Errno;
use sprite_api::fs::Deleted;

use crate::error::FsError;
use crate::helper::{Outcome, Report, Stop, answer_json, show, sorted_names};
use crate::wire::Channel;

pub(crate) fn run(channel: &mut Channel, path: &str, recursive: bool) -> Outcome {
    if path == "/" {
        return Err(FsError::invalid(path, "the root directory cannot be deleted").into());
    }
    let mut report = Report::new();
    remove(channel, Path::new(path), recursive, &mut report)?;
    answer_json(channel, &Deleted { deleted: report.items, count: report.count })
}

/// Deletes a file, or a directory and, if asked, what it holds. Links are not followed.
pub(super) fn remove(
    channel: &mut Channel,
    path: &Path,
    recursive: bool,
    report: &mut Report<String>,
) -> Result<(), Stop> {
    let fail = |error: std::io::Error| {
        // POSIX lets file systems say either.
        let error = match Errno::from_io_error(&error) {
            Some(Errno::EXIST) => Errno::NOTEMPTY.into(),
            _ => error,
        };
        Stop::Failed(FsError::io(&error, "delete", &show(path)))
    };
    channel.alive()?;
    if std::fs::symlink_metadata(path).map_err(fail)?.is_dir() {
        if recursive {
            for name in sorted_names(path).map_err(fail)? {
                match remove(channel, &path.join(name), true, report) {
                    // Somebody else was faster.
                    Err(Stop::Failed(error)) if error.is(Errno::NOENT) => {}
                    result => result?,
                }
            }
        }
        std::fs::remove_dir(path).map_err(fail)?;
    } else {
        std::fs::remove_file(path).map_err(fail)?;
    }
    report.add(|| show(path));
    Ok(())
}
