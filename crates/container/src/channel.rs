//! Framed messages with descriptors over a Unix stream socket, without blocking.
//!
//! ```text
//! frame = length of the body u32 little-endian | count of descriptors u8 | body (JSON)
//! ```
//! The descriptors travel with the frame's first byte, so they are here when the frame is.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest body, in bytes. A command line may be large, and JSON may double it.
pub(crate) const BODY_MAX: usize = 64 << 20;
/// Most descriptors per frame.
const FDS_MAX: usize = 8;
const HEADER_LEN: usize = 5;

/// Messages on their way out.
#[derive(Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Outgoing>,
}

struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

impl Outbox {
    /// Appends a message.
    ///
    /// # Errors
    /// The body is larger than [`BODY_MAX`].
    pub(crate) fn push<T: Serialize>(&mut self, message: &T, fds: Vec<OwnedFd>) -> io::Result<()> {
        let mut bytes = vec![0; HEADER_LEN];
        serde_json::to_writer(&mut bytes, message)?;
        let len = bytes.len() - HEADER_LEN;
        if len > BODY_MAX || fds.len() > FDS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "message too large"));
        }
        bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
        bytes[4] = fds.len() as u8;
        self.queue.push_back(Outgoing { bytes, sent: 0, fds });
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Sends what the socket takes now.
    pub(crate) fn flush(&mut self, socket: impl AsFd) -> io::Result<()> {
        while let Some(next) = self.queue.front_mut() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let borrowed: Vec<_> = next.fds.iter().map(AsFd::as_fd).collect();
            if !borrowed.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(&borrowed));
            }
            let rest = IoSlice::new(&next.bytes[next.sent..]);
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::sendmsg(&socket, &[rest], &mut control, flags) {
                Ok(count) => {
                    next.sent += count;
                    next.fds.clear();
                    if next.sent == next.bytes.len() {
                        self.queue.pop_front();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Most that is read from the socket at once, in bytes.
const CHUNK_LEN: usize = 64 * 1024;

/// Messages on their way in.
#[derive(Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    /// Where the socket is read into; empty until it is first needed.
    chunk: Vec<u8>,
    taken: usize,
    fds: VecDeque<OwnedFd>,
}

impl Inbox {
    /// Reads what is there now. Returns false at the end of the stream.
    pub(crate) fn fill(&mut self, socket: impl AsFd) -> io::Result<bool> {
        self.chunk.resize(CHUNK_LEN, 0);
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let mut parts = [IoSliceMut::new(&mut self.chunk)];
            let got = match rustix::net::recvmsg(&socket, &mut parts, &mut control, flags) {
                Ok(got) => got,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(true),
                Err(error) => return Err(error.into()),
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    self.fds.extend(fds);
                }
            }
            if got.bytes == 0 {
                return Ok(false);
            }
            self.bytes.extend_from_slice(&self.chunk[..got.bytes]);
        }
    }

    /// Takes the next whole message.
    ///
    /// # Errors
    /// The stream is damaged.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let rest = &self.bytes[self.taken..];
        let Some((header, rest)) = rest.split_first_chunk::<HEADER_LEN>() else {
            self.compact();
            return Ok(None);
        };
        let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let fd_count = usize::from(header[4]);
        if len > BODY_MAX || fd_count > FDS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too large"));
        }
        if rest.len() < len {
            self.compact();
            return Ok(None);
        }
        if self.fds.len() < fd_count {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "descriptors are missing"));
        }
        let message = serde_json::from_slice(&rest[..len])?;
        self.taken += HEADER_LEN + len;
        let fds = self.fds.drain(..fd_count).collect();
        Ok(Some((message, fds)))
    }

    /// Drops what was taken, and large buffers that are no longer needed.
    fn compact(&mut self) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        if self.bytes.is_empty() && self.bytes.capacity() > 256 * 1024 {
            self.bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn large_messages_keep_their_descriptors_and_order() {
        let (left, right) = UnixStream::pair().unwrap();
        let mut pipes = Vec::new();
        let mut outbox = Outbox::default();
        for index in 0..5usize {
            let (read, write) = rustix::pipe::pipe().unwrap();
            pipes.push(read);
            let text = "x".repeat(index * 700_000);
            outbox.push(&(index, text), vec![write]).unwrap();
        }
        let mut inbox = Inbox::default();
        let mut seen = 0usize;
        while seen < 5 {
            outbox.flush(&left).unwrap();
            assert!(inbox.fill(&right).unwrap());
            while let Some(((index, text), fds)) = inbox.next::<(usize, String)>().unwrap() {
                assert_eq!(index, seen);
                assert_eq!(text.len(), index * 700_000);
                let [fd] = <[OwnedFd; 1]>::try_from(fds).unwrap();
                std::fs::File::from(fd).write_all(&[index as u8]).unwrap();
                let mut byte = [9];
                std::fs::File::from(pipes.remove(0)).read_exact(&mut byte).unwrap();
                assert_eq!(usize::from(byte[0]), index);
                seen += 1;
            }
        }
        drop(left);
        assert!(!inbox.fill(&right).unwrap());
    }

    #[test]
    fn a_frame_that_claims_too_much_is_an_error() {
        let (mut left, right) = UnixStream::pair().unwrap();
        left.write_all(&[0xff; 16]).unwrap();
        let mut inbox = Inbox::default();
        inbox.fill(&right).unwrap();
        assert!(inbox.next::<String>().is_err());
    }
}
