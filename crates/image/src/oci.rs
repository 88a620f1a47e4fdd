//! Reads an OCI image layout: which layers, in which order, in which files.
//!
//! **Source:** OCI image specification 1.1, *Image layout*, *Index*, *Manifest*.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::error::ImageError;

/// Larger than any real index or manifest.
const JSON_BYTES_MAX: u64 = 8 << 20;
/// How deep an index may lead to other indexes.
const NESTING_MAX: usize = 4;
/// More layers than any builder makes.
const LAYERS_MAX: usize = 1000;

/// A layer: its file, and the digest that file must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) path: PathBuf,
    pub(crate) digest: String,
    pub(crate) media_type: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    layers: Vec<Descriptor>,
}

/// Returns the layers of the image in `layout` that fits `architecture` (as Go names them).
pub(crate) fn layers(layout: &Path, architecture: &str) -> Result<Vec<Layer>, ImageError> {
    let index = layout.join("index.json");
    let mut bytes = read_json(open(&index)?, &index)?;
    for _ in 0..NESTING_MAX {
        let index: Index = parse(&bytes, "index")?;
        let fits = |descriptor: &&Descriptor| match &descriptor.platform {
            None => true,
            Some(platform) => platform.os == "linux" && platform.architecture == architecture,
        };
        let chosen: Vec<&Descriptor> = index.manifests.iter().filter(fits).collect();
        let [chosen] = chosen.as_slice() else {
            return Err(invalid(format!(
                "the OCI layout offers {} images for linux/{architecture}; exactly one is needed",
                chosen.len()
            )));
        };
        bytes = read_blob(layout, &chosen.digest)?;
        if chosen.media_type.contains("index") || chosen.media_type.contains("manifest.list") {
            continue;
        }
        let manifest: Manifest = parse(&bytes, "manifest")?;
        if manifest.layers.len() > LAYERS_MAX {
            return Err(invalid("the OCI image has too many layers".to_owned()));
        }
        return manifest
            .layers
            .into_iter()
            .map(|Descriptor { media_type, digest, .. }| {
                Ok(Layer { path: blob(layout, &digest)?, digest, media_type })
            })
            .collect();
    }
    Err(invalid("the OCI layout's indexes lead to too many others".to_owned()))
}

/// Returns the file of a blob. Only well-formed digests name one, so none leads elsewhere.
fn blob(layout: &Path, digest: &str) -> Result<PathBuf, ImageError> {
    match digest.split_once(':') {
        Some(("sha256", hex))
            if hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) =>
        {
            Ok(layout.join("blobs/sha256").join(hex))
        }
        _ => Err(invalid(format!(
            "`{}` is not a sha256 digest",
            digest.chars().take(80).collect::<String>().escape_debug()
        ))),
    }
}

/// Opens a regular file; anything else, a link too, is refused.
pub(crate) fn open(path: &Path) -> Result<File, ImageError> {
    let failed = |source| ImageError::io(format!("open `{}`", path.display()), source);
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    if file.metadata().map_err(failed)?.is_file() {
        Ok(file)
    } else {
        Err(invalid(format!("`{}` is not a regular file", path.display())))
    }
}

fn read_blob(layout: &Path, digest: &str) -> Result<Vec<u8>, ImageError> {
    let path = blob(layout, digest)?;
    let bytes = read_json(open(&path)?, &path)?;
    if digest == format!("sha256:{}", hex(&Sha256::digest(&bytes))) {
        Ok(bytes)
    } else {
        Err(invalid(format!("`{}` is damaged: its digest differs", path.display())))
    }
}

fn read_json(file: File, path: &Path) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    file.take(JSON_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|source| ImageError::io(format!("read `{}`", path.display()), source))?;
    Ok(bytes)
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T, ImageError> {
    serde_json::from_slice(bytes)
        .map_err(|error| invalid(format!("the OCI layout's {what} is not readable: {error}")))
}

/// Returns lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn invalid(what: String) -> ImageError {
    ImageError::Invalid { what }
}
