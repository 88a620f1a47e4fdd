//! The kernel's list of listening sockets: netlink messages, encoded and decoded.
//!
//! **Source**: `sock_diag(7)`, `linux/inet_diag.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const REQUEST_DUMP: u16 = 0x0301;
const STATE_LISTEN: u32 = 1 << 10;
/// Attribute with the cgroup2 id of whoever made the socket. Linux 5.9.
const INET_DIAG_CGROUP_ID: u16 = 21;
const HEADER_LEN: usize = 16;
const MESSAGE_LEN: usize = 72;

/// An address family to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    const fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}

/// One listening TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// Of the socket, as in `/proc/PID/fd`.
    pub(crate) inode: u32,
    /// Inode of the cgroup2 directory whose process made it; 0 if the kernel does not say.
    pub(crate) cgroup: u64,
}

/// Returns the request for all listening sockets of a family.
pub(crate) fn request(family: Family) -> [u8; HEADER_LEN + 56] {
    let mut message = [0; HEADER_LEN + 56];
    let len = u32::try_from(message.len()).expect("72 bytes");
    message[..4].copy_from_slice(&len.to_ne_bytes());
    message[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message[6..8].copy_from_slice(&REQUEST_DUMP.to_ne_bytes());
    let body = &mut message[HEADER_LEN..];
    body[0] = family.number();
    body[1] = 6; // TCP
    body[4..8].copy_from_slice(&STATE_LISTEN.to_ne_bytes());
    message
}

/// What one read from the netlink socket said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    More,
    Done,
    /// The kernel refused, with this error number.
    Refused(i32),
}

/// Adds the listeners in `bytes` to `found`. What cannot be understood is skipped.
pub(crate) fn parse(bytes: &[u8], found: &mut Vec<Listener>) -> Progress {
    let mut rest = bytes;
    while let Some(header) = rest.get(..HEADER_LEN) {
        let len = u32_at(header, 0) as usize;
        let Some(message) = rest.get(HEADER_LEN..len) else { return Progress::Done };
        match u16_at(header, 4) {
            NLMSG_DONE => return Progress::Done,
            NLMSG_ERROR => {
                let code = message.get(..4).map_or(0, |code| u32_at(code, 0).cast_signed());
                return Progress::Refused(-code);
            }
            SOCK_DIAG_BY_FAMILY => found.extend(listener(message)),
            _ => {}
        }
        rest = rest.get(align(len)..).unwrap_or_default();
    }
    Progress::More
}

fn listener(message: &[u8]) -> Option<Listener> {
    let head = message.get(..MESSAGE_LEN)?;
    let address = match head[0] {
        2 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&head[8..12]).ok()?)),
        10 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&head[8..24]).ok()?)),
        _ => return None,
    };
    let mut listener = Listener {
        address,
        port: u16::from_be_bytes([head[4], head[5]]),
        inode: u32_at(head, 68),
        cgroup: 0,
    };
    let mut rest = &message[MESSAGE_LEN..];
    while let Some(header) = rest.get(..4) {
        let len = usize::from(u16_at(header, 0));
        let Some(value) = rest.get(4..len) else { break };
        if u16_at(header, 2) == INET_DIAG_CGROUP_ID
            && let Ok(id) = <[u8; 8]>::try_from(value)
        {
            listener.cgroup = u64::from_ne_bytes(id);
        }
        rest = rest.get(align(len)..).unwrap_or_default();
    }
    Some(listener)
}

const fn align(len: usize) -> usize {
    (len + 3) & !3
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(HEADER_LEN + body.len()).unwrap();
        let mut out = len.to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.resize(HEADER_LEN, 0);
        out.extend(body);
        out.resize(align(out.len()), 0);
        out
    }

    #[test]
    fn a_listener_is_read_with_its_cgroup() {
        let mut body = vec![0; MESSAGE_LEN];
        body[0] = 2;
        body[4..6].copy_from_slice(&8080_u16.to_be_bytes());
        body[8..12].copy_from_slice(&[127, 0, 0, 1]);
        body[68..72].copy_from_slice(&77_u32.to_ne_bytes());
        body.extend(5_u16.to_ne_bytes());
        body.extend(9_u16.to_ne_bytes());
        body.extend([1, 0, 0, 0]);
        body.extend(12_u16.to_ne_bytes());
        body.extend(INET_DIAG_CGROUP_ID.to_ne_bytes());
        body.extend(4452_u64.to_ne_bytes());
        let mut bytes = message(SOCK_DIAG_BY_FAMILY, &body);
        let mut found = Vec::new();
        assert_eq!(parse(&bytes, &mut found), Progress::More);
        let expected =
            Listener { address: Ipv4Addr::LOCALHOST.into(), port: 8080, inode: 77, cgroup: 4452 };
        assert_eq!(found, [expected]);
        bytes.extend(message(NLMSG_DONE, &[0; 4]));
        assert_eq!(parse(&bytes, &mut found), Progress::Done);
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn damaged_messages_are_skipped() {
        let mut found = Vec::new();
        for len in 0..200 {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 37 % 256) as u8).collect();
            parse(&bytes, &mut found);
            parse(&message(SOCK_DIAG_BY_FAMILY, &bytes), &mut found);
        }
        let refused = message(NLMSG_ERROR, &(-13_i32).to_ne_bytes());
        assert_eq!(parse(&refused, &mut found), Progress::Refused(13));
    }
}
