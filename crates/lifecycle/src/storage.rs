//! Root disks as the lifecycle needs them: made, attached, destroyed.

use std::path::PathBuf;

use sprite_disk::{Attached, Disks};
use sprite_types::{VolumeId, chain};

use crate::error::SpriteError;
use crate::settings::ReadyImage;

/// Where root disks come from.
#[derive(Clone, Debug)]
pub enum Storage {
    /// Files on this host, shown as loop devices.
    Files(Disks),
    /// None: machines of the fake substrate have no disk.
    None,
}

/// A disk with a device, for as long as this lives or something mounts it.
pub(crate) struct Device {
    pub(crate) path: PathBuf,
    _attached: Option<Attached>,
}

impl Storage {
    pub(crate) async fn create(
        &self,
        volume: &VolumeId,
        image: &ReadyImage,
    ) -> Result<(), SpriteError> {
        let Self::Files(disks) = self else { return Ok(()) };
        disks.create(volume, &image.path).await.map_err(|error| {
            tracing::error!(%volume, error = %chain(&error), "disk not created");
            match error {
                sprite_disk::CreateError::Full { .. } => SpriteError::NoSpace,
                _ => SpriteError::Internal { message: "the root disk could not be made".into() },
            }
        })
    }

    pub(crate) async fn attach(&self, volume: &VolumeId) -> Result<Device, SpriteError> {
        let Self::Files(disks) = self else {
            return Ok(Device { path: PathBuf::new(), _attached: None });
        };
        match disks.attach(volume).await {
            Ok(attached) => Ok(Device { path: attached.device.clone(), _attached: Some(attached) }),
            Err(error) => {
                tracing::error!(%volume, error = %chain(&error), "disk not attached");
                Err(SpriteError::unavailable("the root disk could not be attached"))
            }
        }
    }

    /// Waits until no machine uses the disk any more.
    pub(crate) async fn wait_released(&self, volume: &VolumeId) {
        let Self::Files(disks) = self else { return };
        let wait = std::time::Duration::from_secs(5);
        if let Err(error) = disks.wait_released(volume, wait).await {
            tracing::warn!(%volume, error = %chain(&error), "disk still in use");
        }
    }

    pub(crate) async fn destroy(&self, volume: &VolumeId) -> Result<(), SpriteError> {
        let Self::Files(disks) = self else { return Ok(()) };
        disks.destroy(volume).await.map_err(|error| {
            tracing::error!(%volume, error = %chain(&error), "disk not removed");
            SpriteError::Internal { message: "the root disk could not be removed".into() }
        })
    }

    /// Lists the disks that exist.
    pub(crate) fn list(&self) -> Vec<VolumeId> {
        match self {
            Self::Files(disks) => disks.list().unwrap_or_else(|error| {
                tracing::warn!(%error, "disks cannot be listed");
                Vec::new()
            }),
            Self::None => Vec::new(),
        }
    }

    /// Has copies of an image made ahead.
    pub(crate) fn prepare(&self, image: &ReadyImage) {
        if let Self::Files(disks) = self {
            disks.prepare(&image.path);
        }
    }
}
