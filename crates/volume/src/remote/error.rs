//! Why a volume in the bucket could not be opened, written, read or forked.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use sprite_blockmap::BlockMapError;
use sprite_lease::{Claim, ClaimError};
use sprite_ltx::replica;
use sprite_store::{CreateError, Key, KeyError, StoreError};
use sprite_types::{BlockIndex, Epoch, ErrorKind, Generation, VolumeId};

use crate::bucket::DocumentError;
use crate::pack::PackError;

/// Why a volume was not created or opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such volume.
    #[error("no volume `{volume}` in the bucket")]
    NotFound {
        /// Which.
        volume: VolumeId,
    },
    /// There is a volume of that name, with another record.
    #[error("volume `{volume}` exists")]
    Exists {
        /// Which.
        volume: VolumeId,
    },
    /// It was deleted. That can be undone while it is kept.
    #[error("volume `{volume}` was deleted")]
    Deleted {
        /// Which.
        volume: VolumeId,
    },
    /// Its making was cut off: a fork whose map was never begun. Make it again.
    #[error("volume `{volume}` was never finished")]
    Unfinished {
        /// Which.
        volume: VolumeId,
    },
    /// It has packs and no map. A person must look.
    #[error("the block map of volume `{volume}` is gone")]
    MapLost {
        /// Which.
        volume: VolumeId,
    },
    /// Hosts of this bucket must know something that this release does not.
    #[error("the bucket uses `{feature}`, which this release does not know")]
    Feature {
        /// What.
        feature: String,
    },
    /// Somebody may be writing it.
    #[error("volume is held by `{}` at generation {}", claim.claimant.host, claim.generation)]
    Held {
        /// The newest claim.
        claim: Box<Claim>,
        /// When to ask again, if its holder promised to stop.
        again_after: Option<Duration>,
    },
    /// A document of the volume cannot be read.
    #[error("read `{key}`")]
    Document {
        /// Which object.
        key: Key,
        /// Why.
        source: DocumentError,
    },
    /// The names of its objects would be too long.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The volume could not be claimed.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The map could not be opened.
    #[error("open block map")]
    Replica(#[from] replica::OpenError),
    /// The map is not what it should be.
    #[error(transparent)]
    Map(#[from] BlockMapError),
    /// The first change of a new volume could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A local file could not be removed.
    #[error("remove leftovers of an earlier try")]
    Leftovers(#[source] io::Error),
}

impl OpenError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Exists { .. } | Self::Deleted { .. } | Self::Held { .. } => ErrorKind::Conflict,
            Self::Unfinished { .. } | Self::MapLost { .. } => ErrorKind::Corrupt,
            Self::Feature { .. } => ErrorKind::Unsupported,
            Self::Document { source, .. } => source.kind(),
            Self::Key(_) => ErrorKind::Invalid,
            Self::Claim(error) => error.kind(),
            Self::Replica(error) => error.kind(),
            Self::Map(error) => error.kind(),
            Self::Write(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Leftovers(_) => ErrorKind::Internal,
        }
    }
}

/// Why nothing was written, or it is not known whether it was.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Somebody else writes the volume now. Stop serving it; nothing will ever succeed.
    #[error("generation {ours} of the volume was taken over")]
    Fenced {
        /// Ours.
        ours: Generation,
        /// Who wrote in our place, if that is known.
        held: Option<Generation>,
    },
    /// An earlier failure left this host's map ahead of the bucket's. Open the volume anew.
    #[error("the volume must be opened anew: {reason}")]
    Broken {
        /// What failed.
        reason: Arc<str>,
    },
    /// Another epoch is next. If it is a later one, this number was committed before.
    #[error("epoch {found} cannot be committed now, {expected} is next")]
    OutOfOrder {
        /// Which number is next.
        expected: Epoch,
        /// Which was asked for.
        found: Epoch,
    },
    /// The content of the epoch could not be read. Nothing was committed.
    #[error("read blocks of the epoch")]
    Source {
        /// Why.
        source: io::Error,
    },
    /// The epoch is not one of this disk. Nothing was committed.
    #[error("{reason}")]
    Invalid {
        /// What is wrong.
        reason: String,
    },
    /// The map refused. Nothing was committed.
    #[error(transparent)]
    Map(#[from] BlockMapError),
    /// The map could not be kept in order. Everything committed is safe; try later.
    #[error("maintain the block map")]
    Maintenance(#[source] replica::CommitError),
    /// The store refused for good. Nothing was committed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Everything is in the bucket, and only that was not said.
    #[error("release the volume")]
    Release(#[source] ClaimError),
}

impl WriteError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Fenced { .. } => ErrorKind::Fenced,
            Self::Broken { .. } | Self::Source { .. } => ErrorKind::Internal,
            Self::OutOfOrder { .. } => ErrorKind::Conflict,
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::Map(error) => error.kind(),
            Self::Maintenance(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Release(error) => error.kind(),
        }
    }
}

/// Why a run of blocks could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The store did not deliver it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What it delivered, twice, is not what was stored.
    #[error(transparent)]
    Pack(#[from] PackError),
}

/// Why the volume's record was not changed, or it is not known.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// There is none any more.
    #[error("the volume has no record any more")]
    Missing,
    /// It cannot be read.
    #[error("read `{key}`")]
    Document {
        /// Which object.
        key: Key,
        /// Why.
        source: DocumentError,
    },
    /// The store failed. Call again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RecordError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing => ErrorKind::NotFound,
            Self::Document { source, .. } => source.kind(),
            Self::Store(error) => error.kind(),
        }
    }
}

/// Why a block could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such block.
    #[error("block {block} is beyond the disk")]
    Beyond {
        /// Which.
        block: BlockIndex,
    },
    /// Its bytes are not to be had.
    #[error("read block {block} from `{key}`{}", hint(*.intact))]
    Fetch {
        /// Which block.
        block: BlockIndex,
        /// The pack that has it.
        key: String,
        /// The newest of the last epochs that has the block elsewhere, if one was found.
        intact: Option<Epoch>,
        /// Why.
        source: Arc<FetchError>,
    },
    /// A pack belongs to a volume that is no ancestor.
    #[error("block {block} is in a pack of `{owner}`, which is no ancestor")]
    Stranger {
        /// Which block.
        block: BlockIndex,
        /// Whose pack.
        owner: VolumeId,
    },
    /// The map does not say.
    #[error(transparent)]
    Map(#[from] BlockMapError),
}

fn hint(epoch: Option<Epoch>) -> String {
    epoch.map(|epoch| format!(" (epoch {epoch} does not need it)")).unwrap_or_default()
}

impl ReadError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Beyond { .. } => ErrorKind::Invalid,
            Self::Fetch { source, .. } => match &**source {
                // What an entry points at, and is not there.
                FetchError::Store(StoreError::NotFound { .. }) => ErrorKind::Corrupt,
                FetchError::Store(error) => error.kind(),
                FetchError::Pack(error) => error.kind(),
            },
            Self::Stranger { .. } => ErrorKind::Corrupt,
            Self::Map(error) => error.kind(),
        }
    }
}

/// Why there is no fork.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// The epoch cannot be forked: it is gone, or going. No pins are left.
    #[error(transparent)]
    Map(#[from] BlockMapError),
    /// The child exists, as another volume. Take another name.
    #[error("`{key}` exists and says something else")]
    Exists {
        /// What was there.
        key: Key,
    },
    /// A pack belongs to a volume that is no ancestor.
    #[error("the map names packs of `{owner}`, which is no ancestor")]
    Stranger {
        /// Whose.
        owner: VolumeId,
    },
    /// The volume is itself a fork that nobody has opened yet. Fork its parent, or open it first.
    #[error("the volume is a fork that was never opened")]
    Unopened,
    /// The volume changed in a way that no writer changes it. No pins are left; fork again.
    #[error("the volume is another one than a moment ago")]
    Moved,
    /// The volume cannot be written, so its state is not known for sure.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The volume could not be looked at.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store failed. Fork again, the same.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The child's map could not be begun. Fork again, the same.
    #[error("begin the child's block map")]
    Begin(#[source] replica::CommitError),
    /// The names of its objects would be too long.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl ForkError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Map(error) => error.kind(),
            Self::Exists { .. } | Self::Unopened => ErrorKind::Conflict,
            Self::Stranger { .. } => ErrorKind::Corrupt,
            Self::Moved => ErrorKind::Unavailable,
            Self::Write(error) => error.kind(),
            Self::Open(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Begin(error) => error.kind(),
            Self::Key(_) => ErrorKind::Invalid,
        }
    }

    pub(crate) fn of_create(error: CreateError) -> Self {
        match error {
            CreateError::Taken { key } => Self::Exists { key },
            CreateError::Store(error) => Self::Store(error),
        }
    }
}
