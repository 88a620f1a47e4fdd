//! Sending a file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::FsError;
use crate::helper::{Outcome, Stop};
use crate::request::{ByteRange, Slice};
use crate::wire::{Channel, END, HEAD, HEADER_LEN, Head, PAYLOAD_MAX};

/// Opens a regular file for reading; never blocks on one that is something else.
pub(crate) fn open_regular(path: &str) -> Result<(File, std::fs::Metadata), FsError> {
    let fail = |error: io::Error| FsError::io(&error, "open", path);
    // Looked at first, since opening a FIFO or a device may already have an effect.
    refuse_special(&std::fs::metadata(path).map_err(fail)?, path)?;
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    refuse_special(&meta, path)?;
    Ok((file, meta))
}

/// Refuses whatever is not a regular file.
pub(crate) fn refuse_special(meta: &std::fs::Metadata, path: &str) -> Result<(), FsError> {
    let kind = meta.file_type();
    if kind.is_file() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err(FsError::new(Errno::ISDIR, "open", path));
    }
    let what = if kind.is_fifo() {
        "it is a FIFO"
    } else if kind.is_socket() {
        "it is a socket"
    } else {
        "it is a device"
    };
    Err(FsError::explained(Errno::INVAL, "open", path, what))
}

pub(crate) fn run(channel: &mut Channel, path: &str, range: Option<ByteRange>) -> Outcome {
    let (mut file, meta) = open_regular(path)?;
    let size = meta.len();
    if size == 0 {
        return send_unsized(channel, &mut file, path);
    }
    let (status, start, end) = match range.map_or(Slice::Whole, |range| range.slice(size)) {
        Slice::Whole => (200, 0, size),
        Slice::Empty => (200, 0, 0),
        Slice::Part { start, end } => (206, start, end),
        Slice::Unsatisfiable => {
            let error = FsError::invalid(path, "the range begins after the end of the file");
            let body = serde_json::to_vec(&error.body()).map_err(io::Error::from)?;
            let length = Some(body.len() as u64);
            let head = Head { status: 416, json: true, length, range: Some((0, 0, size)) };
            return Ok(channel.answer(&head, &body)?);
        }
    };
    if start > 0 {
        let seek = file.seek(SeekFrom::Start(start));
        seek.map_err(|error| FsError::io(&error, "seek", path))?;
    }
    let mut left = end - start;
    let mut buffer = vec![0; HEADER_LEN + PAYLOAD_MAX];
    // The first piece before the head: what cannot be read at all is an error, not half a file.
    let mut len = read_piece(&mut file, &mut buffer, left)
        .map_err(|error| FsError::io(&error, "read", path))?;
    if (len as u64) < left && len < PAYLOAD_MAX {
        // Shorter than it claims to be, as the files of `/sys` are.
        left = len as u64;
    }
    let range = (status == 206 && left > 0).then(|| (start, start + left - 1, size));
    let status = if range.is_some() { 206 } else { 200 };
    let head = Head { status, json: false, length: Some(left), range };
    channel.send(HEAD, &serde_json::to_vec(&head).map_err(io::Error::from)?)?;
    while left > 0 {
        if len == 0 {
            // The file became shorter; the missing end says so.
            return Err(Stop::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        channel.send_framed(&mut buffer[..HEADER_LEN + len])?;
        left -= len as u64;
        len = read_piece(&mut file, &mut buffer, left)?;
    }
    Ok(channel.send(END, &[])?)
}

/// Reads up to `left` bytes behind the room for the frame's header; less than there is room for
/// only at the end of the file.
fn read_piece(file: &mut File, buffer: &mut [u8], left: u64) -> io::Result<usize> {
    let want = usize::try_from(left).unwrap_or(PAYLOAD_MAX).min(PAYLOAD_MAX);
    let mut len = 0;
    while len < want {
        match file.read(&mut buffer[HEADER_LEN + len..HEADER_LEN + want]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// Sends a file that claims to be empty: it is, or the kernel makes it up (`/proc`).
fn send_unsized(channel: &mut Channel, file: &mut File, path: &str) -> Outcome {
    let mut buffer = vec![0; HEADER_LEN + PAYLOAD_MAX];
    let mut len = read_piece(file, &mut buffer, PAYLOAD_MAX as u64)
        .map_err(|error| FsError::io(&error, "read", path))?;
    let length = (len == 0).then_some(0);
    let head = Head { status: 200, json: false, length, range: None };
    channel.send(HEAD, &serde_json::to_vec(&head).map_err(io::Error::from)?)?;
    while len > 0 {
        channel.send_framed(&mut buffer[..HEADER_LEN + len])?;
        len = read_piece(file, &mut buffer, PAYLOAD_MAX as u64)?;
    }
    Ok(channel.send(END, &[])?)
}
