//! Finding the newest claim and writing the next.

use bytes::Bytes;
use sprite_store::{Prefix, Series, Store};
use sprite_types::{Generation, Timestamp};

use crate::claim::{Claim, ClaimError, ClaimState, Claimant};

/// The claims of one volume or database.
#[derive(Clone, Debug)]
pub struct Leases {
    claims: Series,
}

impl Leases {
    /// Looks at the claims in `folder`, such as `orgs/org-…/volumes/vol-…/generations/`.
    #[must_use]
    pub fn new(store: Store, folder: Prefix) -> Self {
        Self { claims: Series::new(store, folder) }
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
        let newest = match self.claims.newest(from.0).await {
            Ok(newest) => newest,
            Err(source) => return Err(ClaimError::Store { key: self.claims.key(from.0), source }),
        };
        let Some((number, bytes)) = newest else { return Ok(None) };
        match Claim::decode(&bytes, Generation(number)) {
            Ok(claim) => Ok(Some(claim)),
            Err(source) => Err(ClaimError::Unreadable { key: self.claims.key(number), source }),
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
        let before = claim.generation.0 - 1;
        let created = self.claims.append(before, Bytes::from(claim.encode())).await;
        created.map(|_| ()).map_err(|error| {
            ClaimError::of_create(&self.claims.key(claim.generation.0), claim.generation, error)
        })
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
        let newer = self.claims.has_after(held.generation.0).await;
        newer.map(|newer| !newer).map_err(|source| ClaimError::Store {
            key: self.claims.key(held.generation.0 + 1),
            source,
        })
    }
}
