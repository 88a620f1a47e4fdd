//! Goes through the log once and keeps what counts.

use std::collections::{BTreeMap, HashMap};

use super::blocks::{BlockKind, JournalSuperblock, kind_of};
use super::overlay::{Logged, Overlay};
use crate::error::{FsError, Place};
use crate::filesystem::FileSystem;
use crate::inode::{Inode, Kind};

/// Blocks of the longest journal read: 4 GiB in blocks of 4 KiB, four times the largest that
/// `mkfs.ext4` makes by itself.
const BLOCKS_MAX: u32 = 1 << 20;
/// Revoked blocks remembered: 32 MiB of memory.
const REVOKES_MAX: usize = 1 << 20;

/// A journal after its replay.
pub(crate) struct Replayed {
    pub(crate) overlay: Overlay,
    pub(crate) notes: Vec<String>,
}

/// Reads the journal. A log ends where the next block is not what must follow; a transaction
/// without its end never happened. Both are normal after a crash.
pub(crate) fn replay(fs: &FileSystem) -> Result<Replayed, FsError> {
    let number = fs.superblock.journal_inode;
    if number == 0 {
        return Err(FsError::unsupported(Place::Journal, "a journal on another disk"));
    }
    let inode = fs.inode(number)?;
    if inode.metadata.kind != Kind::File {
        return Err(FsError::corrupt(Place::Journal, "it is not a file"));
    }
    let mut log = Log { fs, inode, at: 0, left: 0, superblock: None };
    let superblock = JournalSuperblock::parse(&log.block(0)?)?;
    if superblock.end - superblock.first.min(superblock.end) > BLOCKS_MAX {
        return Err(FsError::Limit { what: "blocks of journal", limit: BLOCKS_MAX.into() });
    }
    let mut notes = Vec::new();
    if fs.superblock.has_fast_commits() {
        notes.push("fast commits in the journal are not looked at".to_owned());
    }
    if superblock.start == 0 {
        return Ok(Replayed { overlay: Overlay::default(), notes });
    }
    log.at = superblock.start;
    log.left = superblock.end - superblock.first;
    log.superblock = Some(superblock.clone());
    let mut replay =
        Replay { superblock, index: 0, copies: HashMap::new(), revokes: HashMap::new() };
    let damaged = replay.run(&mut log)?;
    if damaged > 0 {
        notes.push(format!("copies in the journal with a wrong checksum: {damaged}"));
    }
    Ok(Replayed { overlay: replay.finish(fs), notes })
}

/// The blocks of the journal in the order in which they were written.
struct Log<'a> {
    fs: &'a FileSystem,
    inode: Inode,
    at: u32,
    /// Blocks not yet passed: a log never laps itself.
    left: u32,
    superblock: Option<JournalSuperblock>,
}

impl Log<'_> {
    /// Returns where block `index` of the journal is on the disk.
    fn place(&self, index: u32) -> Result<u64, FsError> {
        let run = self.fs.run_at(&self.inode, u64::from(index))?;
        run.block.ok_or(FsError::Corrupt { place: Place::Journal, reason: "it has holes" })
    }

    fn block(&self, index: u32) -> Result<Vec<u8>, FsError> {
        let mut content = vec![0; self.fs.superblock.block_size as usize];
        self.fs.read_span(self.place(index)?, 0, &mut content)?;
        Ok(content)
    }

    /// Returns the next block and its number on the disk, or `None` at the end.
    fn next(&mut self) -> Result<Option<(u64, Vec<u8>)>, FsError> {
        let Some(superblock) = &self.superblock else { return Ok(None) };
        if self.left == 0 {
            return Ok(None);
        }
        let index = self.at;
        self.left -= 1;
        self.at = if index + 1 >= superblock.end { superblock.first } else { index + 1 };
        Ok(Some((self.place(index)?, self.block(index)?)))
    }
}

struct Replay {
    superblock: JournalSuperblock,
    /// Counts transactions from 0; numbers in the journal wrap around.
    index: u32,
    /// Newest copy of each block, and the transaction it is of.
    copies: HashMap<u64, (u32, Logged)>,
    /// Newest transaction in which a block was revoked.
    revokes: HashMap<u64, u32>,
}

impl Replay {
    /// Takes all complete transactions. Returns how many copies had a wrong checksum.
    fn run(&mut self, log: &mut Log<'_>) -> Result<usize, FsError> {
        let mut damaged = 0;
        let (mut copies, mut revoked) = (Vec::new(), Vec::new());
        let mut damaged_now = 0;
        while let Some((_, block)) = log.next()? {
            let sequence = self.superblock.sequence.wrapping_add(self.index);
            match kind_of(&block, sequence) {
                None => break,
                Some(BlockKind::Descriptor) => {
                    let Some(tags) = self.superblock.tags(&block) else { break };
                    for tag in tags {
                        let Some((place, copy)) = log.next()? else { break };
                        if self.superblock.copy_holds(&tag, &copy, sequence) {
                            let logged = Logged { block: place, is_escaped: tag.is_escaped };
                            copies.push((tag.block, logged));
                        } else {
                            damaged_now += 1;
                        }
                    }
                }
                Some(BlockKind::Revoke) => {
                    let Some(blocks) = self.superblock.revoked(&block) else { break };
                    revoked.extend(blocks);
                    if revoked.len() + self.revokes.len() > REVOKES_MAX {
                        let limit = REVOKES_MAX as u64;
                        return Err(FsError::Limit {
                            what: "revoked blocks in the journal",
                            limit,
                        });
                    }
                }
                Some(BlockKind::Commit) => {
                    if !self.superblock.commit_holds(&block) {
                        break;
                    }
                    let index = self.index;
                    let newest = copies.drain(..).map(|(block, logged)| (block, (index, logged)));
                    self.copies.extend(newest);
                    self.revokes.extend(revoked.drain(..).map(|block| (block, index)));
                    damaged += std::mem::take(&mut damaged_now);
                    self.index += 1;
                }
            }
        }
        Ok(damaged)
    }

    /// Returns the copies that count: those on the disk that were not revoked in the same or a
    /// later transaction, because their blocks then became something else.
    fn finish(self, fs: &FileSystem) -> Overlay {
        let counts = |block: u64, index: u32| {
            block < fs.superblock.blocks
                && self.revokes.get(&block).is_none_or(|&revoked| revoked < index)
        };
        let blocks: BTreeMap<u64, Logged> = (self.copies.iter())
            .filter(|&(&block, &(index, _))| counts(block, index))
            .map(|(&block, &(_, logged))| (block, logged))
            .collect();
        Overlay::new(blocks)
    }
}
