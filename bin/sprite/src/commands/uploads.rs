//! `exec --file src:dest`: files that must be there before the command starts.

use std::os::unix::fs::PermissionsExt;

use anyhow::Context as _;
use sprite_client::SpriteClient;
use sprite_client::files::WriteOptions;
use tokio_util::io::ReaderStream;

use crate::report::{Usage, WithHint};

/// Where relative paths begin unless the command has another directory.
const HOME: &str = "/home/sprite";

/// A file to copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Upload {
    source: String,
    dest: String,
}

/// Reads `src:dest`.
pub(super) fn parse(text: &str) -> anyhow::Result<Upload> {
    match text.split_once(':') {
        Some((source, dest)) if !source.is_empty() && !dest.is_empty() => {
            Ok(Upload { source: source.to_owned(), dest: dest.to_owned() })
        }
        _ => Err(Usage(format!("`--file {text}` is not of the form SRC:DEST")))
            .hint("--file local.txt:/path/in/the/sprite.txt"),
    }
}

/// Copies the files, one after the other.
pub(super) async fn send(
    sprite: &SpriteClient,
    uploads: &[Upload],
    dir: Option<&str>,
) -> anyhow::Result<()> {
    for Upload { source, dest } in uploads {
        let file = tokio::fs::File::open(source).await;
        let file = file.with_context(|| format!("open `{source}`"))?;
        let metadata = file.metadata().await.with_context(|| format!("read `{source}`"))?;
        if metadata.is_dir() {
            return Err(anyhow::anyhow!("`{source}` is a directory"))
                .hint("`sprite cp -r` copies directories");
        }
        let options = WriteOptions {
            working_dir: Some(dir.unwrap_or(HOME).to_owned()),
            mode: Some(metadata.permissions().mode() & 0o777),
            parents: true,
            // A pipe has no length.
            length: metadata.is_file().then_some(metadata.len()),
            ..WriteOptions::default()
        };
        let content = ReaderStream::with_capacity(file, 64 * 1024);
        sprite.write_file(dest, &options, content).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_have_a_source_and_a_destination() {
        let upload = parse("a.txt:/b:c").unwrap();
        assert_eq!((upload.source.as_str(), upload.dest.as_str()), ("a.txt", "/b:c"));
        for bad in ["", "a", ":b", "a:"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
