//! Where `sprites.json` lies, and how it changes: whole, for its owner only.
//!
//! # Invariants
//! - Readers see the old content or the new one, never a part: written beside, then renamed.
//! - Changes of two clients at the same time both take effect: made under a lock.
//! - The file is 0600, its directory 0700.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};

use super::Config;

/// The client's own file.
#[derive(Clone, Debug)]
pub(crate) struct ConfigFile {
    dir: PathBuf,
}

impl ConfigFile {
    /// Returns the file below a home directory.
    pub(crate) fn below(home: &Path) -> Self {
        Self { dir: home.join(".sprites") }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join("sprites.json")
    }

    /// Reads the file. One that does not exist is empty; a legacy one is read in its place.
    pub(crate) fn load(&self) -> anyhow::Result<Config> {
        for path in [self.path(), self.dir.join("config.json")] {
            match std::fs::read_to_string(&path) {
                Ok(text) if text.trim().is_empty() => return Ok(Config::default()),
                Ok(text) => {
                    return Config::from_json(&text)
                        .with_context(|| format!("read `{}`", path.display()));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("read `{}`", path.display()));
                }
            }
        }
        Ok(Config::default())
    }

    /// Changes the file.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Config) -> T) -> anyhow::Result<T> {
        let _lock = self.lock()?;
        let mut config = self.load()?;
        let result = change(&mut config);
        self.write(&config).with_context(|| format!("write `{}`", self.path().display()))?;
        Ok(result)
    }

    /// Removes the file; returns whether there was one.
    pub(crate) fn remove(&self) -> anyhow::Result<bool> {
        let mut found = false;
        for path in [self.path(), self.dir.join("config.json")] {
            match std::fs::remove_file(&path) {
                Ok(()) => found = true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("remove `{}`", path.display()));
                }
            }
        }
        Ok(found)
    }

    fn lock(&self) -> anyhow::Result<File> {
        let make = || -> io::Result<File> {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
            std::fs::set_permissions(&self.dir, Permissions::from_mode(0o700))?;
            let lock = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(self.dir.join(".lock"))?;
            flock(&lock, FlockOperation::LockExclusive)?;
            Ok(lock)
        };
        make().with_context(|| format!("prepare `{}`", self.dir.display()))
    }

    fn write(&self, config: &Config) -> io::Result<()> {
        // A link to elsewhere stays one.
        let path = self.path();
        let path = path.canonicalize().unwrap_or(path);
        let dir = path.parent().unwrap_or(&self.dir);
        // Temporary files are 0600 from the start.
        let mut file = tempfile::Builder::new().prefix(".sprites.").tempfile_in(dir)?;
        file.write_all(config.to_json().as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_file_is_for_its_owner_only() {
        let home = tempfile::tempdir().unwrap();
        let file = ConfigFile::below(home.path());
        assert_eq!(file.load().unwrap(), Config::default());
        file.update(|config| config.store("http://h", None, "o", "o/t")).unwrap();
        assert_eq!(mode(&file.path()), 0o600);
        assert_eq!(mode(file.path().parent().unwrap()), 0o700);
        assert!(file.load().unwrap().has_org("http://h", "o"));
        assert!(file.remove().unwrap());
        assert!(!file.remove().unwrap());
    }

    #[test]
    fn permissions_are_tightened_and_links_kept() {
        let home = tempfile::tempdir().unwrap();
        let file = ConfigFile::below(home.path());
        let elsewhere = home.path().join("dotfiles.json");
        std::fs::write(&elsewhere, "{\"mine\":1}").unwrap();
        std::fs::set_permissions(&elsewhere, Permissions::from_mode(0o644)).unwrap();
        std::fs::create_dir(home.path().join(".sprites")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, file.path()).unwrap();
        file.update(|config| config.store("http://h", None, "o", "o/t")).unwrap();
        assert!(file.path().is_symlink());
        assert_eq!((mode(&elsewhere), mode(&home.path().join(".sprites"))), (0o600, 0o700));
        assert!(std::fs::read_to_string(&elsewhere).unwrap().contains("mine"));
    }

    #[test]
    fn a_legacy_file_is_read_and_a_broken_one_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let file = ConfigFile::below(home.path());
        std::fs::create_dir(home.path().join(".sprites")).unwrap();
        let legacy = r#"{"urls":{"http://h":{"orgs":{"o":{"api_token":"o/t"}}}}}"#;
        std::fs::write(home.path().join(".sprites/config.json"), legacy).unwrap();
        assert!(file.load().unwrap().has_org("http://h", "o"));
        std::fs::write(file.path(), "{broken").unwrap();
        assert!(file.update(|_| ()).is_err());
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "{broken");
    }

    #[test]
    fn changes_at_the_same_time_all_take_effect() {
        let home = tempfile::tempdir().unwrap();
        let file = ConfigFile::below(home.path());
        std::thread::scope(|scope| {
            for n in 0..8 {
                let file = &file;
                scope.spawn(move || {
                    file.update(|config| config.store("http://h", None, &format!("o{n}"), "t"))
                        .unwrap();
                });
            }
        });
        assert_eq!(file.load().unwrap().orgs("http://h").len(), 8);
    }
}
