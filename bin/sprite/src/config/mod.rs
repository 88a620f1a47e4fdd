//! What the client remembers: tokens (`~/.sprites/sprites.json`) and a directory's sprite
//! (`.sprite`).

mod data;
mod file;
mod project;
mod resolve;

pub(crate) use data::Config;
pub(crate) use file::ConfigFile;
pub(crate) use project::{Project, ProjectFile};
pub(crate) use resolve::{Inputs, resolve_account, resolve_sprite, split_org};

/// The API address when nothing else names one; `sprited` listens there unless told otherwise.
pub(crate) const DEFAULT_API_URL: &str = match option_env!("SPRITES_DEFAULT_API_URL") {
    Some(url) => url,
    None => "http://127.0.0.1:7780",
};

/// Makes equal addresses equal texts.
pub(crate) fn normal_url(url: &str) -> String {
    url.trim().trim_end_matches('/').to_owned()
}
