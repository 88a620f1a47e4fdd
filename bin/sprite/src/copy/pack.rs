//! Makes an archive of a local directory, in pieces.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use tar::{Builder, EntryType, Header, HeaderMode};
use tokio::sync::mpsc;

/// Size of a piece, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// What will be in an archive.
#[derive(Default, Debug)]
pub(super) struct Plan {
    /// Paths below the root, directories before what is in them.
    entries: Vec<PathBuf>,
    /// Sum of the files' sizes.
    pub(super) bytes: u64,
    /// Sockets, pipes and devices.
    pub(super) skipped: Vec<PathBuf>,
}

/// Looks at everything below a directory. Links are not followed.
pub(super) fn plan(root: &Path) -> io::Result<Plan> {
    let mut plan = Plan::default();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(root.join(&dir))? {
            let entry = entry?;
            let path = dir.join(entry.file_name());
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                dirs.push(path.clone());
            } else if metadata.is_file() {
                plan.bytes += metadata.len();
            } else if !metadata.is_symlink() {
                plan.skipped.push(path);
                continue;
            }
            plan.entries.push(path);
        }
    }
    Ok(plan)
}

/// Writes the archive into a channel. Ends quietly when nobody reads it any more.
pub(super) fn pack(root: &Path, plan: &Plan, sender: mpsc::Sender<Bytes>) -> io::Result<()> {
    let mut builder = Builder::new(Pieces { sender, piece: BytesMut::new() });
    let mut links = HashMap::new();
    let result = plan
        .entries
        .iter()
        .try_for_each(|path| append(&mut builder, root, path, &mut links))
        .and_then(|()| builder.into_inner())
        .and_then(|mut pieces| pieces.flush());
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

fn append(
    builder: &mut Builder<Pieces>,
    root: &Path,
    path: &Path,
    links: &mut HashMap<(u64, u64), PathBuf>,
) -> io::Result<()> {
    let full = root.join(path);
    let named = |error: io::Error| match error.kind() {
        io::ErrorKind::BrokenPipe => error,
        kind => io::Error::new(kind, format!("{}: {error}", path.display())),
    };
    let metadata = match full.symlink_metadata() {
        Ok(metadata) => metadata,
        // It went away since we looked.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(named(error)),
    };
    let mut header = Header::new_gnu();
    header.set_metadata_in_mode(&metadata, HeaderMode::Complete);
    let name = Path::new(".").join(path);
    if metadata.is_symlink() {
        let target = std::fs::read_link(&full).map_err(named)?;
        header.set_size(0);
        return builder.append_link(&mut header, name, target);
    }
    if metadata.is_dir() {
        header.set_size(0);
        return builder.append_data(&mut header, name, io::empty());
    }
    if metadata.nlink() > 1 {
        if let Some(first) = links.get(&(metadata.dev(), metadata.ino())) {
            header.set_entry_type(EntryType::Link);
            header.set_size(0);
            return builder.append_link(&mut header, name, first);
        }
        links.insert((metadata.dev(), metadata.ino()), name.clone());
    }
    let file = File::open(&full).map_err(named)?;
    builder.append_data(&mut header, name, exactly(file, &metadata))
}

/// Reads as much as the header says, even if the file grows or shrinks meanwhile.
fn exactly(file: File, metadata: &Metadata) -> impl Read {
    file.take(metadata.len()).chain(io::repeat(0)).take(metadata.len())
}

/// Writes into a channel in pieces of a good size.
struct Pieces {
    sender: mpsc::Sender<Bytes>,
    piece: BytesMut,
}

impl Write for Pieces {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(data);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = self.piece.split().freeze();
        if piece.is_empty() {
            return Ok(());
        }
        self.sender.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Makes the archive of a directory.
    pub(in crate::copy) fn archive(root: &Path) -> Vec<u8> {
        let (sender, mut receiver) = mpsc::channel(1);
        let plan = plan(root).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| pack(root, &plan, sender).unwrap());
            let mut bytes = Vec::new();
            while let Some(piece) = receiver.blocking_recv() {
                bytes.extend_from_slice(&piece);
            }
            bytes
        })
    }

    #[test]
    fn an_archive_has_files_directories_and_links() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        std::fs::create_dir(dir.join("sub")).unwrap();
        std::fs::write(dir.join("sub/a"), vec![7; 100_000]).unwrap();
        std::fs::hard_link(dir.join("sub/a"), dir.join("same")).unwrap();
        symlink("/nowhere", dir.join("link")).unwrap();
        std::fs::write(dir.join("x".repeat(200)), "long").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
        let found = plan(dir).unwrap();
        assert_eq!(found.skipped, [PathBuf::from("socket")]);

        let bytes = archive(dir);
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut kinds: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.path().unwrap().to_string_lossy().into_owned();
                (name.chars().take(9).collect::<String>(), entry.header().entry_type())
            })
            .collect();
        kinds.sort_by(|a, b| a.0.cmp(&b.0));
        let count = |kind| kinds.iter().filter(|(_, k)| *k == kind).count();
        assert_eq!(
            (
                count(EntryType::Regular),
                count(EntryType::Link),
                count(EntryType::Symlink),
                count(EntryType::Directory)
            ),
            (2, 1, 1, 1),
            "{kinds:?}"
        );
    }

    #[test]
    fn a_reader_that_leaves_is_no_error() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a"), vec![0; 1 << 20]).unwrap();
        let (sender, receiver) = mpsc::channel(1);
        drop(receiver);
        pack(root.path(), &plan(root.path()).unwrap(), sender).unwrap();
    }
}
