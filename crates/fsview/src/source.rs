//! Where the bytes of a file system come from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes of a disk at rest: a file, an epoch of a volume.
///
/// The content must not change while a [`FileSystem`](crate::FileSystem) reads it. Calls block;
/// run them on a thread that may wait.
pub trait BlockSource {
    /// Returns the size of the disk in bytes.
    fn len_bytes(&self) -> u64;

    /// Fills `buf` with the bytes at `offset`, in bytes from the start of the disk.
    ///
    /// # Errors
    /// Whatever the source says; also when the range does not lie on the disk.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

/// A plain file or a block device node, with the length that it had when it was opened.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    len_bytes: u64,
}

impl FileSource {
    /// Takes a file that is open for reading.
    ///
    /// # Errors
    /// When its length cannot be told.
    pub fn new(mut file: File) -> io::Result<Self> {
        let len_bytes = io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
        Ok(Self { file, len_bytes })
    }
}

impl BlockSource for FileSource {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

impl BlockSource for Vec<u8> {
    fn len_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).ok().and_then(|offset| self.get(offset..));
        match from.and_then(|bytes| bytes.get(..buf.len())) {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl<T: BlockSource + ?Sized> BlockSource for Arc<T> {
    fn len_bytes(&self) -> u64 {
        (**self).len_bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buf)
    }
}
