//! Makes a file, page by page.

use bytes::Bytes;

use super::checksum::Running;
use super::{
    FRAME_FLAG_SIZED, FRAME_HEADER_LEN, FileChecksum, FormatError, Frame, Header, PAGES_END,
    put_index,
};

/// A finished file.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The whole file.
    pub bytes: Bytes,
    /// The checksum in its trailer.
    pub checksum: FileChecksum,
    /// Its header.
    pub header: Header,
}

/// Takes pages in ascending order and makes a file of them, in memory.
pub struct Encoder {
    header: Header,
    out: Vec<u8>,
    running: Running,
    frames: Vec<Frame>,
    last: u32,
    /// Room for one compressed page, which may be larger than the page.
    scratch: Vec<u8>,
}

impl Encoder {
    /// Begins a file.
    ///
    /// # Errors
    /// - [`FormatError::Field`]: the header cannot be written.
    pub fn new(header: Header) -> Result<Self, FormatError> {
        header.validate()?;
        let mut running = Running::new();
        let out = header.to_bytes().to_vec();
        running.update(&out);
        let room = lz4_flex::block::get_maximum_output_size(header.page_size.bytes());
        Ok(Self { header, out, running, frames: Vec::new(), last: 0, scratch: vec![0; room] })
    }

    /// Adds a page.
    ///
    /// # Errors
    /// - [`FormatError::Order`]: not after the page before it, or beyond the end.
    /// - [`FormatError::PageLength`]: `data` is not one page.
    pub fn push(&mut self, page: u32, data: &[u8]) -> Result<(), FormatError> {
        if data.len() != self.header.page_size.bytes() {
            return Err(FormatError::PageLength { page, len: data.len() });
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let len = lz4_flex::block::compress_into(data, &mut scratch)
            .map_err(|_| FormatError::Compression { page })?;
        let pushed = self.push_compressed(page, &scratch[..len], data);
        self.scratch = scratch;
        pushed
    }

    /// Adds a page whose compressed form is known.
    pub(crate) fn push_compressed(
        &mut self,
        page: u32,
        compressed: &[u8],
        data: &[u8],
    ) -> Result<(), FormatError> {
        self.header.check_order(self.last, page)?;
        let size = u32::try_from(compressed.len())
            .map_err(|_| FormatError::PageLength { page, len: compressed.len() })?;
        let offset = self.out.len();
        self.out.extend_from_slice(&page.to_be_bytes());
        self.out.extend_from_slice(&FRAME_FLAG_SIZED.to_be_bytes());
        self.out.extend_from_slice(&size.to_be_bytes());
        self.running.update(&self.out[offset..]);
        self.running.update(data);
        self.out.extend_from_slice(compressed);
        let len = size + FRAME_HEADER_LEN as u32;
        self.frames.push(Frame { page, offset: offset as u64, len });
        self.last = page;
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// - [`FormatError::Empty`]: no page was added.
    /// - [`FormatError::Incomplete`]: it is a snapshot and pages are missing.
    pub fn finish(mut self) -> Result<Encoded, FormatError> {
        self.header.check_count(self.frames.len() as u64)?;
        let tail = self.out.len();
        self.out.extend_from_slice(&PAGES_END);
        put_index(&mut self.out, &self.frames);
        // The checksum of the database afterwards: 0, as the header's flag says.
        self.out.extend_from_slice(&0u64.to_be_bytes());
        self.running.update(&self.out[tail..]);
        let checksum = self.running.finish();
        self.out.extend_from_slice(&checksum.0.to_be_bytes());
        Ok(Encoded { bytes: self.out.into(), checksum, header: self.header })
    }
}
