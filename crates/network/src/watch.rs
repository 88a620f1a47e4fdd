//! Notices at once when somebody removes firewall tables.
//!
//! Debian's own `/etc/nftables.conf` begins with `flush ruleset`, so reloading a host's firewall
//! takes our rules along, and until they are back sprites reach what they must not. The kernel
//! tells of each change; waiting for the next look would leave the door open for seconds.
//!
//! # Not here
//! Putting the rules back (`network`), and what happens while no `sprited` runs.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// Bit of the group that is told of changes to tables. **Source:** linux/netfilter/nfnetlink.h,
/// `NFNLGRP_NFTABLES`.
const TABLES_GROUP: u32 = 1 << (7 - 1);
/// Type of the message that tells of a table's end: subsystem 10 (`NFNL_SUBSYS_NFTABLES`),
/// message 2 (`NFT_MSG_DELTABLE`).
const TABLE_REMOVED: u16 = 10 << 8 | 2;
/// Bytes before a message's content. **Source:** netlink(7), `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;

/// A socket that the kernel tells of firewall changes in this network namespace.
pub(crate) struct TableWatch(AsyncFd<OwnedFd>);

impl TableWatch {
    /// Starts to listen.
    pub(crate) fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::NETFILTER);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        bind(&socket, &SocketAddrNetlink::new(0, TABLES_GROUP))?;
        Ok(Self(sys::watch(socket)?))
    }

    /// Waits until a table was removed, ours or another. Tells it too when it may have missed
    /// that.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: what it read without returning told of no removal.
    pub(crate) async fn removed(&self) -> io::Result<()> {
        let mut buffer = vec![0; 32 << 10];
        loop {
            let got = self.0.async_io(Interest::READABLE, |socket| {
                match recv(socket, &mut buffer[..], RecvFlags::empty()) {
                    // More happened than fits: part of it was dropped.
                    Err(Errno::NOBUFS) => Ok(None),
                    other => Ok(Some(other?.1)),
                }
            });
            match got.await? {
                None => return Ok(()),
                Some(bytes) if tells_of_removal(&buffer[..bytes.min(buffer.len())]) => {
                    return Ok(());
                }
                Some(_) => {}
            }
        }
    }
}

/// Looks through the messages of one datagram.
fn tells_of_removal(mut datagram: &[u8]) -> bool {
    while let Some((header, _)) = datagram.split_at_checked(HEADER_BYTES) {
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
        if u16::from_ne_bytes([header[4], header[5]]) == TABLE_REMOVED {
            return true;
        }
        // Each begins at a multiple of four; a length that makes no sense ends the search.
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let next = len.max(HEADER_BYTES).checked_next_multiple_of(4);
        datagram = next.and_then(|next| datagram.get(next..)).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, content: &[u8]) -> Vec<u8> {
        let len = u32::try_from(HEADER_BYTES + content.len()).unwrap();
        let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], content].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_removal_is_found_among_other_changes() {
        let other = message(10 << 8 | 12, b"12345");
        assert!(!tells_of_removal(&other));
        assert!(tells_of_removal(&message(TABLE_REMOVED, b"")));
        assert!(tells_of_removal(&[other.clone(), message(TABLE_REMOVED, b"x")].concat()));
        assert!(!tells_of_removal(&[other.clone(), other].concat()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_through(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            tells_of_removal(&bytes);
        }
    }
}
