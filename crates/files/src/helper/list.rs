//! Listing.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sprite_api::format::format_mode;
use sprite_api::fs::{Entry, LIST_MAX, Listing};
use sprite_types::Timestamp;

use crate::error::FsError;
use crate::glob;
use crate::helper::{Outcome, answer_json, show, sorted_names};
use crate::path::split;
use crate::wire::Channel;

pub(crate) fn run(
    channel: &mut Channel,
    path: &str,
    recursive: bool,
    pattern: Option<&str>,
) -> Outcome {
    let meta = std::fs::metadata(path).map_err(|error| FsError::io(&error, "list", path))?;
    let mut entries = Vec::new();
    if meta.is_dir() {
        walk(channel, Path::new(path), path, recursive, pattern, &mut entries)?;
    } else {
        entries.push(entry(split(path).1, path.to_owned(), &meta, false));
    }
    let listing = Listing { path: path.to_owned(), count: entries.len(), entries };
    answer_json(channel, &listing)
}

fn walk(
    channel: &mut Channel,
    dir: &Path,
    top: &str,
    recursive: bool,
    pattern: Option<&str>,
    entries: &mut Vec<Entry>,
) -> Outcome {
    let names = match sorted_names(dir) {
        Ok(names) => names,
        // Below the top, what may not be read is listed without its content.
        Err(_) if dir != Path::new(top) => return Ok(()),
        Err(error) => return Err(FsError::io(&error, "list", top).into()),
    };
    for name in names {
        channel.alive()?;
        let path = dir.join(&name);
        // Gone since the directory was read.
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        let is_link = meta.is_symlink();
        let name = name.to_string_lossy();
        if pattern.is_none_or(|pattern| glob::matches(pattern, &name)) {
            if entries.len() == LIST_MAX {
                let why = format!("more than {LIST_MAX} entries; list a smaller directory");
                return Err(FsError::invalid(top, &why).into());
            }
            let to_dir = is_link && std::fs::metadata(&path).is_ok_and(|meta| meta.is_dir());
            entries.push(entry(&name, show(&path), &meta, to_dir));
        }
        if recursive && meta.is_dir() {
            walk(channel, &path, top, recursive, pattern, entries)?;
        }
    }
    Ok(())
}

fn entry(name: &str, path: String, meta: &Metadata, links_to_dir: bool) -> Entry {
    let kind = if meta.is_symlink() {
        "symlink"
    } else if meta.is_dir() {
        "directory"
    } else {
        "file"
    };
    let seconds = meta.mtime().saturating_mul(1_000_000);
    let mod_time = Timestamp::from_micros(seconds.saturating_add(meta.mtime_nsec() / 1000));
    Entry {
        name: name.to_owned(),
        path,
        kind: kind.to_owned(),
        size: meta.len(),
        mode: format_mode(meta.mode()),
        mod_time: mod_time.rfc3339(),
        is_dir: meta.is_dir() || links_to_dir,
    }
}
