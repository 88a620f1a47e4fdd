//! Unpacks an archive from a sprite. The sprite is not trusted: nothing is written outside the
//! destination, no set-id bits are set, no devices are made.

use std::io::{self, Read};
use std::path::{Component, Path};

use bytes::{Buf, Bytes};
use tar::{Archive, Entry, EntryType};
use tokio::sync::mpsc;

/// What became of an archive.
#[derive(Default, Debug)]
pub(super) struct Unpacked {
    /// Names of pipes and devices.
    pub(super) skipped: Vec<String>,
}

/// Unpacks an archive that arrives in pieces below `root`, which exists.
pub(super) fn unpack(root: &Path, pieces: mpsc::Receiver<Bytes>) -> io::Result<Unpacked> {
    let mut archive = Archive::new(Pieces { pieces, piece: Bytes::new() });
    // Not set-id bits; the permission bits are kept.
    archive.set_preserve_permissions(false);
    archive.set_preserve_mtime(true);
    archive.set_unpack_xattrs(false);
    let mut unpacked = Unpacked::default();
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = checked_name(&entry)?;
        match entry.header().entry_type() {
            // Last, so that their permissions and times do not suffer from what is put in them.
            EntryType::Directory => directories.push(entry),
            EntryType::Regular
            | EntryType::Continuous
            | EntryType::GNUSparse
            | EntryType::Symlink
            | EntryType::Link => {
                entry.unpack_in(root).map_err(|error| named(&name, &error))?;
            }
            _ => unpacked.skipped.push(name),
        }
    }
    // What is inside first.
    directories.sort_by(|a, b| b.path_bytes().cmp(&a.path_bytes()));
    for mut directory in directories {
        let name = checked_name(&directory)?;
        directory.unpack_in(root).map_err(|error| named(&name, &error))?;
    }
    Ok(unpacked)
}

/// Returns an entry's name if it leads nowhere else.
fn checked_name<R: Read>(entry: &Entry<'_, R>) -> io::Result<String> {
    let path = entry.path()?;
    let name = path.to_string_lossy().into_owned();
    let inside = path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if inside { Ok(name) } else { Err(named(&name, &io::Error::other("leads outside"))) }
}

fn named(name: &str, error: &io::Error) -> io::Error {
    let why = error.get_ref().and_then(|inner| inner.source()).map(|source| format!(": {source}"));
    io::Error::new(error.kind(), format!("{name}: {error}{}", why.unwrap_or_default()))
}

/// Reads what arrives in a channel.
struct Pieces {
    pieces: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tar::{Builder, Header};

    use super::super::pack::tests::archive;
    use super::*;

    fn run(root: &Path, bytes: &[u8]) -> io::Result<Unpacked> {
        let (sender, receiver) = mpsc::channel(bytes.len() / 1000 + 2);
        for piece in bytes.chunks(1000) {
            sender.blocking_send(Bytes::copy_from_slice(piece)).unwrap();
        }
        drop(sender);
        unpack(root, receiver)
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_tree_comes_back_as_it_was() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sub = from.path().join("sub");
        std::fs::create_dir(&sub).unwrap();
        std::fs::write(sub.join("run"), "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(sub.join("run"), PermissionsExt::from_mode(0o4755)).unwrap();
        symlink("run", sub.join("link")).unwrap();
        std::fs::set_permissions(&sub, PermissionsExt::from_mode(0o555)).unwrap();
        let bytes = archive(from.path());
        run(to.path(), &bytes).unwrap();
        let copy = to.path().join("sub");
        assert_eq!(std::fs::read_to_string(copy.join("link")).unwrap(), "#!/bin/sh\n");
        assert_eq!(mode(&copy.join("run")) & 0o7700, 0o700);
        assert_eq!(mode(&copy) & 0o700, 0o500);
        for dir in [&sub, &copy] {
            std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
        }
    }

    fn entry(builder: &mut Builder<Vec<u8>>, name: &str, kind: EntryType, link: &str, data: &[u8]) {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }

    #[test]
    fn a_hostile_archive_writes_nothing_outside() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let victim = outer.path().join("victim");
        std::fs::write(&victim, "safe").unwrap();
        let outside = outer.path().to_str().unwrap();
        let absolute = format!("{outside}/victim");
        let attacks: [&[(&str, EntryType, &str)]; 6] = [
            &[("../victim", EntryType::Regular, "")],
            &[(&absolute, EntryType::Regular, "")],
            &[("d", EntryType::Symlink, outside), ("d/victim", EntryType::Regular, "")],
            &[("d", EntryType::Symlink, ".."), ("d/victim", EntryType::Regular, "")],
            &[("h", EntryType::Link, "../victim"), ("h", EntryType::Regular, "")],
            &[("f", EntryType::Symlink, "../victim"), ("f", EntryType::Regular, "")],
        ];
        for attack in attacks {
            let mut builder = Builder::new(Vec::new());
            for (name, kind, link) in attack {
                let data: &[u8] = if *kind == EntryType::Regular { b"owned" } else { b"" };
                entry(&mut builder, name, *kind, link, data);
            }
            let _ = run(&root, &builder.into_inner().unwrap());
            assert_eq!(std::fs::read_to_string(&victim).unwrap(), "safe", "{attack:?}");
            std::fs::remove_dir_all(&root).unwrap();
            std::fs::create_dir(&root).unwrap();
        }
    }

    #[test]
    fn devices_are_skipped_and_directories_not_replaced() {
        let root = tempfile::tempdir().unwrap();
        let mut builder = Builder::new(Vec::new());
        entry(&mut builder, "fifo", EntryType::Fifo, "", b"");
        entry(&mut builder, "null", EntryType::Char, "", b"");
        let unpacked = run(root.path(), &builder.into_inner().unwrap()).unwrap();
        assert_eq!(unpacked.skipped, ["fifo", "null"]);
        std::fs::create_dir(root.path().join("dir")).unwrap();
        let mut builder = Builder::new(Vec::new());
        entry(&mut builder, "dir", EntryType::Regular, "", b"x");
        let error = run(root.path(), &builder.into_inner().unwrap()).unwrap_err();
        assert!(error.to_string().contains("dir"), "{error}");
        assert!(root.path().join("dir").is_dir());
    }
}
