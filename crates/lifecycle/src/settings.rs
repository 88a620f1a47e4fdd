//! What the host's administrator decides, and the image that new sprites start from.

use std::path::PathBuf;

use sprite_types::{ByteSize, ImageId};

/// Settings of all sprites of a host. Since 0.1.
#[derive(Clone, Debug)]
pub struct LifecycleSettings {
    /// How sprite URLs look.
    pub url: UrlSettings,
    /// How many sprites may run at once. Default 200.
    pub running_max: u64,
    /// Boots at once; more only wait for the same cores. Default: cores + 1.
    pub boots_max: usize,
    /// Memory of a sprite that does not ask for a size.
    pub memory_default: ByteSize,
    /// CPU cores of a sprite that does not ask for a number; `None` is without limit.
    pub cpus_default: Option<f64>,
    /// Processes and threads of a sprite. Default 8192.
    pub pids_max: u32,
}

/// How sprite URLs look: `<scheme>://<name>-<org>.<domain>[:<port>]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlSettings {
    /// `http` or `https`.
    pub scheme: String,
    /// Domain below which each sprite has a label. Default `localhost`.
    pub domain: String,
    /// Port, unless it is the scheme's own.
    pub port: Option<u16>,
}

/// The base image that new sprites start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageState {
    /// It is being built or fetched; creates wait.
    Preparing,
    /// It is there.
    Ready(ReadyImage),
    /// It could not be had; creates fail with this text.
    Failed(String),
}

/// An image that can be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyImage {
    /// Its id.
    pub id: ImageId,
    /// The ext4 file.
    pub path: PathBuf,
}
