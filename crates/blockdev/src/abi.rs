//! What the kernel asks over `/dev/fuse` and how it wants to be answered. Pure functions.
//!
//! The file system is one folder with one file in it. Node ids and handles are fixed, nothing is
//! counted, so a successor has nothing to learn about what its predecessor answered.
//!
//! Everything from the kernel is checked against the slot and the disk before it is used: a
//! request may be one that a process now dead had received only in part of our expectations.
//!
//! Source: `include/uapi/linux/fuse.h`, protocol 7.31 and later; `fs/fuse/dev.c`.

use crate::device::DeviceError;
use crate::layout::{HEAD, Layout};

pub(crate) const ROOT_NODE: u64 = 1;
/// Also the file's inode number.
pub(crate) const DISK_NODE: u64 = 2;
/// The one file's name. It is all that a loop device tells anybody about its backing file.
pub(crate) const DISK_NAME: &str = "disk";
const HANDLE: u64 = 1;
/// Ten years in seconds: names and attributes never change while a disk is attached.
const VALID_SECONDS: u64 = 10 * 365 * 86_400;
/// Bytes of the header that every request begins with.
const IN_HEADER: usize = 40;
/// The unit of offsets and lengths that a device sees, in bytes.
const SECTOR: u64 = 512;

/// Numbers of the requests that are looked at. All others are answered with `ENOSYS`.
pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const ACCESS: u32 = 34;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
}

const FALLOC_KEEP_SIZE: u32 = 1;
const FALLOC_PUNCH_HOLE: u32 = 2;
const FALLOC_ZERO_RANGE: u32 = 16;

/// `open` flags: no page cache on this file, and writes beside one another.
const FOPEN_DIRECT_IO: u32 = 1;
const FOPEN_PARALLEL_DIRECT_WRITES: u32 = 1 << 6;

/// What a request asks for, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Answered without the device.
    Answer(Answer),
    /// Asks for nothing and gets no reply.
    NoReply,
    /// For the device. Multiples of 512, inside the disk, and of what a slot can carry.
    Read {
        offset: u64,
        len: u32,
    },
    Write {
        offset: u64,
        len: u32,
    },
    Flush,
    Zero {
        offset: u64,
        len: u64,
        discard: bool,
    },
}

/// A reply that lies in the control page as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Error(i32),
    Empty,
    Entry,
    Attributes { node: u64 },
    Opened { is_disk: bool },
    FileSystem,
    Written { len: u32 },
}

/// The errors of a device as the kernel gets them.
///
/// Never `ENOSYS`: to the kernel that means "do not ask again", and a disk whose flushes are no
/// longer asked for loses data in silence.
pub(crate) fn errno(error: DeviceError) -> i32 {
    match error {
        DeviceError::Io => libc::EIO,
        DeviceError::NoSpace => libc::ENOSPC,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// The length that a request's header states; 0 if the kernel has not delivered one.
pub(crate) fn stated_len(head: &[u8; HEAD.1]) -> usize {
    u32_at(head, 0) as usize
}

/// The kernel's name of a request, which the reply must carry.
pub(crate) fn unique(head: &[u8; HEAD.1]) -> u64 {
    u64_at(head, 8)
}

pub(crate) fn opcode(head: &[u8; HEAD.1]) -> u32 {
    u32_at(head, 4)
}

/// The offset of a request that has one.
#[cfg(feature = "test-util")]
pub(crate) fn offset(head: &[u8; HEAD.1]) -> u64 {
    u64_at(head, IN_HEADER + 8)
}

/// Reads the head of a request. Garbage becomes an error for the kernel, never a panic.
pub(crate) fn parse(head: &[u8; HEAD.1], layout: &Layout) -> Call {
    let (len, node) = (stated_len(head), u64_at(head, 16));
    if len < IN_HEADER || len > HEAD.1 + layout.data_bytes() {
        return Call::Answer(Answer::Error(libc::EIO));
    }
    let body_len = len - IN_HEADER;
    let body = &head[IN_HEADER..len.min(HEAD.1)];
    let answer = match opcode(head) {
        opcode::FORGET | opcode::BATCH_FORGET => return Call::NoReply,
        opcode::LOOKUP => {
            let name = body.split(|byte| *byte == 0).next().unwrap_or_default();
            if node == ROOT_NODE && name == DISK_NAME.as_bytes() && body.len() > name.len() {
                Answer::Entry
            } else {
                Answer::Error(libc::ENOENT)
            }
        }
        opcode::GETATTR => Answer::Attributes { node },
        opcode::SETATTR => Answer::Error(libc::EPERM),
        opcode::OPEN if node == DISK_NODE => Answer::Opened { is_disk: true },
        opcode::OPENDIR if node == ROOT_NODE => Answer::Opened { is_disk: false },
        opcode::OPEN | opcode::OPENDIR => Answer::Error(libc::ENOENT),
        opcode::STATFS => Answer::FileSystem,
        // A folder that lists nothing: only who knows the name needs the file.
        opcode::READDIR
        | opcode::RELEASE
        | opcode::RELEASEDIR
        | opcode::FSYNCDIR
        | opcode::ACCESS
        | opcode::DESTROY => Answer::Empty,
        opcode::READ | opcode::WRITE | opcode::FSYNC | opcode::FALLOCATE if node != DISK_NODE => {
            Answer::Error(libc::EISDIR)
        }
        opcode::READ => return parse_read(body, layout),
        opcode::WRITE => return parse_write(body, body_len, layout),
        opcode::FSYNC => return Call::Flush,
        opcode::FALLOCATE => return parse_zero(body, layout),
        // FLUSH and INTERRUPT among them: told so once, the kernel does not ask again.
        _ => Answer::Error(libc::ENOSYS),
    };
    Call::Answer(answer)
}

fn parse_read(body: &[u8], layout: &Layout) -> Call {
    if body.len() < 24 {
        return Call::Answer(Answer::Error(libc::EIO));
    }
    let (offset, len) = (u64_at(body, 8), u32_at(body, 16));
    let rest = layout.len_bytes().saturating_sub(offset);
    let len = u64::from(len.min(layout.request_bytes())).min(rest);
    match u32::try_from(len) {
        Ok(0) => Call::Answer(Answer::Empty),
        Ok(len) if aligned(offset, len.into()) => Call::Read { offset, len },
        _ => Call::Answer(Answer::Error(libc::EINVAL)),
    }
}

fn parse_write(body: &[u8], body_len: usize, layout: &Layout) -> Call {
    if body.len() < 40 {
        return Call::Answer(Answer::Error(libc::EIO));
    }
    let (offset, len) = (u64_at(body, 8), u32_at(body, 16));
    if body_len - 40 != len as usize {
        return Call::Answer(Answer::Error(libc::EIO));
    }
    if len == 0 {
        return Call::Answer(Answer::Written { len: 0 });
    }
    if !inside(offset, len.into(), layout) {
        return Call::Answer(Answer::Error(libc::EFBIG));
    }
    if !aligned(offset, len.into()) {
        return Call::Answer(Answer::Error(libc::EINVAL));
    }
    Call::Write { offset, len }
}

fn parse_zero(body: &[u8], layout: &Layout) -> Call {
    if body.len() < 28 {
        return Call::Answer(Answer::Error(libc::EIO));
    }
    let (offset, len, mode) = (u64_at(body, 8), u64_at(body, 16), u32_at(body, 24));
    let discard = match mode & !FALLOC_KEEP_SIZE {
        FALLOC_PUNCH_HOLE => true,
        FALLOC_ZERO_RANGE => false,
        // Not ENOSYS, which would also end all later discards.
        _ => return Call::Answer(Answer::Error(libc::EOPNOTSUPP)),
    };
    if !inside(offset, len, layout) {
        return Call::Answer(Answer::Error(libc::EFBIG));
    }
    if len == 0 || !aligned(offset, len) {
        return Call::Answer(Answer::Error(libc::EINVAL));
    }
    Call::Zero { offset, len, discard }
}

fn aligned(offset: u64, len: u64) -> bool {
    offset.is_multiple_of(SECTOR) && len.is_multiple_of(SECTOR)
}

fn inside(offset: u64, len: u64, layout: &Layout) -> bool {
    offset.checked_add(len).is_some_and(|end| end <= layout.len_bytes())
}

/// The length that a reply's head states, itself included.
pub(crate) fn out_len(out: &[u8]) -> usize {
    u32_at(out, 0) as usize
}

/// Writes the 16 bytes that every reply begins with. `error` is positive or 0.
pub(crate) fn write_out_header(out: &mut [u8], unique: u64, error: i32, body_len: usize) {
    let len = u32::try_from(16 + body_len).expect("a reply is as long as a slot at most");
    out[..4].copy_from_slice(&len.to_ne_bytes());
    out[4..8].copy_from_slice(&(-error).to_ne_bytes());
    out[8..16].copy_from_slice(&unique.to_ne_bytes());
}

/// Writes `answer` behind the reply's head and returns its error (or 0) and its length.
pub(crate) fn write_answer(
    body: &mut [u8],
    answer: Answer,
    layout: &Layout,
    discard_bytes: u32,
) -> (i32, usize) {
    let mut out = Out { bytes: body, len: 0 };
    match answer {
        Answer::Error(error) => return (error, 0),
        Answer::Empty => {}
        Answer::Entry => {
            out.u64s(&[DISK_NODE, 0, VALID_SECONDS, VALID_SECONDS]);
            out.u32s(&[0, 0]);
            out.attributes(DISK_NODE, layout);
        }
        Answer::Attributes { node } => {
            out.u64s(&[VALID_SECONDS]);
            out.u32s(&[0, 0]);
            out.attributes(node, layout);
        }
        Answer::Opened { is_disk } => {
            let flags = if is_disk { FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES } else { 0 };
            out.u64s(&[HANDLE]);
            out.u32s(&[flags, 0]);
        }
        Answer::FileSystem => {
            // The loop driver takes the block size for the granularity of discards.
            let blocks = layout.len_bytes().div_ceil(discard_bytes.into());
            out.u64s(&[blocks, 0, 0, 1, 0]);
            out.u32s(&[discard_bytes, 255, discard_bytes, 0, 0, 0, 0, 0, 0, 0]);
        }
        Answer::Written { len } => out.u32s(&[len, 0]),
    }
    (0, out.len)
}

struct Out<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn u32s(&mut self, values: &[u32]) {
        values.iter().for_each(|value| self.put(&value.to_ne_bytes()));
    }

    fn u64s(&mut self, values: &[u64]) {
        values.iter().for_each(|value| self.put(&value.to_ne_bytes()));
    }

    fn attributes(&mut self, node: u64, layout: &Layout) {
        let (len, mode) = match node {
            DISK_NODE => (layout.len_bytes(), libc::S_IFREG | 0o600),
            _ => (4096, libc::S_IFDIR | 0o700),
        };
        self.u64s(&[node, len, len / 512, 0, 0, 0]);
        self.u32s(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0]);
    }
}

#[cfg(test)]
#[path = "abi_tests.rs"]
mod tests;
