//! Create-only writes: whoever was first keeps the name, and everybody learns who that was.
//!
//! An attempt that ends without an answer may have written the object, or write it later. The
//! next attempt then finds the name taken, perhaps by ourselves. Only the bytes under the name
//! tell, so they are read back whenever a name is not free.

use bytes::Bytes;

use crate::{CreateError, Failure, Key, Operation, Store};

/// Reads of a taken name in a row before the next attempt to write it.
const READS_MAX: u32 = 4;

/// What was seen under a name that was not free.
#[derive(PartialEq, Eq)]
enum Sight {
    Bytes(Bytes),
    /// Too long to be ours; not read.
    Longer(u64),
}

impl Store {
    /// Writes an object whose name must be free.
    ///
    /// `Ok` means that the object holds exactly these bytes, durably; it may have been there
    /// before. So two writers of equal bytes both win: put something of your own into them.
    ///
    /// # Errors
    /// - [`CreateError::Taken`]: other bytes are under the name and were read twice.
    /// - [`CreateError::Store`]: the outcome is unknown. The object may be there or appear later.
    ///   Call again with the same bytes.
    ///
    /// # Cancel safety
    /// Dropped, the outcome is unknown as after an error.
    pub async fn create(&self, key: &Key, bytes: Bytes) -> Result<(), CreateError> {
        let operation = Operation::Create;
        self.may_write(operation, key)?;
        self.put_fits(operation, key, &bytes)?;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let failure = match self.create_once(key, &bytes).await {
                Ok(()) => return Ok(()),
                Err(Failure::Taken) => match self.is_ours(key, &bytes).await {
                    Ok(true) => return Ok(()),
                    Ok(false) => return Err(CreateError::Taken { key: key.clone() }),
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            self.after(operation, key.as_str(), attempts, failure).await?;
        }
    }

    /// Reads what is under a taken name.
    ///
    /// One sight of our bytes is proof. A sight of others ends a writer's life, so a damaged
    /// answer must not be mistaken for it: it counts when a second read saw the same.
    async fn is_ours(&self, key: &Key, ours: &Bytes) -> Result<bool, Failure> {
        let mut seen: Vec<Sight> = Vec::new();
        for _ in 0..READS_MAX {
            let sight = match self.get_once(key, ours.len() as u64).await {
                Ok(bytes) if bytes == *ours => return Ok(true),
                Ok(bytes) => Sight::Bytes(bytes),
                Err(Failure::TooLarge { size_bytes }) => Sight::Longer(size_bytes),
                Err(Failure::Missing) => {
                    return Err(Failure::transient("the name was not free, and then nothing"));
                }
                Err(failure) => return Err(failure),
            };
            if seen.contains(&sight) {
                return Ok(false);
            }
            seen.push(sight);
        }
        Err(Failure::transient("each read of the taken name saw something else"))
    }
}
