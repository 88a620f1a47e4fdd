//! Reads and verifies a file.

use bytes::Bytes;

use super::checksum::Running;
use super::{
    FRAME_FLAG_SIZED, FRAME_HEADER_LEN, FileChecksum, FormatError, Frame, HEADER_LEN, Header,
    INDEX_LEN_LEN, PAGES_END, TRAILER_LEN, put_index,
};

/// A verified file: every field, every page and the checksum were looked at.
#[derive(Clone, Debug)]
pub struct LtxFile {
    bytes: Bytes,
    header: Header,
    checksum: FileChecksum,
    frames: Vec<Frame>,
}

impl LtxFile {
    /// Reads a file and verifies all of it.
    ///
    /// Decompresses each page once, into one buffer. The memory it keeps besides `bytes` is
    /// 24 bytes per page frame found in them.
    ///
    /// # Errors
    /// Any [`FormatError`]; the file must not be used.
    pub fn parse(bytes: Bytes) -> Result<Self, FormatError> {
        let head =
            bytes.first_chunk::<HEADER_LEN>().ok_or(FormatError::Short { what: "header" })?;
        let header = Header::from_bytes(head)?;
        let mut running = Running::new();
        running.update(head);

        let (frames, tail) = read_frames(&bytes, &header, &mut running)?;
        header.check_count(frames.len() as u64)?;

        let stored = read_tail(&bytes, tail, &frames)?;
        running.update(&bytes[tail..bytes.len() - 8]);
        let computed = running.finish();
        if stored != computed {
            return Err(FormatError::Checksum { stored, computed });
        }
        Ok(Self { bytes, header, checksum: stored, frames })
    }

    /// Returns what the file says about itself.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Returns the checksum in the trailer, which was found to be right.
    #[must_use]
    pub fn checksum(&self) -> FileChecksum {
        self.checksum
    }

    /// Returns the whole file.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns the numbers of its pages, ascending.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = u32> {
        self.frames.iter().map(|frame| frame.page)
    }

    /// Says whether the file holds `page`.
    #[must_use]
    pub fn contains(&self, page: u32) -> bool {
        self.frames.binary_search_by_key(&page, |frame| frame.page).is_ok()
    }

    /// Writes each page to `sink`, in ascending order, through one buffer.
    ///
    /// # Errors
    /// The sink's.
    pub fn each_page<E: From<FormatError>>(
        &self,
        mut sink: impl FnMut(u32, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut data = vec![0; self.header.page_size.bytes()];
        for frame in &self.frames {
            self.read_frame(frame, &mut data)?;
            sink(frame.page, &data)?;
        }
        Ok(())
    }

    pub(crate) fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Returns the compressed bytes of a frame of this file.
    pub(crate) fn compressed(&self, frame: &Frame) -> &[u8] {
        let start = frame.offset as usize;
        &self.bytes[start + FRAME_HEADER_LEN..start + frame.len as usize]
    }

    /// Decompresses a frame of this file into `data`, which is one page long.
    pub(crate) fn read_frame(&self, frame: &Frame, data: &mut [u8]) -> Result<(), FormatError> {
        decompress(frame.page, self.compressed(frame), data)
    }
}

fn decompress(page: u32, compressed: &[u8], data: &mut [u8]) -> Result<(), FormatError> {
    match lz4_flex::block::decompress_into(compressed, data) {
        Ok(len) if len == data.len() => Ok(()),
        _ => Err(FormatError::Compression { page }),
    }
}

/// Walks the page block. Returns the frames and where the block's end mark begins.
fn read_frames(
    bytes: &[u8],
    header: &Header,
    running: &mut Running,
) -> Result<(Vec<Frame>, usize), FormatError> {
    const SHORT: FormatError = FormatError::Short { what: "pages" };
    let mut frames = Vec::new();
    let mut data = vec![0; header.page_size.bytes()];
    let compressed_max = lz4_flex::block::get_maximum_output_size(data.len());
    let (mut at, mut last) = (HEADER_LEN, 0);
    loop {
        let rest = &bytes[at..];
        if rest.get(..PAGES_END.len()).ok_or(SHORT)? == PAGES_END {
            return Ok((frames, at));
        }
        let head = rest.first_chunk::<FRAME_HEADER_LEN>().ok_or(SHORT)?;
        let page = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = u16::from_be_bytes([head[4], head[5]]);
        let size = u32::from_be_bytes([head[6], head[7], head[8], head[9]]) as usize;
        if flags != FRAME_FLAG_SIZED {
            return Err(FormatError::Field { field: "page flags", value: u64::from(flags) });
        }
        header.check_order(last, page)?;
        if size > compressed_max {
            return Err(FormatError::Compression { page });
        }
        let compressed = rest.get(FRAME_HEADER_LEN..FRAME_HEADER_LEN + size).ok_or(SHORT)?;
        decompress(page, compressed, &mut data)?;
        running.update(head);
        running.update(&data);
        let len = FRAME_HEADER_LEN + size;
        frames.push(Frame { page, offset: at as u64, len: len as u32 });
        at += len;
        last = page;
    }
}

/// Checks everything from the end mark at `tail` on. Returns the stored checksum.
fn read_tail(bytes: &[u8], tail: usize, frames: &[Frame]) -> Result<FileChecksum, FormatError> {
    let mut expected = Vec::new();
    put_index(&mut expected, frames);
    debug_assert!(expected.len() > INDEX_LEN_LEN);
    let index = &bytes[tail + PAGES_END.len()..];
    // Exactly index and trailer must be left: nothing may hide behind them.
    if index.len() < expected.len() + TRAILER_LEN {
        return Err(FormatError::Short { what: "index or trailer" });
    }
    let (index, trailer) = index.split_at(index.len() - TRAILER_LEN);
    if index != expected {
        return Err(FormatError::Index);
    }
    let (after, stored) = trailer.split_at(8);
    if after != [0; 8] {
        let value = u64::from_be_bytes(after.try_into().expect("split at 8"));
        return Err(FormatError::Field { field: "database checksum", value });
    }
    Ok(FileChecksum(u64::from_be_bytes(stored.try_into().expect("8 of 16 are left"))))
}
