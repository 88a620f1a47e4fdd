//! Copies from a sprite.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use sprite_api::fs::Entry;
use sprite_client::SpriteClient;
use sprite_client::files::Content;

use crate::report::WithHint;

use super::location::remote_name;
use super::progress::Progress;
use super::remote::{Kind, from_home, stat};
use super::{Options, tree};

/// Copies a file or directory of a sprite to a path here, or into it if that is a directory.
pub(crate) async fn pull(
    sprite: &SpriteClient,
    source: &str,
    dest: &Path,
    options: Options,
) -> anyhow::Result<()> {
    match look(sprite, source).await? {
        None if options.recursive => tree::pull(sprite, source, dest, options).await,
        None => Err(anyhow!("`{source}` is a directory in `{}`", sprite.name()))
            .hint("-r copies directories with everything in them"),
        Some(entry) => {
            let target = target(dest, source, options)?;
            let (progress, mut content) = open(sprite, source, &entry).await?;
            let mut file = Target::create(&target, &entry)
                .with_context(|| format!("write `{}`", target.display()))?;
            while let Some(data) = content.next().await? {
                progress.add(data.len());
                file.write(&data).with_context(|| format!("write `{}`", target.display()))?;
            }
            file.complete().with_context(|| format!("write `{}`", target.display()))
        }
    }
}

/// Copies a file of a sprite to stdout.
pub(crate) async fn pull_to_stdout(sprite: &SpriteClient, source: &str) -> anyhow::Result<()> {
    let Some(entry) = look(sprite, source).await? else {
        bail!("`{source}` is a directory in `{}`", sprite.name());
    };
    let (progress, mut content) = open(sprite, source, &entry).await?;
    while let Some(data) = content.next().await? {
        progress.add(data.len());
        write_out(data)?;
    }
    Ok(())
}

fn write_out(data: Bytes) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&data)?;
    stdout.flush()
}

/// Returns a file's entry, or `None` for a directory.
async fn look(sprite: &SpriteClient, source: &str) -> anyhow::Result<Option<Entry>> {
    match stat(sprite, source).await? {
        Kind::File(entry) => Ok(Some(entry)),
        Kind::Directory => Ok(None),
        Kind::Missing => bail!("`{source}`: no such file or directory in `{}`", sprite.name()),
    }
}

async fn open(
    sprite: &SpriteClient,
    source: &str,
    entry: &Entry,
) -> anyhow::Result<(Progress, Content)> {
    let content = sprite.read_file(source, &from_home()).await?;
    let progress = Progress::start(remote_name(source).unwrap_or(source), content.length);
    tracing::debug!(size_bytes = entry.size, "reading a file");
    Ok((progress, content))
}

/// Decides where a file goes: into `dest` if that is a directory, else to `dest`.
fn target(dest: &Path, source: &str, options: Options) -> anyhow::Result<PathBuf> {
    let wants_dir = dest.to_string_lossy().ends_with('/');
    if wants_dir && options.parents {
        std::fs::create_dir_all(dest).with_context(|| format!("create `{}`", dest.display()))?;
    }
    let target = if dest.is_dir() {
        dest.join(remote_name(source).with_context(|| format!("`{source}` names no file"))?)
    } else if wants_dir {
        return Err(anyhow!("`{}` is not a directory", dest.display()))
            .hint("--parents creates missing directories");
    } else {
        dest.to_owned()
    };
    if target.is_dir() {
        bail!("`{}` is a directory", target.display());
    }
    if let Some(parent) = target.parent().filter(|_| options.parents) {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("create `{}`", parent.display()))?;
    }
    Ok(target)
}

/// A local file under construction.
enum Target {
    /// Replaces the file at the path when complete. Removed if it is not.
    Beside(tempfile::NamedTempFile, PathBuf),
    /// A device or pipe.
    Direct(std::fs::File),
}

impl Target {
    fn create(path: &Path, entry: &Entry) -> std::io::Result<Self> {
        // A link to a file stays one.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            return Ok(Self::Direct(std::fs::OpenOptions::new().write(true).open(&path)?));
        }
        let mode = sprite_api::format::parse_mode(&entry.mode).unwrap_or(0o644);
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let file = tempfile::Builder::new()
            .prefix(".sprite-cp.")
            // Subject to the umask, and without set-id bits.
            .permissions(Permissions::from_mode(mode & 0o777 | 0o200))
            .tempfile_in(dir.unwrap_or(Path::new(".")))?;
        if mode & 0o200 == 0 {
            let umasked = file.as_file().metadata()?.permissions().mode();
            file.as_file().set_permissions(Permissions::from_mode(umasked & 0o577))?;
        }
        Ok(Self::Beside(file, path))
    }

    fn write(&mut self, data: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Beside(file, _) => file.write_all(data),
            Self::Direct(file) => file.write_all(data),
        }
    }

    fn complete(self) -> std::io::Result<()> {
        match self {
            Self::Beside(file, path) => {
                file.persist(path).map_err(|error| error.error)?;
                Ok(())
            }
            Self::Direct(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(mode: &str) -> Entry {
        serde_json::from_value(serde_json::json!({
            "name": "x", "path": "/x", "type": "file", "size": 3, "mode": mode,
            "modTime": "2026-01-13T10:30:00Z", "isDir": false,
        }))
        .unwrap()
    }

    #[test]
    fn a_file_goes_into_a_directory_but_never_replaces_one() {
        let dir = tempfile::tempdir().unwrap();
        let target = |dest: &Path| target(dest, "/remote/x", Options::default());
        assert_eq!(target(dir.path()).unwrap(), dir.path().join("x"));
        assert_eq!(target(&dir.path().join("y")).unwrap(), dir.path().join("y"));
        std::fs::create_dir(dir.path().join("x")).unwrap();
        assert!(target(dir.path()).unwrap_err().to_string().contains("is a directory"));
        assert!(target(Path::new(&format!("{}/no/", dir.path().display()))).is_err());
    }

    #[test]
    fn an_incomplete_file_leaves_the_old_one_and_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "old").unwrap();
        let mut file = Target::create(&path, &entry("4755")).unwrap();
        file.write(b"ne").unwrap();
        drop(file);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(dir.path().read_dir().unwrap().count(), 1);
        let mut file = Target::create(&path, &entry("4755")).unwrap();
        file.write(b"new").unwrap();
        file.complete().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!((mode & 0o7000, mode & 0o700), (0, 0o700));
    }

    #[test]
    fn devices_are_written_to_and_not_replaced() {
        let null = Path::new("/dev/null");
        let mut file = Target::create(null, &entry("0644")).unwrap();
        file.write(b"gone").unwrap();
        file.complete().unwrap();
        assert!(!null.metadata().unwrap().is_file());
    }
}
