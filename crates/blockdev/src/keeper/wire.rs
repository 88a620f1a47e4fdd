//! The messages between a keeper and its clients, version 1.
//!
//! Packets of 64 bytes: magic, version, kind, then numbers in the machine's byte order (the two
//! are on one machine). A keeper outlives releases, so the format only ever grows: unknown kinds
//! are refused, and what version 1 says stays as it is.

/// Length of every message, in bytes.
pub(crate) const MESSAGE_BYTES: usize = 64;
/// The most descriptors that a server may leave with its keeper.
pub const DEPOSITS_MAX: usize = 8;
/// The most descriptors in a message: those of the disk, and the deposits.
pub(crate) const FDS_MAX: usize = 3 + DEPOSITS_MAX;
const MAGIC: [u8; 4] = *b"SPRK";
const VERSION: u16 = 1;

/// Something else than a message of version 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("a packet of {0} bytes is no message")]
    Length(usize),
    #[error("a packet does not begin with the magic number")]
    Magic,
    #[error("the other side speaks version {found}, this program {VERSION}")]
    Version { found: u16 },
    #[error("message kind {0} is unknown")]
    Kind(u16),
    #[error("a message has a number out of bounds")]
    Value,
}

/// Why a keeper does not do as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another server waits already; or the disk is still served.
    Busy,
    /// The kernel has closed the disk.
    Disconnected,
    /// The keeper holds as many descriptors as it may.
    Full,
    /// The message makes no sense here.
    Unexpected,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Keeper, first: who connects repeats the number, which shows that it lived after this.
    Hello {
        nonce: u64,
        layout: u32,
    },
    /// Give me the disk, as soon as its server is gone.
    Take {
        nonce: u64,
    },
    /// With descriptors: FUSE, slots, mount, then one per key. Answered with `Ok`; who hangs up
    /// before that has not got it.
    Granted {
        incarnation: u32,
        keys: Vec<u32>,
    },
    Refused(Refusal),
    /// With one descriptor: keep it for my successors, instead of what had that key.
    Deposit {
        key: u32,
    },
    /// Forget what has that key.
    Withdraw {
        key: u32,
    },
    Ok,
    /// Give me the folder with the disk's file.
    Mount,
    /// With one descriptor.
    MountGranted,
    Status,
    StatusIs {
        server_pid: u32,
        incarnation: u32,
        connected: bool,
        waiting: bool,
    },
    /// Give the disk up.
    Stop,
    /// With descriptors FUSE, slots, mount, to a keeper that has no disk: the sender serves this
    /// one, and its keeper was lost.
    Adopt {
        nonce: u64,
        incarnation: u32,
    },
}

impl Message {
    fn kind(&self) -> u16 {
        match self {
            Self::Hello { .. } => 1,
            Self::Take { .. } => 2,
            Self::Granted { .. } => 3,
            Self::Refused(_) => 4,
            Self::Deposit { .. } => 5,
            Self::Withdraw { .. } => 6,
            Self::Ok => 7,
            Self::Mount => 8,
            Self::MountGranted => 9,
            Self::Status => 10,
            Self::StatusIs { .. } => 11,
            Self::Stop => 12,
            Self::Adopt { .. } => 13,
        }
    }

    pub(crate) fn encode(&self) -> [u8; MESSAGE_BYTES] {
        let mut out = [0; MESSAGE_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_ne_bytes());
        out[6..8].copy_from_slice(&self.kind().to_ne_bytes());
        let (wide, narrow) = out[8..].split_at_mut(8);
        let mut put = |index: usize, value: u32| {
            narrow[index * 4..index * 4 + 4].copy_from_slice(&value.to_ne_bytes());
        };
        match self {
            Self::Hello { nonce, layout } => {
                put(0, *layout);
                wide.copy_from_slice(&nonce.to_ne_bytes());
            }
            Self::Take { nonce } => wide.copy_from_slice(&nonce.to_ne_bytes()),
            Self::Granted { incarnation, keys } => {
                assert!(keys.len() <= DEPOSITS_MAX, "a keeper holds no more");
                put(0, u32::try_from(keys.len()).expect("few"));
                keys.iter().enumerate().for_each(|(index, key)| put(index + 1, *key));
                put(DEPOSITS_MAX + 1, *incarnation);
            }
            Self::Refused(refusal) => put(0, *refusal as u32),
            Self::Deposit { key } | Self::Withdraw { key } => put(0, *key),
            Self::StatusIs { server_pid, incarnation, connected, waiting } => {
                put(0, *server_pid);
                put(1, u32::from(*connected));
                put(2, u32::from(*waiting));
                put(3, *incarnation);
            }
            Self::Adopt { nonce, incarnation } => {
                put(0, *incarnation);
                wide.copy_from_slice(&nonce.to_ne_bytes());
            }
            Self::Ok | Self::Mount | Self::MountGranted | Self::Status | Self::Stop => {}
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let bytes: &[u8; MESSAGE_BYTES] =
            bytes.try_into().map_err(|_| WireError::Length(bytes.len()))?;
        if bytes[..4] != MAGIC {
            return Err(WireError::Magic);
        }
        let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        if half(4) != VERSION {
            return Err(WireError::Version { found: half(4) });
        }
        let wide = u64::from_ne_bytes(bytes[8..16].try_into().expect("8 bytes"));
        let narrow = |index: usize| {
            let at = 16 + index * 4;
            u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
        };
        Ok(match half(6) {
            1 => Self::Hello { nonce: wide, layout: narrow(0) },
            2 => Self::Take { nonce: wide },
            3 => {
                let count = narrow(0) as usize;
                if count > DEPOSITS_MAX {
                    return Err(WireError::Value);
                }
                let keys = (1..=count).map(narrow).collect();
                Self::Granted { incarnation: narrow(DEPOSITS_MAX + 1), keys }
            }
            4 => Self::Refused(match narrow(0) {
                0 => Refusal::Busy,
                1 => Refusal::Disconnected,
                2 => Refusal::Full,
                3 => Refusal::Unexpected,
                _ => return Err(WireError::Value),
            }),
            5 => Self::Deposit { key: narrow(0) },
            6 => Self::Withdraw { key: narrow(0) },
            7 => Self::Ok,
            8 => Self::Mount,
            9 => Self::MountGranted,
            10 => Self::Status,
            11 => Self::StatusIs {
                server_pid: narrow(0),
                incarnation: narrow(3),
                connected: narrow(1) != 0,
                waiting: narrow(2) != 0,
            },
            12 => Self::Stop,
            13 => Self::Adopt { nonce: wide, incarnation: narrow(0) },
            kind => return Err(WireError::Kind(kind)),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all() -> Vec<Message> {
        let mut all = vec![
            Message::Hello { nonce: u64::MAX, layout: 1 },
            Message::Take { nonce: 7 },
            Message::Granted { incarnation: 3, keys: vec![] },
            Message::Granted { incarnation: 3, keys: (1..=8).collect() },
            Message::Deposit { key: u32::MAX },
            Message::Withdraw { key: 1 },
            Message::Ok,
            Message::Mount,
            Message::MountGranted,
            Message::Status,
            Message::StatusIs { server_pid: 9, incarnation: 2, connected: true, waiting: false },
            Message::Stop,
            Message::Adopt { nonce: 1 << 40, incarnation: 8 },
        ];
        use Refusal::*;
        all.extend([Busy, Disconnected, Full, Unexpected].map(Message::Refused));
        all
    }

    #[test]
    fn every_message_comes_back() {
        for message in all() {
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    /// A running keeper is of an older release than the server that talks to it.
    #[cfg(target_endian = "little")]
    #[test]
    fn a_grant_is_the_golden_one() {
        let mut golden = [0; MESSAGE_BYTES];
        golden[..8].copy_from_slice(&[b'S', b'P', b'R', b'K', 1, 0, 3, 0]);
        (golden[16], golden[20], golden[24], golden[52]) = (2, 4, 9, 5);
        assert_eq!(Message::Granted { incarnation: 5, keys: vec![4, 9] }.encode(), golden);
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = Message::Ok.encode();
        bytes[4] = 2;
        assert_eq!(Message::decode(&bytes), Err(WireError::Version { found: 2 }));
        assert_eq!(Message::decode(&bytes[..63]), Err(WireError::Length(63)));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(
            kind in 0u16..20,
            body in proptest::collection::vec(any::<u8>(), MESSAGE_BYTES - 8),
        ) {
            let mut bytes = Message::Ok.encode();
            bytes[6..8].copy_from_slice(&kind.to_ne_bytes());
            bytes[8..].copy_from_slice(&body);
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.kind(), kind);
            }
        }
    }
}
