//! A few blocks of metadata that were read last.

use std::sync::{Arc, Mutex, PoisonError};

const SLOTS: usize = 256;
/// So that blocks of 64 KiB do not make it 16 MiB.
const BYTES_MAX: usize = 2 << 20;

type Slot = Option<(u64, Arc<[u8]>)>;

/// Block to content, in slots by the block's number: no search, nothing to evict.
#[derive(Debug)]
pub(crate) struct Cache(Mutex<Vec<Slot>>);

impl Cache {
    pub(crate) fn new(block_size: u32) -> Self {
        let slots = SLOTS.min(BYTES_MAX / block_size as usize);
        Self(Mutex::new(vec![None; slots]))
    }

    pub(crate) fn get(&self, block: u64) -> Option<Arc<[u8]>> {
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots[(block % slots.len() as u64) as usize].as_ref();
        slot.filter(|(number, _)| *number == block).map(|(_, content)| Arc::clone(content))
    }

    pub(crate) fn put(&self, block: u64, content: &Arc<[u8]>) {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = (block % slots.len() as u64) as usize;
        slots[index] = Some((block, Arc::clone(content)));
    }
}
