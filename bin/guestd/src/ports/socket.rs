//! The netlink socket that lists a network namespace's listeners.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::diag::{Family, Listener, Progress, parse, request};

/// More than this is not looked at.
const LISTENERS_MAX: usize = 4096;

/// Belongs to the namespace in which it was made, whoever uses it.
#[derive(Debug)]
pub(crate) struct DiagSocket(OwnedFd);

impl DiagSocket {
    /// Makes a socket in `namespace`, or in our own.
    pub(crate) fn open(namespace: Option<OwnedFd>) -> io::Result<Self> {
        let Some(namespace) = namespace else { return Self::here() };
        // A thread of its own, since a thread does not come back from there.
        let thread = std::thread::Builder::new().spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Self::here()
        })?;
        thread.join().map_err(|_| io::Error::other("the thread panicked"))?
    }

    fn here() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let protocol = Some(netlink::SOCK_DIAG);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        // A dump is answered at once; nothing here may ever wait for long.
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(1)))?;
        Ok(Self(socket))
    }

    /// Lists all listening TCP sockets. Takes some microseconds.
    pub(crate) fn listeners(&self) -> io::Result<Vec<Listener>> {
        let mut found = Vec::new();
        let mut buffer = vec![0; 32 * 1024];
        for family in [Family::V4, Family::V6] {
            rustix::io::write(&self.0, &request(family))?;
            loop {
                let len = rustix::io::read(&self.0, &mut buffer[..])?;
                match parse(&buffer[..len], &mut found) {
                    Progress::More if len > 0 => {}
                    Progress::More | Progress::Done => break,
                    Progress::Refused(errno) => return Err(io::Error::from_raw_os_error(errno)),
                }
            }
        }
        found.truncate(LISTENERS_MAX);
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_listeners_are_found() {
        let v4 = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = v4.local_addr().unwrap().port();
        let socket = DiagSocket::open(None).unwrap();
        let find = || socket.listeners().unwrap().into_iter().find(|l| l.port == port);
        let found = find().expect("listed");
        assert_eq!(found.address, v4.local_addr().unwrap().ip());
        assert_ne!(found.inode, 0);
        drop(v4);
        assert_eq!(find(), None);
    }
}
