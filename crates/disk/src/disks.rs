//! The disks of one host: plain sparse files in one folder.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sprite_types::{ErrorKind, VolumeId};
use tokio::sync::Semaphore;

use crate::copy::{CopyError, copy_sparse};
use crate::device::{self, AttachError, Attached};
use crate::pool::{Pool, rename_new, sync_dir};
use crate::space::{self, Policy, Space, SpaceError};

/// Copies made at once when no ready one is left; more only compete for the same disk.
const COPIES_MAX: usize = 2;
/// Ending of the names of disks that are being made.
const UNFINISHED: &str = "unfinished";

/// Where disks are and how many copies are kept ready. Since 0.1.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder that holds them; made if missing.
    pub dir: PathBuf,
    /// Copies of each image in use that are kept ready. Default 2.
    pub ready_copies: usize,
    /// When the host counts as full. Ready copies are made only far from that.
    pub policy: Policy,
}

impl Settings {
    /// Makes the default settings for disks in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), ready_copies: 2, policy: Policy::default() }
    }
}

/// The folder of disks cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("open the disks in `{}`", dir.display())]
pub struct OpenError {
    dir: PathBuf,
    source: io::Error,
}

/// Why a disk could not be made. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// A disk of that name exists.
    #[error("disk `{volume_id}` exists already")]
    Exists { volume_id: VolumeId },
    /// The host's disk is full. Free some room, or add some.
    #[error("no room on the host for disk `{volume_id}`")]
    Full { volume_id: VolumeId, source: CopyError },
    /// Copying the image failed.
    #[error("copy the image to disk `{volume_id}`")]
    Copy { volume_id: VolumeId, source: CopyError },
    /// Naming the disk or making its name durable failed.
    #[error("name disk `{volume_id}`")]
    Name { volume_id: VolumeId, source: io::Error },
}

impl CreateError {
    /// Says what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Exists { .. } => ErrorKind::Conflict,
            Self::Full { .. } => ErrorKind::Unavailable,
            Self::Copy { .. } | Self::Name { .. } => ErrorKind::Internal,
        }
    }
}

/// A disk could not be removed.
#[derive(Debug, thiserror::Error)]
#[error("remove disk `{volume_id}`")]
pub struct DestroyError {
    volume_id: VolumeId,
    source: io::Error,
}

/// The disks of this host. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Disks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    pool: Pool,
    copies: Semaphore,
}

impl Disks {
    /// Opens the folder and removes what a crash left half-made.
    ///
    /// # Errors
    /// If the folder cannot be made or read.
    pub fn open(settings: Settings) -> Result<Self, OpenError> {
        let Settings { dir, ready_copies, policy } = settings;
        let open = || {
            std::fs::create_dir_all(&dir)?;
            for entry in std::fs::read_dir(&dir)? {
                let path = entry?.path();
                if path.extension().is_some_and(|ending| ending == UNFINISHED) {
                    std::fs::remove_file(path)?;
                }
            }
            Pool::open(dir.join("ready"), ready_copies, policy)
        };
        match open() {
            Ok(pool) => Ok(Self(Arc::new(Inner { dir, pool, copies: Semaphore::new(COPIES_MAX) }))),
            Err(source) => Err(OpenError { dir, source }),
        }
    }

    /// Tells where a disk's file is, whether or not it exists.
    #[must_use]
    pub fn path(&self, volume_id: &VolumeId) -> PathBuf {
        self.0.dir.join(format!("{volume_id}.ext4"))
    }

    /// Lists the disks that exist, in no order.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn list(&self) -> io::Result<Vec<VolumeId>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.0.dir)? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".ext4")?.parse().ok());
            found.extend(id);
        }
        Ok(found)
    }

    /// Has copies of `image` made ahead, in the background, and drops those of other images.
    pub fn prepare(&self, image: &Path) {
        if let Err(error) = self.0.pool.retain(&[image]) {
            tracing::warn!(%error, "ready copies of other images not removed");
        }
        self.0.pool.refill(image);
    }

    /// Makes a disk with the content of `image`, an ext4 file. It is durable when this returns.
    ///
    /// Takes a ready copy if there is one, and has it replaced in the background.
    ///
    /// # Errors
    /// See [`CreateError`].
    ///
    /// # Cancel safety
    /// The disk may come into being after the future was dropped; destroy it.
    pub async fn create(&self, volume_id: &VolumeId, image: &Path) -> Result<(), CreateError> {
        let ready = self.blocking(volume_id, image, Inner::create_ready).await?;
        if !ready {
            let permit = self.0.copies.acquire().await;
            // Somebody else's copy may have become ready while we waited.
            if !self.blocking(volume_id, image, Inner::create_ready).await? {
                self.blocking(volume_id, image, Inner::create_copy).await?;
            }
            drop(permit);
        }
        self.0.pool.refill(image);
        Ok(())
    }

    /// Gives the disk a block device.
    ///
    /// A machine that has mounted the device keeps it by that; drop the handle then.
    /// Waits up to 5 s for a device of an earlier machine to go away.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub async fn attach(&self, volume_id: &VolumeId) -> Result<Attached, AttachError> {
        let path = self.path(volume_id);
        unblock(move || device::attach(&path)).await
    }

    /// Gives a device up and waits until the kernel has let go of the disk.
    ///
    /// # Errors
    /// [`AttachError::Busy`] if something still mounts it after 5 s; it goes with that.
    pub async fn detach(
        &self,
        volume_id: &VolumeId,
        attached: Attached,
    ) -> Result<(), AttachError> {
        drop(attached);
        self.wait_released(volume_id, Duration::from_secs(5)).await
    }

    /// Waits until no device shows the disk, whoever made it. Zero asks for the state now.
    ///
    /// # Errors
    /// [`AttachError::Busy`] if one still does after `wait`.
    pub async fn wait_released(
        &self,
        volume_id: &VolumeId,
        wait: Duration,
    ) -> Result<(), AttachError> {
        let path = self.path(volume_id);
        unblock(move || device::wait_released(&path, wait)).await
    }

    /// Removes a disk for good. One that is still attached goes with its last user.
    ///
    /// # Errors
    /// If the host's file system refuses; a disk that does not exist is no error.
    pub async fn destroy(&self, volume_id: &VolumeId) -> Result<(), DestroyError> {
        let path = self.path(volume_id);
        let removed = unblock(move || match std::fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        });
        removed.await.map_err(|source| DestroyError { volume_id: volume_id.clone(), source })
    }

    /// Measures the room on the file system that holds the disks.
    ///
    /// # Errors
    /// If the folder is gone.
    pub fn free_space(&self) -> Result<Space, SpaceError> {
        space::free_space(&self.0.dir)
    }

    /// Ends the making of ready copies, so that the folder can be removed. Blocks for as long as
    /// one copy takes.
    pub fn close(&self) {
        self.0.pool.close();
    }

    async fn blocking<T: Send + 'static>(
        &self,
        volume_id: &VolumeId,
        image: &Path,
        run: fn(&Inner, &VolumeId, &Path, &Path) -> Result<T, CreateError>,
    ) -> Result<T, CreateError> {
        let (inner, volume_id, image) = (Arc::clone(&self.0), volume_id.clone(), image.to_owned());
        let path = self.path(&volume_id);
        unblock(move || run(&inner, &volume_id, &image, &path)).await
    }
}

impl Inner {
    fn create_ready(
        &self,
        volume_id: &VolumeId,
        image: &Path,
        path: &Path,
    ) -> Result<bool, CreateError> {
        // An image that is gone has no ready copies; the copy says so better.
        match self.pool.take(image, path) {
            Ok(true) => sync_dir(&self.dir)
                .map(|()| true)
                .map_err(|source| CreateError::Name { volume_id: volume_id.clone(), source }),
            Ok(false) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(CreateError::Exists { volume_id: volume_id.clone() })
            }
            Err(error) => {
                tracing::warn!(%error, "ready copy not usable");
                Ok(false)
            }
        }
    }

    fn create_copy(
        &self,
        volume_id: &VolumeId,
        image: &Path,
        path: &Path,
    ) -> Result<(), CreateError> {
        if path.exists() {
            return Err(CreateError::Exists { volume_id: volume_id.clone() });
        }
        let unfinished = path.with_extension(UNFINISHED);
        copy_sparse(image, &unfinished).map_err(|source| {
            let volume_id = volume_id.clone();
            if source.is_full() {
                CreateError::Full { volume_id, source }
            } else {
                CreateError::Copy { volume_id, source }
            }
        })?;
        rename_new(&unfinished, path).and_then(|()| sync_dir(&self.dir)).map_err(|source| {
            let _ = std::fs::remove_file(&unfinished);
            match source.kind() {
                io::ErrorKind::AlreadyExists => {
                    CreateError::Exists { volume_id: volume_id.clone() }
                }
                _ => CreateError::Name { volume_id: volume_id.clone(), source },
            }
        })
    }
}

/// Runs `work` where it may block.
async fn unblock<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
