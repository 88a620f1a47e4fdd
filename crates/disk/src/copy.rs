//! Copies a sparse file: shared blocks where the file system can, else only what is data.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
use rustix::io::Errno;

/// Bytes per step, so that a shutdown or a full disk is noticed soon.
const STEP_BYTES: u64 = 64 << 20;

/// Why a file could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source cannot be read.
    #[error("read `{}`", path.display())]
    Source { path: PathBuf, source: io::Error },
    /// The copy cannot be written. `StorageFull` means that the host's disk is.
    #[error("write `{}`", path.display())]
    Target { path: PathBuf, source: io::Error },
}

impl CopyError {
    /// Tells whether the host's disk had no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let (Self::Source { source, .. } | Self::Target { source, .. }) = self;
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Copies `from` into the new file `to` and makes it durable; holes stay holes.
///
/// # Errors
/// `to` is removed again on every error.
pub(crate) fn copy_sparse(from: &Path, to: &Path) -> Result<(), CopyError> {
    copy_in_steps(from, to, &mut |_| Ok(()))
}

/// Copies as [`copy_sparse`] does, and between steps asks `step`, given the new file, whether to
/// go on.
///
/// # Errors
/// Also the error of `step`, as one of the target.
pub(crate) fn copy_in_steps(
    from: &Path,
    to: &Path,
    step: &mut dyn FnMut(&File) -> io::Result<()>,
) -> Result<(), CopyError> {
    let source_error = |source| CopyError::Source { path: from.to_owned(), source };
    let target_error = |source| CopyError::Target { path: to.to_owned(), source };
    let source = File::open(from).map_err(source_error)?;
    let size = source.metadata().map_err(source_error)?.len();
    let target =
        File::options().read(true).write(true).create_new(true).open(to).map_err(target_error)?;
    let copied = (|| {
        if ioctl_ficlone(&target, &source).is_err() {
            target.set_len(size)?;
            copy_data(&source, &target, size, step)?;
        }
        target.sync_all()
    })();
    copied.map_err(|error| {
        let _ = std::fs::remove_file(to);
        target_error(error)
    })
}

/// Copies every stretch of data up to `size`, at its place.
fn copy_data(
    source: &File,
    target: &File,
    size: u64,
    step: &mut dyn FnMut(&File) -> io::Result<()>,
) -> io::Result<()> {
    let mut at = 0;
    while at < size {
        let start = match seek(source, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break, // only a hole is left
            Err(_) => at,              // a file system that knows no holes: all is data
        };
        let end = seek(source, SeekFrom::Hole(start)).unwrap_or(size).min(size);
        let mut from = start;
        while from < end {
            let to = end.min(from.saturating_add(STEP_BYTES));
            copy_stretch(source, target, from, to)?;
            step(target)?;
            from = to;
        }
        at = end;
    }
    Ok(())
}

fn copy_stretch(source: &File, target: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let len = usize::try_from(end - from).unwrap_or(usize::MAX);
        match copy_file_range(source, Some(&mut from), target, Some(&mut to), len) {
            Ok(0) => break, // the source became shorter
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_by_hand(source, target, from, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reads and writes, for file systems between which the kernel does not copy by itself.
fn copy_by_hand(source: &File, target: &File, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = start;
    while at < end {
        let want = usize::try_from((end - at).min(buffer.len() as u64)).unwrap_or(buffer.len());
        let got = source.read_at(&mut buffer[..want], at)?;
        if got == 0 {
            break;
        }
        target.write_all_at(&buffer[..got], at)?;
        at += got as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// One MiB of data at 0, 16 MiB and the last 4 KiB of 1 GiB.
    fn sparse_file(path: &Path) -> u64 {
        let size = 1 << 30;
        let file = File::create(path).unwrap();
        file.set_len(size).unwrap();
        file.write_all_at(&vec![1; 1 << 20], 0).unwrap();
        file.write_all_at(&vec![2; 1 << 20], 16 << 20).unwrap();
        file.write_all_at(&[3; 4096], size - 4096).unwrap();
        size
    }

    fn assert_same(path: &Path, size: u64) {
        let file = File::open(path).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!(meta.len(), size);
        assert!(meta.blocks() * 512 < 8 << 20, "{} bytes are allocated", meta.blocks() * 512);
        let mut byte = [0];
        for (at, expected) in
            [(0, 1), ((1 << 20) - 1, 1), (1 << 20, 0), (16 << 20, 2), (900 << 20, 0), (size - 1, 3)]
        {
            file.read_exact_at(&mut byte, at).unwrap();
            assert_eq!(byte[0], expected, "at {at}");
        }
    }

    #[test]
    fn a_copy_keeps_content_length_and_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        let size = sparse_file(&from);
        copy_sparse(&from, &to).unwrap();
        assert_same(&to, size);
    }

    #[test]
    fn a_copy_by_hand_does_too() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        let size = sparse_file(&from);
        let (source, target) = (File::open(&from).unwrap(), File::create(&to).unwrap());
        target.set_len(size).unwrap();
        for (start, end) in [(0, 1 << 20), (16 << 20, 17 << 20), (size - 4096, size)] {
            copy_by_hand(&source, &target, start, end).unwrap();
        }
        assert_same(&to, size);
    }

    #[test]
    fn a_copy_that_is_told_to_stop_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        sparse_file(&from);
        let mut steps = 0;
        let copied = copy_in_steps(&from, &to, &mut |_| {
            steps += 1;
            if steps == 2 { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        });
        // A file system that shares blocks is done in one go.
        if steps > 0 {
            assert!(matches!(copied, Err(CopyError::Target { .. })));
            assert!(!to.exists());
        }
    }

    #[test]
    fn a_copy_replaces_nothing_and_a_failed_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&to, "kept").unwrap();
        assert!(matches!(copy_sparse(&from, &to), Err(CopyError::Source { .. })));
        std::fs::write(&from, "new").unwrap();
        assert!(matches!(copy_sparse(&from, &to), Err(CopyError::Target { .. })));
        assert_eq!(std::fs::read(&to).unwrap(), b"kept");
    }
}
