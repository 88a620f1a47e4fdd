//! Messages with descriptors between a keeper and its clients.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use rustix::time::Timespec;

use crate::keeper::wire::{FDS_MAX, MESSAGE_BYTES, Message, WireError};

/// Why no message came.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The other side is gone or has hung up.
    #[error("the other side closed the connection")]
    Closed,
    /// Nothing came in time.
    #[error("no message in time")]
    TimedOut,
    /// What came is not a message of this protocol.
    #[error("understand a message")]
    Wire(#[from] WireError),
    /// The system refused.
    #[error("receive a message")]
    System(#[from] io::Error),
}

/// Sends a message without waiting for room.
pub(crate) fn send(
    socket: impl AsFd,
    message: &Message,
    fds: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let bytes = message.encode();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, flags).map(drop)
}

/// Takes a message that has arrived.
///
/// # Errors
/// [`ReceiveError::TimedOut`] if none has.
pub(crate) fn receive_now(socket: impl AsFd) -> Result<(Message, Vec<OwnedFd>), ReceiveError> {
    // One byte more than a message, so that a longer one is noticed.
    let mut bytes = [0; MESSAGE_BYTES + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags);
    let received = match received {
        Ok(received) => received,
        Err(Errno::AGAIN | Errno::INTR) => return Err(ReceiveError::TimedOut),
        Err(Errno::CONNRESET) => return Err(ReceiveError::Closed),
        Err(error) => return Err(ReceiveError::System(error.into())),
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Err(ReceiveError::Closed);
    }
    Ok((Message::decode(&bytes[..received.bytes.min(bytes.len())])?, fds))
}

/// Waits for a message, for `limit` at most.
pub(crate) fn receive(
    socket: impl AsFd,
    limit: Duration,
) -> Result<(Message, Vec<OwnedFd>), ReceiveError> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| Errno::INVAL).map_err(io::Error::from)?;
        let mut fds = [PollFd::new(&socket, PollFlags::IN)];
        match poll(&mut fds, Some(&left)) {
            Ok(0) => return Err(ReceiveError::TimedOut),
            Ok(_) => match receive_now(&socket) {
                Err(ReceiveError::TimedOut) => {}
                result => return result,
            },
            Err(Errno::INTR) => {}
            Err(error) => return Err(ReceiveError::System(error.into())),
        }
    }
}

/// Whether the other side has hung up.
pub(crate) fn is_closed(socket: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&socket, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok()
        && fds[0].revents().intersects(PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR)
}
