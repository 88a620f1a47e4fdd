//! What a path in a sprite is.

use sprite_api::fs::Entry;
use sprite_client::SpriteClient;
use sprite_client::files::{FileOptions, own_entry};
use sprite_types::ErrorKind;

use super::HOME;

/// What a path in a sprite is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Missing,
    File(Entry),
    Directory,
}

pub(super) fn from_home() -> FileOptions {
    FileOptions { working_dir: Some(HOME.to_owned()), ..FileOptions::default() }
}

/// Looks at a path in a sprite.
pub(crate) async fn stat(sprite: &SpriteClient, path: &str) -> anyhow::Result<Kind> {
    match sprite.list_files(path, &from_home()).await {
        Ok(listing) => Ok(match own_entry(&listing) {
            Some(entry) if !entry.is_dir => Kind::File(entry.clone()),
            _ => Kind::Directory,
        }),
        Err(error) if error.kind() == ErrorKind::NotFound && is_about_a_file(&error) => {
            Ok(Kind::Missing)
        }
        Err(error) => Err(error.into()),
    }
}

/// Tells a missing file from a missing sprite.
fn is_about_a_file(error: &sprite_client::Error) -> bool {
    error.refusal().is_some_and(|refusal| refusal.error.code.is_some())
}
