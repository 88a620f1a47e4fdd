//! Who this host is, and the programs beside ours.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use sprite_types::HostId;

#[derive(Serialize, Deserialize)]
struct HostFile {
    host_id: HostId,
}

/// Returns this data folder's host id, made at its first use.
pub(crate) fn host_id(data_dir: &Path) -> anyhow::Result<HostId> {
    let path = data_dir.join("host.json");
    match std::fs::read(&path) {
        Ok(bytes) => {
            let file: HostFile = serde_json::from_slice(&bytes)
                .with_context(|| format!("read the host's id from `{}`", path.display()))?;
            Ok(file.host_id)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let file = HostFile { host_id: HostId::generate() };
            let unfinished = path.with_extension("unfinished");
            std::fs::write(&unfinished, serde_json::to_vec(&file)?)
                .and_then(|()| std::fs::rename(&unfinished, &path))
                .with_context(|| format!("write the host's id to `{}`", path.display()))?;
            Ok(file.host_id)
        }
        Err(error) => {
            Err(error).with_context(|| format!("read the host's id from `{}`", path.display()))
        }
    }
}

/// Finds one of our programs beside this one.
pub(crate) fn program(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("find this program's own file")?;
    let path = own.with_file_name(name);
    if !path.is_file() {
        bail!("`{name}` is not beside `{}`: build all programs with script/build", own.display());
    }
    Ok(path)
}
