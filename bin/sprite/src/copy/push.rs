//! Copies to a sprite.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use sprite_client::SpriteClient;
use sprite_client::files::WriteOptions;
use tokio_util::io::ReaderStream;

use crate::report::WithHint;
use crate::session::stdio::read_stdin;

use super::location::{remote_join, remote_name};
use super::progress::Progress;
use super::remote::{Kind, stat};
use super::{HOME, Options, tree};

/// Copies a file or directory to a path in a sprite, or into it if that is a directory.
pub(crate) async fn push(
    sprite: &SpriteClient,
    source: &Path,
    dest: &str,
    options: Options,
) -> anyhow::Result<()> {
    let metadata = std::fs::metadata(source);
    let metadata = metadata.with_context(|| format!("read `{}`", source.display()))?;
    if metadata.is_dir() {
        if !options.recursive {
            return Err(anyhow!("`{}` is a directory", source.display()))
                .hint("-r copies directories with everything in them");
        }
        return tree::push(sprite, source, dest, options).await;
    }
    let name = source.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("the name of `{}` is not text", source.display()))?;
    let target = target(sprite, dest, Some(name), options).await?;
    let file = tokio::fs::File::open(source).await;
    let file = file.with_context(|| format!("open `{}`", source.display()))?;
    let options = WriteOptions {
        mode: Some(metadata.permissions().mode() & 0o777),
        // A pipe has no length.
        length: metadata.is_file().then_some(metadata.len()),
        ..write_options(options)
    };
    let content = ReaderStream::with_capacity(file, 128 * 1024);
    write(sprite, name, &target, content, &options).await
}

/// Copies stdin to a path in a sprite.
pub(crate) async fn push_from_stdin(
    sprite: &SpriteClient,
    dest: &str,
    options: Options,
) -> anyhow::Result<()> {
    let target = target(sprite, dest, None, options).await?;
    let content = stream::unfold(read_stdin(), async |mut pieces| {
        pieces.recv().await.map(|piece| (Ok(piece), pieces))
    });
    write(sprite, "stdin", &target, content, &write_options(options)).await
}

fn write_options(options: Options) -> WriteOptions {
    WriteOptions {
        working_dir: Some(HOME.to_owned()),
        parents: options.parents,
        ..WriteOptions::default()
    }
}

async fn write(
    sprite: &SpriteClient,
    name: &str,
    target: &str,
    content: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    options: &WriteOptions,
) -> anyhow::Result<()> {
    let progress = Progress::start(name, options.length);
    let counter = progress.clone();
    let content = content.inspect(move |piece| {
        if let Ok(piece) = piece {
            counter.add(piece.len());
        }
    });
    match sprite.write_file(target, options, content).await {
        Err(error) if is_missing(&error) && !options.parents => {
            Err(error).hint("--parents creates missing directories")
        }
        result => {
            result?;
            Ok(())
        }
    }
}

fn is_missing(error: &sprite_client::Error) -> bool {
    error.refusal().is_some_and(|refusal| refusal.error.code.as_deref() == Some("ENOENT"))
}

/// Decides where a file goes: into `dest` if that is a directory, else to `dest`.
async fn target(
    sprite: &SpriteClient,
    dest: &str,
    name: Option<&str>,
    options: Options,
) -> anyhow::Result<String> {
    let is_dir = match stat(sprite, dest).await? {
        Kind::Directory => true,
        Kind::File(_) if dest.ends_with('/') => bail!("`{dest}` is not a directory"),
        Kind::Missing if dest.ends_with('/') && !options.parents => {
            return Err(anyhow!("`{dest}`: no such directory in `{}`", sprite.name()))
                .hint("--parents creates missing directories");
        }
        Kind::Missing => dest.ends_with('/'),
        Kind::File(_) => false,
    };
    match (is_dir, name) {
        (false, _) if remote_name(dest).is_none() => bail!("`{dest}` names no file"),
        (false, _) => Ok(dest.to_owned()),
        (true, Some(name)) => {
            let target = remote_join(dest, name);
            match stat(sprite, &target).await? {
                Kind::Directory => bail!("`{target}` is a directory in `{}`", sprite.name()),
                _ => Ok(target),
            }
        }
        (true, None) => bail!("`{dest}` is a directory in `{}`", sprite.name()),
    }
}
