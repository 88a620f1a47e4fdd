//! Finding the newest claim and writing the next.

use bytes::Bytes;
use futures::future::join_all;
use sprite_store::{Key, Prefix, Store, StoreError};
use sprite_types::{Generation, Timestamp};

use crate::claim::{Claim, ClaimError, ClaimState, Claimant};

/// Claims read at once at most, while the newest is looked for.
const BATCH_MAX: u64 = 32;

/// The claims of one volume or database.
#[derive(Clone, Debug)]
pub struct Leases {
    store: Store,
    folder: Prefix,
}

impl Leases {
    /// Looks at the claims in `folder`, such as `orgs/org-…/volumes/vol-…/generations/`.
    #[must_use]
    pub fn new(store: Store, folder: Prefix) -> Self {
        Self { store, folder }
    }

    /// Finds the newest claim; `None` if there never was one.
    ///
    /// `from` is a generation that is known to have been granted, or 0: it only saves requests,
    /// a wrong one is found out. Claims are never removed and none is left out, so the first
    /// that is missing comes after the newest.
    ///
    /// # Errors
    /// See [`ClaimError`]; never [`ClaimError::Lost`].
    pub async fn newest(&self, from: Generation) -> Result<Option<Claim>, ClaimError> {
        let mut newest = match from {
            Generation(0) => None,
            from => self.read(from).await?,
        };
        let mut next = newest.as_ref().map_or(1, |claim| claim.generation.0 + 1);
        let mut batch = 1;
        loop {
            let reads = (next..next + batch).map(|number| self.read(Generation(number)));
            // In order: what comes after a missing one was granted while we looked, and is found
            // by whoever looks again.
            for read in join_all(reads).await {
                match read? {
                    Some(claim) => newest = Some(claim),
                    None => return Ok(newest),
                }
            }
            next += batch;
            batch = (batch * 2).min(BATCH_MAX);
        }
    }

    /// Makes the claim that comes after `newest`, to be written with [`Leases::grant`]. Decides
    /// nothing; see [`crate::verdict`].
    #[must_use]
    pub fn next(
        newest: Option<&Claim>,
        claimant: Claimant,
        self_fence: Option<std::time::Duration>,
        at: Timestamp,
        nonce: u64,
    ) -> Claim {
        let generation = newest.map_or(Generation(1), |claim| claim.generation.next());
        Claim { generation, state: ClaimState::Held, claimant, at, self_fence, nonce }
    }

    /// Writes a claim. `Ok` means that its generation belongs to it, for ever.
    ///
    /// # Errors
    /// [`ClaimError::Lost`]: it belongs to another. [`ClaimError::Store`]: not known; call again
    /// with the same claim.
    ///
    /// # Cancel safety
    /// Dropped, the outcome is unknown.
    pub async fn grant(&self, claim: &Claim) -> Result<(), ClaimError> {
        let key = self.key(claim.generation);
        let created = self.store.create(&key, Bytes::from(claim.encode())).await;
        created.map_err(|error| ClaimError::of_create(&key, claim.generation, error))
    }

    /// Says that the holder of `held` is done: everything is in the bucket. Whoever comes next
    /// need not wait for anything.
    ///
    /// # Errors
    /// [`ClaimError::Lost`]: somebody took over before. [`ClaimError::Store`]: not known; call
    /// again with the same arguments, or leave it: the next claimant then only waits longer.
    pub async fn release(
        &self,
        held: &Claim,
        at: Timestamp,
        nonce: u64,
    ) -> Result<Claim, ClaimError> {
        let generation = held.generation.next();
        let claimant = held.claimant.clone();
        let state = ClaimState::Released;
        let released = Claim { generation, state, claimant, at, self_fence: None, nonce };
        self.grant(&released).await.map(|()| released)
    }

    /// Asks whether `held` is still the newest claim.
    ///
    /// # Errors
    /// [`ClaimError::Store`]: not known.
    pub async fn is_newest(&self, held: &Claim) -> Result<bool, ClaimError> {
        let key = self.key(held.generation.next());
        match self.store.exists(&key).await {
            Ok(exists) => Ok(!exists),
            Err(source) => Err(ClaimError::Store { key, source }),
        }
    }

    async fn read(&self, generation: Generation) -> Result<Option<Claim>, ClaimError> {
        let key = self.key(generation);
        match self.store.get(&key).await {
            Ok(bytes) => match Claim::decode(&bytes, generation) {
                Ok(claim) => Ok(Some(claim)),
                Err(source) => Err(ClaimError::Unreadable { key, source }),
            },
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(source) => Err(ClaimError::Store { key, source }),
        }
    }

    fn key(&self, generation: Generation) -> Key {
        let name = format!("{}.json", generation.to_hex());
        self.folder.key(&name).expect("a folder with room for a name of 21 bytes")
    }
}
