//! Tries whether a store does what everything above relies on.

use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use sprite_types::ErrorKind;

use crate::{CreateError, Failure, Key, KeyError, Prefix, Store, StoreError};

/// Names for which writers compete, all at once.
const RACES: usize = 4;
/// Writers that compete for each name.
const RIVALS: u8 = 12;
/// Age from which leftovers of a probe that was killed are removed, in seconds.
const LEFTOVER_AGE_S: u64 = 3600;
/// Folder in which is tried.
const FOLDER: &str = "probe/";

/// Something that a store must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// To refuse to create what exists.
    CreateOnly,
    /// To let one of several simultaneous creates win.
    OneWinner,
    /// To return what was just written, and nothing that was just deleted.
    ReadAfterWrite,
    /// To list what was just written, and nothing that was just deleted.
    ListAfterWrite,
    /// To return parts of objects.
    Ranges,
}

/// A store was not found fit for use.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It does not do what it must. Use another one.
    #[error("the store must {}, but {saw}", requirement.text())]
    Unfit {
        /// What is asked of it.
        requirement: Requirement,
        /// What it did instead.
        saw: String,
    },
    /// It could not be tried.
    #[error("try the store")]
    Store(#[from] StoreError),
}

impl Requirement {
    fn text(self) -> &'static str {
        match self {
            Self::CreateOnly => "refuse to create an object that exists (`If-None-Match: *`)",
            Self::OneWinner => "let exactly one of several simultaneous creates win",
            Self::ReadAfterWrite => "return what was written last",
            Self::ListAfterWrite => "list what was written last",
            Self::Ranges => "return exactly the range that was asked for",
        }
    }
}

impl ProbeError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unfit { .. } => ErrorKind::Unsupported,
            Self::Store(error) => error.kind(),
        }
    }

    /// Returns what a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unfit {
                requirement: Requirement::CreateOnly | Requirement::OneWinner, ..
            } => {
                "two hosts could both believe to own a disk on this store and lose data; update it, \
                 or use one with atomic conditional writes, or a local folder (`file:///…`)"
            }
            Self::Unfit { requirement: Requirement::Ranges, .. } => {
                "look for a proxy or cache between this host and the store, and go around it"
            }
            Self::Unfit { .. } => {
                "look for a cache or replication between this host and the store; a store must be \
                 strongly consistent"
            }
            Self::Store(error) if error.kind() == ErrorKind::Forbidden => {
                "the credentials need to get, put, delete and list below the store's folder"
            }
            Self::Store(_) => "check the store's URL and that it can be reached from this host",
        }
    }
}

fn unfit<T>(requirement: Requirement, saw: impl Into<String>) -> Result<T, ProbeError> {
    Err(ProbeError::Unfit { requirement, saw: saw.into() })
}

impl Store {
    /// Tries whether the store does what is relied on: about a hundred small requests in a folder
    /// of its own, which is removed again.
    ///
    /// Passing proves nothing about a store that fails now and then; not passing is final.
    ///
    /// # Errors
    /// [`ProbeError::Unfit`] names what is missing; [`ProbeError::hint`] says what to do.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        let folder = format!("{FOLDER}{:016x}/", (self.ambient().random)());
        let folder: Prefix = folder.parse().map_err(internal)?;
        let result = self.probe_in(&folder).await;
        // Also after a failure; what went wrong first is what is told.
        let removed = self.remove_probes(&folder).await;
        result.and(removed)
    }

    async fn probe_in(&self, folder: &Prefix) -> Result<(), ProbeError> {
        self.probe_reads(folder).await?;
        self.probe_create_only(folder).await?;
        let races = (0..RACES).map(|race| self.probe_race(folder, race));
        try_join_all(races).await?;
        self.probe_listing(folder).await
    }

    async fn probe_reads(&self, folder: &Prefix) -> Result<(), ProbeError> {
        let need = Requirement::ReadAfterWrite;
        let key = folder.key("reads").map_err(internal)?;
        let bytes: Bytes = (0..=255).collect();
        if self.exists(&key).await? {
            return unfit(need, "an object that nobody wrote is there");
        }
        self.overwrite(&key, Bytes::from_static(b"old")).await?;
        self.overwrite(&key, bytes.clone()).await?;
        match self.get(&key).await {
            Ok(got) if got == bytes => {}
            Ok(_) => return unfit(need, "older bytes came back"),
            Err(StoreError::NotFound { .. }) => return unfit(need, "the object is not there"),
            Err(error) => return Err(error.into()),
        }
        let need = Requirement::Ranges;
        match self.get_range(&key, 100..116).await {
            Ok(got) if got == bytes[100..116] => {}
            Ok(_) => return unfit(need, "other bytes came back"),
            Err(StoreError::Refused { source, .. }) => return unfit(need, source.to_string()),
            Err(error) => return Err(error.into()),
        }
        match self.get_range(&key, 250..300).await {
            Err(StoreError::OutOfRange { .. }) => Ok(()),
            Ok(_) => unfit(need, "it made up bytes beyond the end"),
            Err(StoreError::Refused { source, .. }) => unfit(need, source.to_string()),
            Err(error) => Err(error.into()),
        }
    }

    async fn probe_create_only(&self, folder: &Prefix) -> Result<(), ProbeError> {
        let need = Requirement::CreateOnly;
        let key = folder.key("create").map_err(internal)?;
        let first = Bytes::from_static(b"first");
        match self.create(&key, first.clone()).await {
            Ok(()) => {}
            Err(CreateError::Taken { .. }) => return unfit(need, "a new name was taken"),
            // Stores that know of conditions but not of this one say so here.
            Err(CreateError::Store(StoreError::Refused { source, .. })) => {
                return unfit(need, source.to_string());
            }
            Err(CreateError::Store(error)) => return Err(error.into()),
        }
        match self.create(&key, Bytes::from_static(b"second")).await {
            Err(CreateError::Taken { .. }) => {}
            Ok(()) => return unfit(need, "it replaced the object"),
            Err(CreateError::Store(error)) => return Err(error.into()),
        }
        if self.get(&key).await? != first {
            return unfit(need, "it replaced the object and said that it did not");
        }
        self.delete(&key).await?;
        match self.get(&key).await {
            Err(StoreError::NotFound { .. }) => Ok(()),
            Ok(_) => unfit(Requirement::ReadAfterWrite, "a deleted object came back"),
            Err(error) => Err(error.into()),
        }
    }

    /// Writers of one name at the same moment; each asks once, so that no answer is explained
    /// away by patience.
    async fn probe_race(&self, folder: &Prefix, race: usize) -> Result<(), ProbeError> {
        let need = Requirement::OneWinner;
        let key = folder.key(&format!("race-{race}")).map_err(internal)?;
        let body = |rival: u8| Bytes::from(vec![rival; 64]);
        let rivals = (0..RIVALS).map(|rival| {
            let key = &key;
            async move { self.create_once(key, &body(rival)).await }
        });
        let results = join_all(rivals).await;
        let is_winner = |(_, result): &(u8, Result<(), Failure>)| result.is_ok();
        let winners: Vec<u8> =
            (0..).zip(results).filter(is_winner).map(|(rival, _)| rival).collect();
        if winners.len() > 1 {
            let count = winners.len();
            return unfit(need, format!("{count} of {RIVALS} were told that they had won"));
        }
        // None may have heard of it; then any of them may have won, or nobody yet.
        let Some(winner) = winners.first() else { return Ok(()) };
        match self.get(&key).await {
            Ok(got) if got == body(*winner) => Ok(()),
            Ok(_) => unfit(need, "the object is not the winner's"),
            Err(StoreError::NotFound { .. }) => {
                unfit(Requirement::ReadAfterWrite, "a created object is not there")
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn probe_listing(&self, folder: &Prefix) -> Result<(), ProbeError> {
        let need = Requirement::ListAfterWrite;
        let names = ["list-1", "list-2", "more/list-3"].map(|name| folder.key(name));
        let names = names.into_iter().collect::<Result<Vec<Key>, _>>().map_err(internal)?;
        for key in &names {
            self.overwrite(key, Bytes::from_static(b"x")).await?;
        }
        let listed = self.list(folder).await?;
        let is_listed =
            |key: &Key| listed.iter().any(|object| object.key == *key && object.size == 1);
        if !names.iter().all(is_listed) {
            return unfit(need, "a new object is not listed");
        }
        if self.list_folders(folder).await? != [folder.join("more/").map_err(internal)?] {
            return unfit(need, "its folders are listed wrongly");
        }
        self.delete(&names[0]).await?;
        if self.list(folder).await?.iter().any(|object| object.key == names[0]) {
            return unfit(need, "a deleted object is listed");
        }
        Ok(())
    }

    /// Removes this probe's objects and those of probes that did not come to their end.
    async fn remove_probes(&self, folder: &Prefix) -> Result<(), ProbeError> {
        let now = self.ambient().clock.now();
        let all = FOLDER.parse().map_err(internal)?;
        for object in self.list(&all).await? {
            let old = now.since(object.modified).as_secs() > LEFTOVER_AGE_S;
            if old || object.key.is_under(folder) {
                self.delete(&object.key).await?;
            }
        }
        Ok(())
    }
}

fn internal(error: KeyError) -> ProbeError {
    unreachable!("fixed names are keys: {error}")
}
