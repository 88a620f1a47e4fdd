//! What one epoch changes, as it is handed over, and the packs it becomes.

use std::fmt;
use std::io;

use sprite_blockmap::Mark;
use sprite_types::{BlockIndex, Epoch, Timestamp};
use tokio::sync::mpsc;

use super::WriteError;
use crate::block::BLOCK_LEN;
use crate::pack::{Added, Builder, Built, HashKey};

/// The bytes of one block.
pub type Content = Box<[u8; BLOCK_LEN]>;

/// Blocks in ascending order, each once; read on a thread that may block.
pub type Blocks = Box<dyn Iterator<Item = io::Result<(BlockIndex, Content)>> + Send>;

/// One sealed cut of the disk.
pub struct SealedEpoch {
    /// The number it gets: one more than that of the epoch before.
    pub epoch: Epoch,
    /// When the cut was made.
    pub time: Timestamp,
    /// What people see of it.
    pub mark: Mark,
    /// Ranges that became zeroes: first block and how many. `blocks` lie on top of them.
    pub zeroes: Vec<(BlockIndex, u32)>,
    /// Blocks that were written, whole.
    pub blocks: Blocks,
}

impl fmt::Debug for SealedEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, time, mark, zeroes, blocks: _ } = self;
        f.debug_struct("SealedEpoch")
            .field("epoch", epoch)
            .field("time", time)
            .field("mark", mark)
            .field("zeroes", zeroes)
            .finish_non_exhaustive()
    }
}

/// Makes packs of `blocks` and hands them on as they are full. Returns the blocks that are
/// zeroes. Blocks its thread.
pub(crate) fn build(
    blocks: Blocks,
    disk_blocks: u32,
    key: &HashKey,
    packs: &mpsc::Sender<Built>,
) -> Result<Vec<BlockIndex>, WriteError> {
    let (mut zeroes, mut next) = (Vec::new(), 0);
    let mut builder = Builder::new(key.clone());
    for read in blocks {
        let (block, content) = read.map_err(|source| WriteError::Source { source })?;
        if block.0 < next || block.0 >= disk_blocks {
            let reason = format!("block {block}, where {next} to {disk_blocks} may follow");
            return Err(WriteError::Invalid { reason });
        }
        next = block.0 + 1;
        let mut added = builder.add(block, &content);
        if added == Added::Full {
            let full = std::mem::replace(&mut builder, Builder::new(key.clone()));
            if packs.blocking_send(full.finish()).is_err() {
                // Whoever wanted it has given up.
                return Ok(zeroes);
            }
            added = builder.add(block, &content);
        }
        if added == Added::Zero {
            zeroes.push(block);
        }
    }
    if !builder.is_empty() {
        // An error: as above.
        let _ = packs.blocking_send(builder.finish());
    }
    Ok(zeroes)
}
