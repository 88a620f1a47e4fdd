//! The request slots' memory, and moving requests and replies between it and `/dev/fuse`.
//!
//! Every slot is split in two handles that exist once each: [`Control`] for its first page,
//! [`Data`] for the rest. Owning one is the exclusive right to its bytes, so the borrow checker
//! does the rest. Other processes map the same memory only before this one, never beside it:
//! the keeper hands the memory out only when the former server is gone.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::layout::{
    CONTROL_BYTES, HEAD, Layout, OUT, OUT_BYTES, OUT_HEADER_BYTES, PAGE, REPLY_BYTES, STATE,
};

/// Shared memory, present and locked in this process.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory; who may touch which part is settled by `Control` and `Data`.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared `Mapping` alone gives no access.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more: all handles keep it alive.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Maps the slots of `layout` from `memory`, which must be as long as the layout says.
///
/// With `present`, every page is there and stays there. Without (only tests do that), a server
/// that is killed while the kernel copies a request turns that request into an I/O error.
pub(crate) fn map_slots(
    memory: BorrowedFd<'_>,
    layout: &Layout,
    present: bool,
) -> io::Result<Vec<(Control, Data)>> {
    let len = layout.total_bytes();
    let populate = if present { libc::MAP_POPULATE } else { 0 };
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | populate,
            memory.as_raw_fd(),
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let base = NonNull::new(base.cast::<u8>()).expect("a mapping is never at address 0");
    let mapping = Arc::new(Mapping { base, len });
    // SAFETY: the range is the mapping made above.
    if present && unsafe { libc::mlock(base.as_ptr().cast(), len) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let slots = (0..layout.slots()).map(|index| {
        let control = layout.slot_offset(index);
        debug_assert!(control + layout.stride() <= len, "slots lie inside the mapping");
        // SAFETY: the layout was checked against the mapping's length, so both are inside.
        let (control, data) = unsafe { (base.add(control), base.add(control + CONTROL_BYTES)) };
        let data_len = layout.data_bytes();
        (
            Control { index, control, data, data_len, _mapping: Arc::clone(&mapping) },
            Data { data, data_len, _mapping: Arc::clone(&mapping) },
        )
    });
    Ok(slots.collect())
}

/// The first page of a slot: its state, the head of the request, the head of the reply.
#[derive(Debug)]
pub(crate) struct Control {
    index: u16,
    control: NonNull<u8>,
    /// Where [`Data`] lies. Only its address is used here, in calls to the kernel.
    data: NonNull<u8>,
    data_len: usize,
    _mapping: Arc<Mapping>,
}

/// The data of a slot: what a WRITE brings and what a READ takes.
#[derive(Debug)]
pub(crate) struct Data {
    data: NonNull<u8>,
    data_len: usize,
    _mapping: Arc<Mapping>,
}

// SAFETY: the handle is the only one to its bytes, wherever it is.
unsafe impl Send for Control {}
// SAFETY: through a shared handle the bytes are only read, the state is atomic.
unsafe impl Sync for Control {}
// SAFETY: the handle is the only one to its bytes, wherever it is.
unsafe impl Send for Data {}
// SAFETY: through a shared handle the bytes are only read.
unsafe impl Sync for Data {}

impl Control {
    pub(crate) fn index(&self) -> u16 {
        self.index
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        debug_assert!(offset.is_multiple_of(4) && offset + 4 <= CONTROL_BYTES);
        // SAFETY: inside the control page, aligned to 4, and only ever used as an atomic.
        unsafe { AtomicU32::from_ptr(self.control.add(offset).as_ptr().cast()) }
    }

    /// Reads one of the words of [`crate::layout`].
    pub(crate) fn load(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::SeqCst)
    }

    /// Writes one of the words of [`crate::layout`]. What was written before is seen before.
    pub(crate) fn store(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::SeqCst);
    }

    /// The head of the request: the kernel's header and the fixed part of the body.
    pub(crate) fn head(&self) -> &[u8; HEAD.1] {
        // SAFETY: inside the control page; the kernel writes it only during `receive(&mut self)`.
        unsafe { &*self.control.add(HEAD.0).as_ptr().cast() }
    }

    pub(crate) fn head_mut(&mut self) -> &mut [u8; HEAD.1] {
        // SAFETY: as above, and the handle is borrowed exclusively.
        unsafe { &mut *self.control.add(HEAD.0).as_ptr().cast() }
    }

    pub(crate) fn out(&self) -> &[u8; OUT_BYTES] {
        // SAFETY: inside the control page; only `out_mut(&mut self)` writes it.
        unsafe { &*self.control.add(OUT).as_ptr().cast() }
    }

    /// Whether the reply that lies in the slot is as long as it says, and fits.
    pub(crate) fn has_whole_reply(&self) -> bool {
        let body = self.load(REPLY_BYTES.0) as usize;
        let room = match self.load(REPLY_BYTES.1) {
            0 => OUT_BYTES - OUT_HEADER_BYTES,
            _ => self.data_len,
        };
        body <= room && crate::abi::out_len(self.out()) == OUT_HEADER_BYTES + body
    }

    /// The head of the reply and, right behind it, a small body.
    pub(crate) fn out_mut(&mut self) -> &mut [u8; OUT_BYTES] {
        // SAFETY: inside the control page, does not overlap the head, and borrowed exclusively.
        unsafe { &mut *self.control.add(OUT).as_ptr().cast() }
    }

    /// Waits for a request and has the kernel copy it into the slot. Returns its length.
    ///
    /// `_data` proves that nobody else uses the data while the kernel writes it.
    pub(crate) fn receive(&mut self, fuse: BorrowedFd<'_>, _data: &mut Data) -> io::Result<usize> {
        let vectors = [
            // SAFETY: inside the control page.
            vector(unsafe { self.control.add(HEAD.0) }, HEAD.1),
            vector(self.data, self.data_len),
        ];
        // SAFETY: both ranges are writable and owned by the caller's two handles.
        let count = unsafe { libc::readv(fuse.as_raw_fd(), vectors.as_ptr(), 2) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    /// Sends the reply that lies in the slot: its head, then a body from `source`.
    pub(crate) fn send(&self, fuse: BorrowedFd<'_>) -> io::Result<()> {
        let body = self.load(REPLY_BYTES.0) as usize;
        let from_data = self.load(REPLY_BYTES.1) != 0;
        // SAFETY: inside the control page.
        let out = unsafe { self.control.add(OUT) };
        let (vectors, count) = if from_data {
            assert!(body <= self.data_len, "a reply is not longer than the slot");
            ([vector(out, OUT_HEADER_BYTES), vector(self.data, body)], 2)
        } else {
            assert!(OUT_HEADER_BYTES + body <= OUT_BYTES, "a small reply fits beside its head");
            ([vector(out, OUT_HEADER_BYTES + body), vector(out, 0)], 1)
        };
        // SAFETY: the ranges are inside the slot, and the kernel only reads them.
        let sent = unsafe { libc::writev(fuse.as_raw_fd(), vectors.as_ptr(), count) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The slot's state, as the number in memory.
    pub(crate) fn state(&self) -> u32 {
        self.load(STATE)
    }
}

impl Data {
    /// The first `len` bytes of the data.
    pub(crate) fn bytes(&self, len: usize) -> &[u8] {
        assert!(len <= self.data_len, "a request is not longer than the slot");
        // SAFETY: inside the slot; the kernel writes it only during `receive`, which borrows us.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), len) }
    }

    pub(crate) fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        assert!(len <= self.data_len, "a request is not longer than the slot");
        // SAFETY: as above, and the handle is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), len) }
    }
}

fn vector(base: NonNull<u8>, len: usize) -> libc::iovec {
    libc::iovec { iov_base: base.as_ptr().cast(), iov_len: len }
}

const _: () = assert!(CONTROL_BYTES.is_multiple_of(PAGE));
