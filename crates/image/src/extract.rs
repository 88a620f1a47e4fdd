//! Unpacks tar streams into a [`Root`], layer upon layer.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use tar::{Archive, Entry, EntryType};

use crate::root::{Attributes, Root};

/// Prefix of the name of an entry that removes another. **Source:** OCI image layer
/// specification, *Whiteouts*.
const WHITEOUT: &str = ".wh.";
/// Name of an entry that empties its folder.
const OPAQUE: &str = ".wh..wh..opq";
/// Extended attributes of a file that are kept.
const XATTRS: [&str; 2] = ["security.capability", "user."];
/// Largest extended attribute. **Source:** `XATTR_SIZE_MAX`.
const XATTR_BYTES_MAX: usize = 64 << 10;

/// What an unpacked source may use at most, over all its layers.
#[derive(Debug)]
pub(crate) struct Budget {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

/// How a stream is unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A whole root file system, or our own files over one: folders of the stream may be links
    /// to folders in the root.
    Plain,
    /// Entries of the stream that remove what earlier layers brought. Run before `Layer`.
    Whiteouts,
    /// Everything else of a layer.
    Layer,
}

/// Unpacks a stream. Device nodes are left out: a sprite gets its own, and a stored one would
/// be a way to the host's.
///
/// # Errors
/// `InvalidData` for entries that lead out of the root or exceed the budget, `Interrupted` when
/// cancelled, and whatever reading or writing says. The root is then useless.
pub(crate) fn unpack(
    stream: impl Read,
    root: &Root,
    mode: Mode,
    budget: &mut Budget,
    cancel: &AtomicBool,
) -> io::Result<()> {
    let mut archive = Archive::new(stream);
    for entry in archive.entries()? {
        if cancel.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "cancelled"));
        }
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let whiteout = path
            .file_name()
            .and_then(OsStr::to_str)
            .filter(|name| mode != Mode::Plain && name.starts_with(WHITEOUT));
        let done = match (mode, whiteout.map(str::to_owned)) {
            (Mode::Whiteouts, Some(name)) => remove(root, &path, &name),
            (Mode::Whiteouts, None) | (Mode::Layer, Some(_)) => Ok(()),
            (_, _) => add(root, &mut entry, &path, mode, budget),
        };
        done.map_err(|error| {
            io::Error::new(error.kind(), format!("entry `{}`: {error}", path.display()))
        })?;
    }
    Ok(())
}

/// Does what a whiteout says.
fn remove(root: &Root, path: &Path, name: &str) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new(""));
    let target = if name == OPAQUE {
        parent.to_owned()
    } else {
        let hidden = &name[WHITEOUT.len()..];
        if hidden.is_empty() || hidden == "." || hidden == ".." || hidden.starts_with(WHITEOUT) {
            return Ok(());
        }
        parent.join(hidden)
    };
    let place = match root.place(&target, false) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(());
        }
        result => result?,
    };
    match place {
        place if name == OPAQUE => root.empty(place.as_ref()),
        Some(place) => root.remove(&place),
        None => Ok(()),
    }
}

fn add<R: Read>(
    root: &Root,
    entry: &mut Entry<'_, R>,
    path: &Path,
    mode: Mode,
    budget: &mut Budget,
) -> io::Result<()> {
    let Some(left) = budget.entries.checked_sub(1) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too many entries"));
    };
    budget.entries = left;
    let attributes = attributes(entry)?;
    let kind = entry.header().entry_type();
    if kind == EntryType::Directory {
        let place = root.place(path, true)?;
        return root.make_dir(place.as_ref(), attributes, mode == Mode::Plain);
    }
    // Anything else in the root's own place makes no sense.
    let Some(place) = root.place(path, true)? else { return Ok(()) };
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let xattrs = xattrs(entry)?;
            let mut limited = entry.take(budget.bytes + 1);
            let written = root.make_file(&place, attributes, &xattrs, &mut limited)?;
            budget.bytes = budget
                .bytes
                .checked_sub(written)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "too large"))?;
            Ok(())
        }
        EntryType::Symlink => {
            let target = link_name(entry)?;
            root.make_link(&place, target.as_os_str(), attributes)
        }
        EntryType::Link => {
            let target = link_name(entry)?;
            let target = root.place(&target, false)?.ok_or(io::ErrorKind::InvalidData)?;
            root.make_hard_link(&place, &target)
        }
        EntryType::Fifo => root.make_fifo(&place, attributes),
        _ => Ok(()), // device nodes and kinds that tar uses for itself
    }
}

fn attributes<R: Read>(entry: &Entry<'_, R>) -> io::Result<Attributes> {
    let header = entry.header();
    let id = |id: io::Result<u64>| {
        id.and_then(|id| u32::try_from(id).map_err(|_| io::ErrorKind::InvalidData.into()))
    };
    Ok(Attributes {
        mode: header.mode()?,
        uid: id(header.uid())?,
        gid: id(header.gid())?,
        mtime: header.mtime().unwrap_or(0),
    })
}

fn link_name<R: Read>(entry: &Entry<'_, R>) -> io::Result<PathBuf> {
    let name = entry.link_name_bytes().ok_or(io::ErrorKind::InvalidData)?;
    if name.is_empty() || name.len() > 4095 || name.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a link leads nowhere"));
    }
    Ok(PathBuf::from(OsStr::from_bytes(&name)))
}

/// Reads the extended attributes that an entry's PAX header carries and that we keep.
fn xattrs<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let Some(extensions) = entry.pax_extensions()? else { return Ok(found) };
    for extension in extensions {
        let extension = extension?;
        let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr."))
        else {
            continue;
        };
        let value = extension.value_bytes();
        if XATTRS.iter().any(|kept| name.starts_with(kept)) && value.len() <= XATTR_BYTES_MAX {
            found.push((name.to_owned(), value.to_vec()));
        }
    }
    Ok(found)
}
