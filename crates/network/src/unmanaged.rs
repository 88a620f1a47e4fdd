//! Telling the host's network managers to leave our interfaces alone.
//!
//! The notes go below `/run`, so that they leave with us or at a reboot. A package may install
//! the same files for good; see `packaging/`.

use std::fs;
use std::io;
use std::path::Path;

use tracing::warn;

use crate::command::{self, Tool};
use crate::settings::RUNTIME_DIR;

/// A note to a program.
struct Note {
    /// Where the note goes, below the folder of runtime files.
    file: &'static str,
    text: &'static str,
    /// Exists once the program runs, there too. A package may bring the folder alone.
    sign_of_life: &'static str,
    /// What makes the program read it; udev looks by itself.
    reload: Option<(Tool, &'static [&'static str])>,
}

const NOTES: &[Note] = &[
    Note {
        file: "NetworkManager/conf.d/90-sprites.conf",
        text: include_str!("../../../packaging/networkmanager/90-sprites.conf"),
        sign_of_life: "NetworkManager",
        reload: Some((Tool::Nmcli, &["general", "reload", "conf"])),
    },
    Note {
        file: "systemd/network/05-sprites.network",
        text: include_str!("../../../packaging/networkd/05-sprites.network"),
        sign_of_life: "systemd/netif/state",
        reload: Some((Tool::Networkctl, &["reload"])),
    },
    Note {
        file: "systemd/network/05-sprites.link",
        text: include_str!("../../../packaging/networkd/05-sprites.link"),
        sign_of_life: "udev",
        reload: None,
    },
];

/// Leaves a note for each program that runs. Failing is worth a warning only: most hosts have
/// no rule that would catch our interfaces anyway.
pub(crate) async fn ensure(runtime_dir: &Path) {
    for note in NOTES {
        if !runtime_dir.join(note.sign_of_life).exists() {
            continue;
        }
        let path = runtime_dir.join(note.file);
        if fs::read_to_string(&path).is_ok_and(|text| text == note.text) {
            continue;
        }
        match write(&path, note.text) {
            Ok(()) => reload(runtime_dir, note).await,
            Err(error) => warn!(path = %path.display(), %error, "note not written"),
        }
    }
}

/// Takes the notes away again.
pub(crate) async fn remove(runtime_dir: &Path) {
    for note in NOTES {
        if fs::remove_file(runtime_dir.join(note.file)).is_ok() {
            reload(runtime_dir, note).await;
        }
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text)
}

async fn reload(runtime_dir: &Path, note: &Note) {
    if let Some((tool, arguments)) = note.reload
        && runtime_dir == Path::new(RUNTIME_DIR)
        && tool.exists()
        && let Err(error) = command::run(tool, arguments, "", "reload the settings").await
    {
        warn!(%error, "a network manager did not take our note");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn notes_are_for_programs_that_run_and_go_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("systemd/netif")).unwrap();
        ensure(dir.path()).await;
        assert!(!dir.path().join("systemd/network").exists(), "no networkd runs");
        fs::write(dir.path().join("systemd/netif/state"), "").unwrap();
        ensure(dir.path()).await;
        assert!(dir.path().join("systemd/network/05-sprites.network").exists());
        assert!(!dir.path().join("systemd/network/05-sprites.link").exists(), "no udev");
        assert!(!dir.path().join("NetworkManager").exists());
        remove(dir.path()).await;
        assert!(!dir.path().join("systemd/network/05-sprites.network").exists());
    }

    #[test]
    fn notes_speak_of_every_interface_of_ours() {
        for note in NOTES {
            assert!(note.text.contains("spr*"), "{}", note.file);
        }
    }
}
