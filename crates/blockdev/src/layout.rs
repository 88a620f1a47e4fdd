//! Where everything lies in the slots' memory, version 1.
//!
//! A server reads requests of its predecessor from this memory, and the two may be of different
//! releases. So the layout is a format: it carries a version, and a server that does not know
//! the version must not touch a slot. All numbers are in the machine's byte order, because the
//! memory never leaves the machine.
//!
//! ```text
//! page 0            magic, version, slots, bytes per request, length of the disk
//! then per slot     one control page: state, attempts, reply's length and place,
//!                   head of the request (80 bytes), head of the reply and a small body
//!                   the data: as many bytes as one request may carry, page-aligned
//! ```

/// The version of this layout. Raise it with any change.
pub(crate) const VERSION: u32 = 1;
/// Memory is handed to the kernel in whole pages of this size.
pub(crate) const PAGE: usize = 4096;
/// Length of the control page.
pub(crate) const CONTROL_BYTES: usize = PAGE;
/// Bounds of what one request may carry, in bytes. The kernel wants 8 KiB to read at least.
pub(crate) const REQUEST_BYTES_MIN: u32 = 64 << 10;
pub(crate) const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Bounds of the number of slots.
pub(crate) const SLOTS_MAX: u16 = 256;

/// Offsets in the control page, in bytes.
pub(crate) const STATE: usize = 0;
/// How often a successor has found the request and executed it.
pub(crate) const ATTEMPTS: usize = 4;
/// Length of the reply's body, and whether it is in the data instead of behind the reply's head.
pub(crate) const REPLY_BYTES: (usize, usize) = (8, 12);
/// Offset and length of the request's head: FUSE's header and the largest body of interest.
pub(crate) const HEAD: (usize, usize) = (64, 80);
/// Offset of the reply's head, with a small body behind it.
pub(crate) const OUT: usize = 192;
pub(crate) const OUT_BYTES: usize = 256;
/// Length of the reply's head alone.
pub(crate) const OUT_HEADER_BYTES: usize = 16;

const MAGIC: [u8; 8] = *b"SPRSLOTS";
/// Bytes of page 0 in use.
pub(crate) const HEADER_BYTES: usize = 32;

/// Why memory is not what a server can take over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The memory was not made by a keeper.
    #[error("the slots' memory does not begin with the magic number")]
    Magic,
    /// The keeper is of a release whose layout this one does not know.
    #[error("the slots have layout version {found}, this program knows version {known}")]
    Version { found: u32, known: u32 },
    /// A number in the header is out of bounds, or the memory's length does not fit it.
    #[error("the header of the slots says {what} = {value}")]
    Value { what: &'static str, value: u64 },
}

/// The numbers that page 0 holds, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    slots: u16,
    request_bytes: u32,
    len_bytes: u64,
}

impl Layout {
    /// Checks the numbers: `request_bytes` in whole pages, `len_bytes` of the disk in 4 KiB.
    pub(crate) fn new(slots: u16, request_bytes: u32, len_bytes: u64) -> Result<Self, LayoutError> {
        let value = |what, value| Err(LayoutError::Value { what, value });
        if !(1..=SLOTS_MAX).contains(&slots) {
            return value("slots", slots.into());
        }
        if !(REQUEST_BYTES_MIN..=REQUEST_BYTES_MAX).contains(&request_bytes)
            || !(request_bytes as usize).is_multiple_of(PAGE)
        {
            return value("request_bytes", request_bytes.into());
        }
        if len_bytes == 0
            || len_bytes > i64::MAX as u64 / 2
            || !len_bytes.is_multiple_of(PAGE as u64)
        {
            return value("len_bytes", len_bytes);
        }
        Ok(Self { slots, request_bytes, len_bytes })
    }

    /// Reads page 0 of memory that is `memory_bytes` long.
    pub(crate) fn decode(
        header: &[u8; HEADER_BYTES],
        memory_bytes: u64,
    ) -> Result<Self, LayoutError> {
        let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        if header[..8] != MAGIC {
            return Err(LayoutError::Magic);
        }
        if word(8) != VERSION {
            return Err(LayoutError::Version { found: word(8), known: VERSION });
        }
        let slots = u16::try_from(word(12))
            .map_err(|_| LayoutError::Value { what: "slots", value: word(12).into() })?;
        let len_bytes = u64::from_ne_bytes(header[24..32].try_into().expect("8 bytes"));
        let layout = Self::new(slots, word(16), len_bytes)?;
        if memory_bytes != layout.total_bytes() as u64 {
            return Err(LayoutError::Value { what: "length of the memory", value: memory_bytes });
        }
        Ok(layout)
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_ne_bytes());
        header[12..16].copy_from_slice(&u32::from(self.slots).to_ne_bytes());
        header[16..20].copy_from_slice(&self.request_bytes.to_ne_bytes());
        header[24..32].copy_from_slice(&self.len_bytes.to_ne_bytes());
        header
    }

    pub(crate) fn slots(&self) -> u16 {
        self.slots
    }

    /// The most that one request may carry, in bytes.
    pub(crate) fn request_bytes(&self) -> u32 {
        self.request_bytes
    }

    /// Length of the disk, in bytes.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    pub(crate) fn data_bytes(&self) -> usize {
        self.request_bytes as usize
    }

    pub(crate) fn stride(&self) -> usize {
        CONTROL_BYTES + self.data_bytes()
    }

    pub(crate) fn slot_offset(&self, index: u16) -> usize {
        PAGE + usize::from(index) * self.stride()
    }

    /// Length of the memory, in bytes.
    pub(crate) fn total_bytes(&self) -> usize {
        PAGE + usize::from(self.slots) * self.stride()
    }
}

/// What a slot is in. Stored as a number; a number of a later release is no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing in it.
    Free,
    /// Given to the kernel, which may have put a request into it: the header tells.
    Armed,
    /// Holds a request that has not been answered, and may have been executed in part.
    Taken,
    /// Holds a result. The kernel may or may not have got it; the request is not executed again.
    Done,
}

impl State {
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Free,
            1 => Self::Armed,
            2 => Self::Taken,
            3 => Self::Done,
            _ => return None,
        })
    }

    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Free => 0,
            Self::Armed => 1,
            Self::Taken => 2,
            Self::Done => 3,
        }
    }
}

const _: () = assert!(HEAD.0 + HEAD.1 <= OUT && OUT + OUT_BYTES <= CONTROL_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    /// A header as version 1 writes it; a change of these bytes needs a new version.
    #[test]
    fn the_header_is_the_golden_one() {
        let layout = Layout::new(16, 256 << 10, 100 << 30).unwrap();
        let golden: [u8; HEADER_BYTES] = [
            b'S', b'P', b'R', b'S', b'L', b'O', b'T', b'S', 1, 0, 0, 0, 16, 0, 0, 0, 0, 0, 4, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 25, 0, 0, 0,
        ];
        #[cfg(target_endian = "little")]
        assert_eq!(layout.encode(), golden);
        assert_eq!(Layout::decode(&layout.encode(), layout.total_bytes() as u64), Ok(layout));
        let places = (STATE, ATTEMPTS, REPLY_BYTES, HEAD, OUT, OUT_BYTES);
        assert_eq!(places, (0, 4, (8, 12), (64, 80), 192, 256));
    }

    #[test]
    fn a_later_version_is_refused() {
        let layout = Layout::new(4, 64 << 10, 1 << 20).unwrap();
        let mut header = layout.encode();
        header[8] = 2;
        let error = Layout::decode(&header, layout.total_bytes() as u64).unwrap_err();
        assert_eq!(error, LayoutError::Version { found: 2, known: 1 });
    }

    #[test]
    fn memory_that_does_not_fit_its_header_is_refused() {
        let layout = Layout::new(4, 64 << 10, 1 << 20).unwrap();
        assert!(Layout::decode(&layout.encode(), layout.total_bytes() as u64 - 1).is_err());
        for (at, value) in [(0, 0), (12, 0), (15, 1), (16, 1), (19, 0xff), (24, 1), (31, 0x80)] {
            let mut header = layout.encode();
            header[at] = value;
            assert!(Layout::decode(&header, layout.total_bytes() as u64).is_err(), "byte {at}");
        }
    }

    #[test]
    fn states_survive_being_numbers() {
        for number in 0..4 {
            assert_eq!(State::from_number(number).map(State::number), Some(number));
        }
        assert_eq!(State::from_number(4), None);
    }
}
