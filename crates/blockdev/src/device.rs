//! What a front end serves: a device that reads, writes, flushes and zeroes.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::server::End;
use crate::server::shared::Shared;
use crate::sys::memory::{Control, Data};

/// A disk, as a front end sees it.
///
/// # What an implementation must keep
/// - What was answered with success is what later reads return, also those of a successor after
///   this process was killed at any instant: state of answered writes lives outside the process
///   (a file, memory that the keeper holds).
/// - Every request may come twice: a successor executes again what its predecessor had begun
///   and not answered. Writes and zeroes are such that this does no harm.
/// - No work goes on behind a dead process's back. Threads end with the process and plain system
///   calls with their threads; `io_uring` is different: its writes may reach a file after the
///   process has ended, that is beside the successor's. Do not use it here.
/// - It never opens the disk that it serves, and touches no file system on it: a process that
///   ends closes its files, and that would wait for a successor that waits for the end.
pub trait Device: Send + Sync + 'static {
    /// Length in bytes; a multiple of 4096 that never changes.
    fn len_bytes(&self) -> u64;

    /// Begins a request; `done` may be called here or later, from any thread.
    ///
    /// Offsets and lengths are multiples of 512 bytes, inside the disk, and not 0. Several
    /// requests run at once and may overlap. The calling thread reads no other request until
    /// this returns, so long waits belong elsewhere.
    fn submit(&self, request: Request, done: Done);
}

/// One thing that a device is asked to do.
#[derive(Debug)]
pub enum Request {
    /// Fill the whole buffer with what is at `offset` (bytes).
    Read { offset: u64, buffer: ReadBuffer },
    /// Put all of `data` to `offset` (bytes).
    Write { offset: u64, data: WriteData },
    /// Make every write and zero that was answered before this request came survive the host.
    Flush,
    /// Make `len` bytes from `offset` read as zeroes. With `discard` their content is of no use
    /// to anybody any more, and space may be given back.
    Zero { offset: u64, len: u64, discard: bool },
}

/// Why a device could not do as asked. The file system above gets an I/O error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The content cannot be read or written.
    #[error("input or output failed")]
    Io,
    /// There is no room for a write.
    #[error("no room")]
    NoSpace,
}

/// The part of a request slot that a read fills. It becomes the reply as it is, without a copy.
pub struct ReadBuffer {
    part: Part,
}

/// The bytes of a write, in the request slot into which the kernel put them.
pub struct WriteData {
    part: Part,
}

/// The data of a slot, on its way back to the pool.
struct Part {
    index: u16,
    data: Option<Data>,
    len: usize,
    shared: Arc<Shared>,
}

impl ReadBuffer {
    pub(crate) fn new(index: u16, data: Data, len: usize, shared: Arc<Shared>) -> Self {
        Self { part: Part { index, data: Some(data), len, shared } }
    }
}

impl WriteData {
    pub(crate) fn new(index: u16, data: Data, len: usize, shared: Arc<Shared>) -> Self {
        Self { part: Part { index, data: Some(data), len, shared } }
    }
}

const UNTIL_DROP: &str = "the data is there until the drop";

impl Deref for ReadBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.part.data.as_ref().expect(UNTIL_DROP).bytes(self.part.len)
    }
}

impl DerefMut for ReadBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.part.data.as_mut().expect(UNTIL_DROP).bytes_mut(self.part.len)
    }
}

impl Deref for WriteData {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.part.data.as_ref().expect(UNTIL_DROP).bytes(self.part.len)
    }
}

impl fmt::Debug for ReadBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadBuffer").field("len", &self.part.len).finish_non_exhaustive()
    }
}

impl fmt::Debug for WriteData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteData").field("len", &self.part.len).finish_non_exhaustive()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(data) = self.data.take() {
            self.shared.return_data(self.index, data);
        }
    }
}

/// What a request is answered with when it went well.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OnSuccess {
    Empty,
    Written { len: u32 },
    Data { len: u32 },
}

/// The right, and the duty, to answer one request.
///
/// Dropping it unused answers with an I/O error; except in a thread that panics. Then the request
/// stays as it is and the server ends ([`crate::End::Panicked`]): a bug is no answer, and the
/// successor may do better.
#[must_use = "a request that is not answered fails"]
pub struct Done {
    control: Option<Control>,
    on_success: OnSuccess,
    shared: Arc<Shared>,
}

impl Done {
    pub(crate) fn new(control: Control, on_success: OnSuccess, shared: Arc<Shared>) -> Self {
        Self { control: Some(control), on_success, shared }
    }

    /// Answers. For a read, the buffer holds the content by now; drop it before or soon after,
    /// since the slot serves nothing else until then.
    pub fn finish(mut self, result: Result<(), DeviceError>) {
        self.answer(result);
    }

    fn answer(&mut self, result: Result<(), DeviceError>) {
        if let Some(control) = self.control.take() {
            self.shared.answer_device(control, self.on_success, result);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if self.control.is_some() && std::thread::panicking() {
            self.control = None;
            self.shared.ending.set(End::Panicked);
        } else if self.control.is_some() {
            tracing::warn!("the device dropped a request, answered with an error");
            self.answer(Err(DeviceError::Io));
        }
    }
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Done").field("on_success", &self.on_success).finish_non_exhaustive()
    }
}
