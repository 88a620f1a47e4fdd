//! Writes that were set aside: rule 7.

use sprite_types::{Epoch, Generation};

use super::disk::{Dir, File};
use super::engine::Cache;
use super::epochs::SealedBlock;
use super::error::OpenError;
use super::journal::Journal;
use super::parts::{Entry, Parts};
use super::plan::{Kept, Plan, plan};
use super::rules::Rules;
use crate::block::BLOCK_LEN;

/// Writes of a cache that was taken over, kept in a directory of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranded {
    /// The directory's name in the cache directory.
    pub name: String,
    /// The claim they were written under.
    pub generation: Generation,
    /// The epoch they lie on.
    pub base: Epoch,
}

/// Stranded writes, opened to be read. Nothing changes them.
pub struct StrandedWrites {
    data: Box<dyn File>,
    plan: Plan,
}

impl Stranded {
    /// Opens the writes, to lay them on a fork of the epoch [`Stranded::base`].
    ///
    /// # Errors
    /// As [`Cache::open`](super::Cache::open).
    pub fn open(&self, dir: &dyn Dir) -> Result<StrandedWrites, OpenError> {
        let io = |source| OpenError::Io { action: "open stranded writes", source };
        let data = dir.open(&self.name, "slots").map_err(io)?;
        let (_, replayed) = Journal::open(dir, &self.name, 0, false)?;
        let base = self.base;
        let mut plan = plan(&replayed, base, base, &|_| Entry::NONE, Rules::default())?;
        plan.kept.retain(|kept| kept.item.epoch > base && !kept.item.dirty.is_empty());
        plan.kept.sort_by_key(|kept| (kept.item.epoch, kept.item.block));
        Ok(StrandedWrites { data, plan })
    }
}

impl StrandedWrites {
    /// Returns the epochs that the writes make up, oldest first; the last gathers those that were
    /// not sealed under a name.
    #[must_use]
    pub fn epochs(&self) -> Vec<Epoch> {
        let mut epochs: Vec<Epoch> = self.plan.kept.iter().map(|kept| kept.item.epoch).collect();
        epochs.dedup();
        epochs
    }

    /// Returns the blocks of one of the epochs, in their order, each read when asked for.
    pub fn blocks(
        &self,
        epoch: Epoch,
    ) -> impl Iterator<Item = Result<SealedBlock, OpenError>> + '_ {
        let of_epoch = self.plan.kept.iter().filter(move |kept| kept.item.epoch == epoch);
        of_epoch.map(|kept| self.block(kept))
    }

    fn block(&self, kept: &Kept) -> Result<SealedBlock, OpenError> {
        let item = &kept.item;
        let mut content: Box<[u8; BLOCK_LEN]> =
            vec![0; BLOCK_LEN].try_into().expect("as long as a block");
        let with_data = if kept.id.is_mark() { Parts::NONE } else { item.valid & !item.zero };
        for run in with_data.runs() {
            let at = Cache::position(kept.id, run.start);
            self.data
                .read(&mut content[run], at)
                .map_err(|source| OpenError::Io { action: "read stranded writes", source })?;
        }
        Ok(SealedBlock { block: item.block, dirty: item.dirty, valid: item.valid, content })
    }
}
