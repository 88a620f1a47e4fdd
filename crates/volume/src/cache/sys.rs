//! Memory that outlives a process, seen as words. Source: memfd_create(2), mmap(2).
#![expect(unsafe_code, reason = "mapping memory and looking at it as atomic words")]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// A mapping of whole words. Absent pages read as zero and cost nothing until written.
pub(super) struct Mapping {
    start: NonNull<AtomicU64>,
    words: usize,
    memfd: Option<OwnedFd>,
}

// SAFETY: the mapping belongs to this value alone and is reached only as atomic words.
unsafe impl Send for Mapping {}
// SAFETY: as above; atomics may be shared between threads.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps memory that ends with this process.
    pub(super) fn private(words: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing.
        let start = unsafe { rustix::mm::mmap_anonymous(null_mut(), bytes(words)?, prot, flags)? };
        Self::from_raw(start, words, None)
    }

    /// Makes a memory file of a fixed size and maps it.
    pub(super) fn memfd(words: usize) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = rustix::fs::memfd_create("sprites-slot-table", flags)?;
        rustix::fs::ftruncate(&memfd, bytes(words)? as u64)?;
        rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW)?;
        Self::of(memfd)
    }

    /// Maps a memory file that another process may hold as well.
    ///
    /// It has to be sealed against shrinking: a page that disappears under a mapping is fatal.
    pub(super) fn of(memfd: OwnedFd) -> io::Result<Self> {
        if !rustix::fs::fcntl_get_seals(&memfd)?.contains(SealFlags::SHRINK) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "memory file may shrink"));
        }
        let len = rustix::fs::fstat(&memfd)?.st_size;
        let words = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)? / 8;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new shared mapping at an address of the kernel's choice, not longer than the
        // file, which cannot shrink.
        let start = unsafe {
            rustix::mm::mmap(null_mut(), bytes(words)?, prot, MapFlags::SHARED, &memfd, 0)?
        };
        Self::from_raw(start, words, Some(memfd))
    }

    fn from_raw(start: *mut c_void, words: usize, memfd: Option<OwnedFd>) -> io::Result<Self> {
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, words, memfd })
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is `words` words long, page-aligned, readable and writable, and
        // lives as long as `self`; every bit pattern is a valid word, and all access is atomic.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.memfd.as_ref().map(AsFd::as_fd)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is exactly the range that was mapped, and no borrow of it is left.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.words * 8) };
    }
}

fn bytes(words: usize) -> io::Result<usize> {
    match words.checked_mul(8) {
        Some(len) if len > 0 => Ok(len),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}
